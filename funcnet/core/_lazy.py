"""Nets whose sizes come from their inputs: what they are, and how they are made concrete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from funcnet._context import outside_transforms
from funcnet._errors import InitError
from funcnet._typing import Tree
from funcnet.core._entries import Param
from funcnet.core._explain import explain_error
from funcnet.core._net import Net
from funcnet.core._view import Call, View, call_and_path, describe_place
from funcnet.random import Stream
from funcnet.tree import join, unflatten


class Lazy(Net):
    """A net that is not known in full before it has seen an input; ``net.init(rng, example_inputs=...)`` shows it one.

    It declares no tensors. A subclass says in :meth:`concrete` which net it becomes.
    """

    def concrete(self, *inputs: Any, **kwargs: Any) -> Net:
        """The net for inputs of these shapes; they are on the meta device."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it becomes: define concrete(*inputs).")

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        call, path = call_and_path(p)
        if call.found is None:
            raise InitError(f"{describe_place(p)} has no shape yet. {SHOW_INPUTS}")
        if path not in call.found:
            call.found[path] = self.concrete(*inputs, **kwargs)
        net = call.found[path]
        return net.apply(*_shapes_of(net, call.found.dtype), *inputs, **kwargs, rng=0)[0]


SHOW_INPUTS = "net, params, buffers = net.init(rng, example_inputs=(x,)) gives the concrete net."


class ConcreteNets(dict[str, Net]):
    """What lazy nets became, by path, and the dtype that params are to have."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype


def find_concrete_nets(net: Net, example_inputs: Any, dtype: torch.dtype | None) -> ConcreteNets:
    """What each lazy net becomes, by path, in the order in which they are called; nothing is computed.

    Args:
        net: the net that holds them.
        example_inputs: what it is called with: a tuple of inputs, or a single tensor; only shapes and dtypes matter.
        dtype: as in ``net.init``.

    Raises:
        InitError: if one of them is not called.
    """
    inputs = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    found = ConcreteNets(dtype)
    program = net._program()
    with outside_transforms(), torch.no_grad(), torch.device("meta"):
        inputs = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, inputs)
        params, buffers = _shapes_of(net, dtype)
        view = program.open_view(program.view_class, params, buffers, Call(False, Stream(0), found))
        try:
            view(*inputs)
        except Exception as error:
            explained = explain_error(program, params, error)
            if explained is error:
                raise
            raise explained from error
    missed = [path for path, below in net.named_nets() if isinstance(below, Lazy) and path not in found]
    if missed:
        raise InitError(
            f"{', '.join(map(repr, missed))} got no input from these example_inputs, and have no shape yet."
        )
    return found


def _shapes_of(net: Net, dtype: torch.dtype | None) -> tuple[Tree, Tree]:
    """Params and buffers without content."""
    params: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for path, below in net.named_nets():
        for name, spec in below._own_entries.items():
            exact = spec.dtype or dtype or getattr(below, "dtype", None)
            made = torch.empty(spec.shape, dtype=exact, device="meta")
            (params if isinstance(spec, Param) else buffers)[join(path, name)] = made
    return unflatten(params), unflatten(buffers)
