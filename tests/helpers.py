"""What the tests share: exact comparison, and cartesian products with readable names."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import funcnet as fn


def parametrize(is_slow: Callable[..., bool] = lambda *row: False, **axes: Any) -> Any:
    """Run a test for the product of the axes; ids are the names of cases, dtypes and flags.

    Args:
        is_slow: which rows are left to the sweep, called with the values of a row.
        axes: the values of each parameter.
    """
    names = list(axes)
    rows = [
        pytest.param(
            *row,
            id="-".join(_label(name, value) for name, value in zip(names, row, strict=True)),
            marks=[pytest.mark.slow] if is_slow(*row) else [],
        )
        for row in itertools.product(*axes.values())
    ]
    return pytest.mark.parametrize(",".join(names), rows)


def _label(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return str(named or value).removeprefix("torch.")


def assert_identical(left: Any, right: Any, path: str = "") -> None:
    """Same structure, keys in the same order, and tensors with the same dtype, shape and bits (any NaN is any NaN)."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        assert isinstance(left, Tensor) and isinstance(right, Tensor), f"{path}: {type(left)} against {type(right)}"
        assert left.dtype == right.dtype, f"{path}: {left.dtype} against {right.dtype}"
        assert left.shape == right.shape, f"{path}: {tuple(left.shape)} against {tuple(right.shape)}"
        same = (left == right) | (left.isnan() & right.isnan())
        assert bool(same.all()), f"{path}: {int((~same).sum())} of {left.numel()} elements differ"
    elif isinstance(left, Mapping):
        assert list(left) == list(right), f"{path}: keys {list(left)} against {list(right)}"
        for key in left:
            assert_identical(left[key], right[key], f"{path}[{key!r}]")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), f"{path}: {len(left)} items against {len(right)}"
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_identical(one, other, f"{path}[{index}]")
    else:
        assert left == right or (left != left and right != right), f"{path}: {left!r} against {right!r}"


def clone(tree: Any) -> Any:
    """A deep copy of tensors in dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: clone(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [clone(value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def params_of(module: nn.Module) -> dict[str, Any]:
    """A module's parameters as the tree funcnet expects."""
    return fn.tree.unflatten({name: param.detach() for name, param in module.named_parameters()})


def buffers_of(module: nn.Module) -> dict[str, Any]:
    """A module's buffers as the tree funcnet expects."""
    return fn.tree.unflatten(dict(module.named_buffers()))


def floats(output: Any) -> list[Tensor]:
    """The floating tensors in an output."""
    leaves = tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def total(output: Any) -> Tensor:
    """A scalar whose gradient tells outputs apart."""
    return sum(
        (leaf * torch.linspace(0.5, 1.5, leaf.numel(), dtype=leaf.dtype).view(leaf.shape)).sum()
        for leaf in floats(output)
    )


@contextlib.contextmanager
def global_generator_untouched() -> Iterator[None]:
    """Assert that the block leaves torch's global generator where it was."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator moved"


def str_with_notes(error: BaseException) -> str:
    """The message of an error and its notes, which are a part of the message in Python 3.10."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])
