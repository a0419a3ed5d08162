"""Nets whose sizes come from their inputs: what they are, and how they are made concrete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from funcnet._context import outside_transforms
from funcnet._errors import InitError
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree
from funcnet.core._body_errors import explain_error
from funcnet.core._draw_source import Call, call_and_path, describe_view
from funcnet.core._entries import Param
from funcnet.core._net import Net
from funcnet.core._view import View
from funcnet.random import Stream
from funcnet.tree import join, unflatten


class Lazy(Net):
    """A net whose tensors are unknown until it sees an input; ``net.init(rng, example_inputs=...)`` shows it one.

    It declares no tensors. A subclass says in :meth:`concrete` which net it becomes.

    >>> import funcnet as fn
    >>> net, params, buffers = fn.LazyLinear(3).init(0, example_inputs=torch.ones(1, 5))
    >>> isinstance(fn.LazyLinear(3), Lazy), net
    (True, Linear(in_features=5, out_features=3, bias=True))
    """

    def concrete(self, *inputs: Any, **kwargs: Any) -> Net:
        """The net for inputs of these shapes; they are on the meta device."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it becomes: define concrete(*inputs).")

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        call, path = call_and_path(p)
        nets = call.concrete_nets
        if nets is None:
            raise InitError(f"{describe_view(p)} has no shape yet. {SHOW_INPUTS}")
        if path not in nets:
            nets[path] = self.concrete(*inputs, **kwargs)
        net = nets[path]
        return net.apply(*_make_meta_trees(net, nets.dtype), *inputs, **kwargs, rng=0)[0]


SHOW_INPUTS = "net, params, buffers = net.init(rng, example_inputs=(x,)) gives the concrete net."


class ConcreteNets(dict[str, Net]):
    """The nets that lazy nets became, by path, and the dtype that their params are to have."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype


def find_concrete_nets(net: Net, example_inputs: Any, dtype: torch.dtype | None) -> ConcreteNets:
    """The nets that lazy nets become, by path, in the order in which they are called; no numbers are computed.

    Args:
        net: the net that holds them.
        example_inputs: what it is called with: a tuple of inputs, or a single tensor; only shapes and dtypes matter.
        dtype: as in ``net.init``.

    Raises:
        InitError: if one of them is not called.
    """
    inputs = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    concrete_nets = ConcreteNets(dtype)
    prepared = net._prepared()
    with outside_transforms(), torch.no_grad(), torch.device("meta"):
        inputs = pytree.tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, inputs)
        params, buffers = _make_meta_trees(net, dtype)
        view = prepared.open_view(prepared.view_class, params, buffers, Call(False, Stream(0), concrete_nets))
        try:
            view(*inputs)
        except Exception as error:
            explained = explain_error(prepared, params, error)
            if explained is error:
                raise
            raise explained from error
    lazy_paths = [path for path, child in net.named_nets() if isinstance(child, Lazy)]
    uncalled = [path for path in lazy_paths if path not in concrete_nets]
    if uncalled:
        raise InitError(
            f"{', '.join(map(repr, uncalled))} got no input from these example_inputs, and have no shape yet."
        )
    return concrete_nets


def _make_meta_trees(net: Net, dtype: torch.dtype | None) -> tuple[Tree, Tree]:
    """Params and buffers on the meta device."""
    params: Flat = {}
    buffers: Flat = {}
    for path, child in net.named_nets():
        for name, spec in child._own_entries.items():
            tensor_dtype = spec.dtype or dtype or getattr(child, "dtype", None)
            flat = params if isinstance(spec, Param) else buffers
            flat[join(path, name)] = torch.empty(spec.shape, dtype=tensor_dtype, device="meta")
    return unflatten(params), unflatten(buffers)
