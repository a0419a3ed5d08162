"""Which transforms a net supports: known before it is called, and refused by name before torch fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from funcnet._context import transform_levels, under_transform
from funcnet._errors import TransformError
from funcnet._torch import pytree
from funcnet.core._draw_source import describe_view
from funcnet.core._view import View

if TYPE_CHECKING:
    from funcnet.core._net import Net

TRANSFORMS: Mapping[str, str] = {
    "grad": "torch.func.grad, or a backward pass",
    "vmap": "torch.vmap over the inputs",
    "vmap(grad)": "per-sample gradients: torch.vmap of torch.func.grad",
    "jvp": "torch.func.jvp, forward-mode derivatives",
    "hessian": "torch.func.hessian, or torch.func.grad of torch.func.grad",
    "ensemble": "torch.vmap over params and buffers",
    "compile": "torch.compile(fullgraph=True)",
    "export": "torch.export",
}
"""The transforms a layer is tested under, and what each stands for."""


def supports(net: Net | type[Net], transform: str, *, train: bool | None = None) -> bool:
    """Whether a net works under a transform.

    The answer comes from each layer's declaration; tests check these declarations. In a foreign forward (``Wrapped``,
    or a body of your own), only its stock layers are considered. The functions of torch that it calls itself are
    composed where their kernels lack a rule: attention, recurrent layers, norms and losses.

    Args:
        net: a net, or the class of a layer for what it does with its default options.
        transform: one of "grad", "vmap", "vmap(grad)", "jvp", "hessian", "ensemble", "compile", "export".
        train: the mode asked about; None for both.

    Raises:
        ValueError: if no transform has this name.

    >>> import funcnet as fn
    >>> fn.supports(fn.Linear(2, 3), "vmap"), fn.supports(fn.BatchNorm1d, "vmap", train=True)
    (True, True)
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"{transform!r} is no transform of the table; those are {', '.join(map(repr, TRANSFORMS))}.")
    if isinstance(net, torch.nn.Module) or (isinstance(net, type) and issubclass(net, torch.nn.Module)):
        raise TypeError("supports answers for nets: net, params, buffers = funcnet.from_module(module).")
    modes = (False, True) if train is None else (train,)
    if isinstance(net, type):
        return not any(transform in net.limits(net, mode) for mode in modes)  # type: ignore[arg-type]
    return not any(transform in child.limits(mode) for _, child in net.named_nets() for mode in modes)


def refuse_transforms(net: Net, body: Callable[..., Any]) -> Callable[..., Any]:
    """The body of a net, which first refuses the transforms that its tensors are in and that it does not support."""
    limits = net._facts.limits
    names = tuple(net._own_entries)  # not the net: torch.compile cannot read a net from a closure

    def call(p: View, *inputs: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            active = {"export"} if torch.compiler.is_exporting() else set()
        elif under_transform():
            active = find_active_transforms((inputs, kwargs), [getattr(p, name) for name in names])
        else:
            active = set()
        for transform in active:
            if transform in limits[p.training]:
                way_out = limits[p.training][transform]
                raise TransformError(f"{describe_view(p)} cannot run under {transform}: {way_out}.")
        return body(p, *inputs, **kwargs)

    return call


def find_active_transforms(inputs: object, tensors: Iterable[object]) -> set[str]:
    """The transforms that the inputs of a call, or the tensors of its net, take part in, by the names of the table."""
    leaves = pytree.tree_leaves(inputs)
    input_levels = set().union(*[transform_levels(leaf) for leaf in leaves if isinstance(leaf, Tensor)])
    levels = input_levels.union(*[transform_levels(tensor) for tensor in tensors if isinstance(tensor, Tensor)])
    kinds = [kind for kind, _ in levels]
    active = set()
    differentiated = "grad" in kinds or "jvp" in kinds
    if "vmap" in kinds:
        over_inputs = any(kind == "vmap" for kind, _ in input_levels)
        active.add("vmap(grad)" if differentiated else "vmap" if over_inputs else "ensemble")
    if "jvp" in kinds:
        active.add("jvp")
    if kinds.count("grad") + kinds.count("jvp") > 1:
        active.add("hessian")
    if "grad" in kinds:
        active.add("grad")
    return active
