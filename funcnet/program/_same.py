"""What a module and the code captured from it do on the same inputs, compared bit by bit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from funcnet._typing import TreeLike
from funcnet.core import Net
from funcnet.foreign.internals import copy_with_tensors
from funcnet.program._capture import differentiable
from funcnet.random import Stream
from funcnet.random.internals import DrawInterceptor, read_torch_state, restore_torch_state
from funcnet.tree import flatten
from funcnet.tree import map as map_tree


def of_module(module: nn.Module, train: bool, args: Any, kwargs: Any) -> dict[str, Any]:
    """Output, new buffers and gradients of a module itself, on a copy of it that draws from the seed 0."""
    state, stream = read_torch_state(), Stream(0)
    try:
        found = _of_copy(module, train, args, kwargs, DrawInterceptor(lambda: stream))
        if torch.equal(state, read_torch_state()):
            return found
        torch.default_generator.manual_seed(0)  # it draws by a function that cannot be intercepted
        return _of_copy(module, train, args, kwargs, contextlib.nullcontext())
    finally:
        if not torch.equal(state, read_torch_state()):
            restore_torch_state(state)


def _of_copy(module: nn.Module, train: bool, args: Any, kwargs: Any, drawing: Any) -> dict[str, Any]:
    copy = differentiable(copy_with_tensors(module, torch.clone, "trace compares its code with a copy of the module"))
    for below in copy.modules():
        below.training = train
    names = list(dict(copy.named_buffers()))
    args, kwargs = copies((args, dict(kwargs)))
    with torch.enable_grad(), drawing:
        output = copy(*args, **kwargs)
    params = {name: param for name, param in copy.named_parameters() if param.requires_grad}
    return _found(output, {name: now for name, now in copy.named_buffers() if name in names}, params)


def copies(given: Any) -> Any:
    """The same with copies of its tensors; one that is given twice stays one."""
    made: dict[int, Tensor] = {}
    return tree_map_only(Tensor, lambda leaf: made.setdefault(id(leaf), leaf.clone()), given)


def of_net(net: Net, params: TreeLike, buffers: TreeLike, train: bool, args: Any, kwargs: Any) -> dict[str, Any]:
    """The same of a net."""
    leaves = map_tree(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point() or leaf.is_complex()), params)
    with torch.enable_grad():
        output, new = net.apply(leaves, buffers, *args, train=train, rng=0, **kwargs)
    return _found(output, flatten(new), {path: leaf for path, leaf in flatten(leaves).items() if leaf.requires_grad})


def _found(output: Any, buffers: dict[str, Tensor], params: Mapping[str, Tensor]) -> dict[str, Any]:
    """Every output weighs differently in the gradients."""
    found: dict[str, Any] = {"output": output, "buffers": buffers}
    reached = [leaf for leaf in _tensors(output) if leaf.requires_grad]
    if reached and params:
        weights = [torch.linspace(0.5, 1.5, leaf.numel()).view(leaf.shape).to(leaf) for leaf in reached]
        try:
            grads = torch.autograd.grad(reached, list(params.values()), weights, allow_unused=True)
        except RuntimeError:  # it writes over what its gradients need, and so must the code
            found["gradients"] = "cannot be computed"
        else:
            found["gradients"] = dict(zip(params, grads, strict=True))
    return found


def _tensors(output: Any) -> list[Tensor]:
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping)):
        return [leaf for field in dataclasses.fields(output) for leaf in _tensors(getattr(output, field.name))]
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Where two outputs differ in structure, dtype, shape or bits; any NaN is any NaN."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            yield f"{path}: {tuple(left.shape)} {left.dtype} against {tuple(right.shape)} {right.dtype}"
        elif not bool(((left == right) | ((left != left) & (right != right))).all()):
            yield f"{path}: {int((left != right).sum())} of {left.numel()} elements"
    elif type(left) is not type(right):
        yield f"{path}: {type(left).__name__} against {type(right).__name__}"
    elif isinstance(left, Mapping):
        if list(left) != list(right):
            yield f"{path}: keys {list(left)} against {list(right)}"
        else:
            for key in left:
                yield from differences(left[key], right[key], f"{path}[{key!r}]")
    elif isinstance(left, (list, tuple)):
        if len(left) != len(right):
            yield f"{path}: {len(left)} items against {len(right)}"
        else:
            for index, (one, other) in enumerate(zip(left, right, strict=True)):
                yield from differences(one, other, f"{path}[{index}]")
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            yield from differences(getattr(left, field.name), getattr(right, field.name), f"{path}.{field.name}")
    elif left != right and not (left != left and right != right):
        yield f"{path}: {left!r:.40} against {right!r:.40}"
