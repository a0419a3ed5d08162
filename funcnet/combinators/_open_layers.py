"""The layers of stacked tensors in one call: what each computes with, and what becomes of its buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Tree, TreeLike
from funcnet.core import Net, View
from funcnet.core.internals import Call
from funcnet.tree import join


class OpenLayers:
    """The layers of a Stack, while a call uses them: each has its slice of the tensors.

    Args:
        net: what each layer is.
        count: how many there are.
        call: the call, which holds these layers until it ends.
        path: where the Stack stands in the net of the call.
        params: the stacked params.
        buffers: the tree of the call for the stacked buffers, in which new ones are recorded when the call ends.
    """

    def __init__(self, net: Net, count: int, call: Call, path: str, params: TreeLike, buffers: Tree) -> None:
        self.net, self.call, self.path = net, call, path
        self.prepared = net._prepared()
        self.params = unstack_tree(params, count)
        self.stacked_buffers = buffers
        self.first_buffers = unstack_tree(buffers, count)
        self.buffers = [_copy_dicts(tree) for tree in self.first_buffers]

    def run(self, index: int, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of one layer."""
        if self.prepared.is_trusted:
            return self.open_view(index)(*inputs, **kwargs)
        output, self.buffers[index] = self.prepared.run_part(
            self.params[index], self.buffers[index], self.call, join(self.path, str(index)), inputs, kwargs
        )
        return output

    def open_view(self, index: int) -> View:
        """The view of one layer."""
        prepared = self.prepared
        view = prepared.open_view(prepared.view_class, self.params[index], self.buffers[index], self.call)
        view._name = join(self.path, str(index))
        return view

    def record(self) -> None:
        """Put the new buffers of the layers, stacked, into the tree of the call."""
        if self.stacked_buffers:
            _record_changes(self.stacked_buffers, self.first_buffers, self.buffers)


class StackedLayer:
    """One layer of a Stack in a body: called, it runs; by name, it has what the view of its net has."""

    __slots__ = ("_index", "_layers")

    def __init__(self, layers: OpenLayers, index: int) -> None:
        self._layers = layers
        self._index = index

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        return self._layers.run(self._index, inputs, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # the compiler asks for slots that are not filled yet
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._layers.open_view(self._index), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in StackedLayer.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._layers.open_view(self._index), name, value)  # a new buffer

    def __getitem__(self, key: Any) -> Any:
        return self._layers.open_view(self._index)[key]  # type: ignore[index]  # a layer may be a container

    def __iter__(self) -> Any:
        return iter(self._layers.open_view(self._index))

    def __len__(self) -> int:
        return len(self._layers.open_view(self._index))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(self._layers.open_view(self._index))


def unstack_tree(tree: TreeLike, count: int) -> list[Tree]:
    """The tree of each layer, from the tree of the stacked tensors.

    >>> unstack_tree({"a": {"w": torch.arange(2)}}, 2)
    [{'a': {'w': tensor(0)}}, {'a': {'w': tensor(1)}}]
    """
    trees: list[Tree] = [{} for _ in range(count)]
    for key, value in tree.items():
        # unbind instead of indexing: its gradient is one stack, and not a sum of ``count`` tensors full of zeros
        pieces = value.unbind(0) if isinstance(value, Tensor) else unstack_tree(value, count)
        for layer, piece in zip(trees, pieces, strict=True):
            layer[key] = piece
    return trees


def _copy_dicts(tree: TreeLike) -> Tree:
    return {key: value if isinstance(value, Tensor) else _copy_dicts(value) for key, value in tree.items()}


def _record_changes(stacked: Tree, old_trees: list[Tree], new_trees: list[Tree]) -> None:
    for key, value in stacked.items():
        old, new = [tree[key] for tree in old_trees], [tree[key] for tree in new_trees]
        if not isinstance(value, Tensor):
            _record_changes(value, old, new)
        elif any(after is not before for before, after in zip(old, new, strict=True)):
            stacked[key] = torch.stack(new)
