"""What a module and the code written for it do on the same inputs, compared bit by bit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from funcnet._tensors import is_inexact, iter_tensors, same_bits
from funcnet._torch import pytree
from funcnet._typing import TreeLike
from funcnet.foreign.internals import copy_with_tensors
from funcnet.program._capture import require_gradients
from funcnet.random import Stream
from funcnet.random.internals import DrawInterceptor, read_torch_state, restore_torch_state
from funcnet.tree import flatten
from funcnet.tree import map as map_tree

T = TypeVar("T")
Observation = dict[str, Any]
"""The output, the new buffers and the gradients of a call."""


def observe_module(module: nn.Module, train: bool, args: Sequence[object], kwargs: Mapping[str, object]) -> Observation:
    """What a module does itself, on a copy of it that draws from the seed 0."""
    state, stream = read_torch_state(), Stream(0)
    try:
        observation = _observe_copy(module, train, args, kwargs, DrawInterceptor(lambda: stream))
        if torch.equal(state, read_torch_state()):
            return observation
        torch.default_generator.manual_seed(0)  # it draws by a function that cannot be intercepted
        return _observe_copy(module, train, args, kwargs, contextlib.nullcontext())
    finally:
        if not torch.equal(state, read_torch_state()):
            restore_torch_state(state)


def _observe_copy(
    module: nn.Module,
    train: bool,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    draws: contextlib.AbstractContextManager[object],
) -> Observation:
    copy = copy_with_tensors(module, _clone_leaf, "trace compares its code with a copy of the module")
    require_gradients(copy)
    for submodule in copy.modules():
        submodule.training = train
    names = list(dict(copy.named_buffers()))
    args, kwargs = clone_tensors((args, dict(kwargs)))
    with torch.enable_grad(), draws:
        output = copy(*args, **kwargs)
    params = {name: param for name, param in copy.named_parameters() if param.requires_grad}
    return _observation(output, {name: now for name, now in copy.named_buffers() if name in names}, params)


def _clone_leaf(tensor: Tensor) -> Tensor:
    """A clone that is a leaf of autograd, as the parameters of a module are: autocast keeps casts of leaves alone."""
    clone = tensor.detach().clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone


def observe_function(call: Callable[[TreeLike], tuple[object, TreeLike]], params: TreeLike) -> Observation:
    """What a function of params does, which gives an output and new buffers."""
    leaves = map_tree(lambda leaf: leaf.detach().requires_grad_(is_inexact(leaf)), params)
    with torch.enable_grad():
        output, buffers = call(leaves)
    differentiable = {path: leaf for path, leaf in flatten(leaves).items() if leaf.requires_grad}
    return _observation(output, flatten(buffers), differentiable)


def clone_tensors(value: T) -> T:
    """The same with clones of its tensors; one that occurs twice stays one."""
    clones: dict[int, Tensor] = {}
    result: T = pytree.tree_map_only(Tensor, lambda leaf: clones.setdefault(id(leaf), leaf.clone()), value)
    return result


def _observation(output: object, buffers: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Observation:
    """The gradients weigh every output differently, so that exchanged outputs show."""
    observation: Observation = {"output": output, "buffers": dict(buffers)}
    outputs = [leaf for leaf in iter_tensors(output) if leaf.requires_grad]
    if outputs and params:
        weights = [torch.linspace(0.5, 1.5, leaf.numel()).view(leaf.shape).to(leaf) for leaf in outputs]
        try:
            grads = torch.autograd.grad(outputs, list(params.values()), weights, allow_unused=True)
        except RuntimeError:  # it writes over what its gradients need
            observation["gradients"] = None
        else:
            observation["gradients"] = dict(zip(params, grads, strict=True))
    return observation


def compare_with_module(observation: Observation, expected: Observation) -> list[Mismatch]:
    """How what code does differs from what the module does; code may have gradients where the module has none."""
    if expected.get("gradients", {}) is None:
        observation = {**observation, "gradients": None}
    return list(find_differences(observation, expected))


class Mismatch(NamedTuple):
    """One place in which two outputs differ.

    Attributes:
        text: the place, and how it differs.
        distance: the largest distance of two numbers there; None where they differ in more than rounding.
    """

    text: str
    distance: float | None = None


def find_differences(left: object, right: object, path: str = "") -> Iterator[Mismatch]:
    """Where two outputs differ in structure, dtype, shape or bits; a NaN equals any other NaN."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            text = f"{path}: {tuple(left.shape)} {left.dtype} against {tuple(right.shape)} {right.dtype}"
            yield Mismatch(text)
        elif not same_bits(left, right):
            yield _describe_mismatch(left, right, path)
    elif type(left) is not type(right):
        yield Mismatch(f"{path}: {type(left).__name__} against {type(right).__name__}")
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        if list(left) != list(right):
            yield Mismatch(f"{path}: keys {list(left)} against {list(right)}")
        else:
            for key in left:
                yield from find_differences(left[key], right[key], f"{path}[{key!r}]")
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        if len(left) != len(right):
            yield Mismatch(f"{path}: {len(left)} items against {len(right)}")
        else:
            for index, items in enumerate(zip(left, right, strict=True)):
                yield from find_differences(*items, f"{path}[{index}]")
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            yield from find_differences(getattr(left, field.name), getattr(right, field.name), f"{path}.{field.name}")
    elif left != right and not (left != left and right != right):
        yield Mismatch(f"{path}: {left!r:.40} against {right!r:.40}")


def _describe_mismatch(left: Tensor, right: Tensor, path: str) -> Mismatch:
    """How two tensors of one dtype and shape differ, and whether rounding may explain it.

    Rounding grows with the length of sums, so it is what is below the square root of the dtype's precision, beside the
    largest number of the tensor: 3e-4 of it in float32.
    """
    text = f"{path}: {int((left != right).sum())} of {left.numel()} elements"
    if not is_inexact(left):
        return Mismatch(text)
    wide = torch.complex128 if left.is_complex() else torch.float64
    left_wide, right_wide = left.detach().to(wide), right.detach().to(wide)
    distance, size = float((left_wide - right_wide).abs().max()), float(right_wide.abs().max())
    is_rounding = distance <= size * torch.finfo(left.dtype).eps ** 0.5  # false for a NaN
    text = f"{text}, by up to {distance:.2g}; the largest is {size:.2g}"
    return Mismatch(text, distance if is_rounding else None)
