"""Layers of equal form in stacked tensors: each tensor has one more axis in front, the number of the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from funcnet._typing import Tree, TreeLike
from funcnet.core import Body, Net, Param, View
from funcnet.core.internals import EMPTY_TREE, DelegatingNet
from funcnet.random import Stream


class LayerStack(DelegatingNet):
    """``count`` layers that are equal as nets, with their tensors stacked along a new first axis.

    A body loops over them as over a ModuleList: ``for layer in p.layers: x = layer(x)``. Each layer runs on its slice
    of the tensors, at the path it would have in a ModuleList, so it draws the same numbers. The stack itself cannot be
    called.

    Params: those of ``layer`` under the same names, each (count, ...).

    >>> from funcnet import Linear
    >>> params, _ = LayerStack(Linear(3, 2), 4).init(0)
    >>> params["weight"].shape
    torch.Size([4, 2, 3])
    """

    layer: Net
    count: int

    def parts(self) -> Mapping[str, Any]:
        entries: dict[str, Any] = dict(self.layer._own_entries)
        params = {name: Param((self.count, *spec.shape), spec.init) for name, spec in entries.items()}
        return {**params, **{name: LayerStack(net, self.count) for name, net in self.layer._children.items()}}

    def delegate(self) -> Net:
        return self.layer

    def view_base(self) -> type[View]:
        return LayerStackView

    def as_module(self) -> nn.Module:
        return LayerStackBody(self)

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        raise TypeError("LayerStack has no forward of its own: loop over its layers in a body.")


class LayerStackView(View):
    """The ``p.layers`` of a body for a LayerStack: iterating gives the layers, each as a part that can be called."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        prepared = self.layer._prepared()
        views = []
        for index, tree in enumerate(unstack_layers(self._params, self.count)):
            view = prepared.open_view(prepared.view_class, tree, EMPTY_TREE, self)
            view._name = str(index)
            views.append(view)
        return iter(views)


class LayerStackBody(Body):
    """The module of a LayerStack: its parameters are the stacked tensors."""

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        net: Any = self._funcnet_net
        tensors: Tree = {}
        for path, tensor in self.named_parameters():
            *parents, leaf = path.split(".")
            node = tensors
            for key in parents:
                node = node.setdefault(key, {})
            node[leaf] = tensor
        return iter([partial(self._run_layer, net.layer, tree) for tree in unstack_layers(tensors, net.count)])

    def _run_layer(self, layer: Net, params: Tree, *inputs: Any) -> Any:
        return layer.apply(params, {}, *inputs, train=self.training, rng=Stream(None))[0]


def unstack_layers(tree: TreeLike, count: int) -> list[Tree]:
    """The tree of each layer, from the tree of the stacked tensors.

    >>> import torch
    >>> unstack_layers({"a": {"w": torch.arange(2)}}, 2)
    [{'a': {'w': tensor(0)}}, {'a': {'w': tensor(1)}}]
    """
    trees: list[Tree] = [{} for _ in range(count)]
    for key, value in tree.items():
        # unbind instead of indexing: its gradient is one stack, and not a sum of ``count`` tensors full of zeros
        pieces = value.unbind(0) if isinstance(value, Tensor) else unstack_layers(value, count)
        for layer, piece in zip(trees, pieces, strict=True):
            layer[key] = piece
    return trees
