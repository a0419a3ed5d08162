"""Half precision, complex numbers and memory layouts: where the module takes them, the net gives the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import funcnet as fn
from tests.cases import LAYER_CASES
from tests.helpers import assert_identical, buffers_of, clone, parametrize, params_of

MODES = [False, True]


def run(work: Any) -> Any:
    """The result of ``work()``, or the error it ends in."""
    torch.manual_seed(7)
    try:
        return work()
    except Exception as error:
        return error


def gradients(output: Any, tensors: list[Tensor]) -> list[Tensor | None]:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    ones = [torch.ones_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(leaves, tensors, ones, allow_unused=True)) if leaves and tensors else []


def compare(case: Any, dtype: torch.dtype, train: bool, change: Any) -> None:
    """Module and net on the same inputs: the same outputs, buffers and gradients, or both refuse."""
    module = case.module()
    module = run(lambda: module.to(dtype).train(train))
    if isinstance(module, Exception):
        pytest.skip(f"the module has no {dtype}")
    net = case.net()

    def alter(x: Any) -> Any:
        return change(x.to(dtype) if x.is_floating_point() else x) if isinstance(x, Tensor) else x

    xs = tree_map(alter, case.inputs())
    params, buffers = clone(params_of(module)), clone(buffers_of(module))
    leaves = fn.tree.flatten(params)
    for leaf in leaves.values():
        leaf.requires_grad_()
    result = run(lambda: net.apply(params, buffers, *xs, **case.call, train=train, rng=7))
    expected = run(lambda: module(*xs, **case.call))  # last, as it may write to them; a copy would be contiguous
    if isinstance(expected, NotImplementedError) and "bernoulli" in str(expected):
        assert not isinstance(result, Exception)
        pytest.skip("torch drops no complex elements before 2.15")
    assert isinstance(result, Exception) == isinstance(expected, Exception), f"{result}\n{expected}"
    if isinstance(result, Exception):
        return
    assert_identical(result[0], expected)
    assert_identical(result[1], buffers_of(module))
    ours = run(lambda: gradients(result[0], list(leaves.values())))
    theirs = run(lambda: gradients(expected, list(module.parameters())))
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception)
    else:
        assert_identical(ours, theirs)


@pytest.mark.filterwarnings("ignore")
@parametrize(case=LAYER_CASES, dtype=[torch.float16, torch.bfloat16, torch.complex64], train=MODES)
def test_other_dtypes(case, dtype, train):
    compare(case, dtype, train, lambda x: x)


def strided(x: Tensor) -> Tensor:
    """The same values, every other element of a larger tensor whose axes are stored in reverse."""
    wide = x.new_zeros([2 * size for size in reversed(x.shape)])
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)].permute(tuple(reversed(range(x.dim()))))
    return view.copy_(x)


@pytest.mark.filterwarnings("ignore")
@parametrize(case=LAYER_CASES, train=MODES)
def test_inputs_that_are_not_contiguous(case, train):
    compare(case, torch.float32, train, strided)
