"""Params that are whole only while a unit of the net runs, and once more while its gradient is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcnet._context import under_forward_mode, under_transform
from funcnet._torch import saved_tensors_hooks
from funcnet._typing import Tree, TreeLike
from funcnet.ranks._placed_tensors import gather_whole_values, gather_wholes, read_placement
from funcnet.tree import flatten, unflatten


class Units:
    """Which params belong to which unit of one run; at most one unit at a time has its params whole for backward.

    Args:
        unit_by_leaf: the name of the unit by the id of a leaf; the leaves outlive this record.
        take_share: turns a net and its params into this rank's share of them; None where ranks share no layers.
    """

    def __init__(
        self, unit_by_leaf: Mapping[int, str], take_share: Callable[[Any, TreeLike], Any] | None = None
    ) -> None:
        self._unit_by_leaf, self.take_share = unit_by_leaf, take_share
        self.last: _GatheredAgain | None = None

    def unit_of(self, leaf: object) -> str | None:
        """The unit that a leaf belongs to; None for one that no unit has."""
        return self._unit_by_leaf.get(id(leaf))


class _GatheredAgain:
    """The params of one unit, which are gathered when the backward pass asks for them.

    Args:
        units: those of the run.
        shards: DTensors that are kept anyway.
        wholes: what was gathered for the forward pass.
    """

    def __init__(self, units: Units, shards: list[Tensor], wholes: list[Tensor]) -> None:
        self._units, self._shards = units, shards
        self._wholes: list[Tensor] | None = None
        self._numbers = {
            whole.untyped_storage().data_ptr(): number for number, whole in enumerate(wholes) if whole.numel()
        }
        self._dtypes = [whole.dtype for whole in wholes]
        self._keep(wholes)

    def _keep(self, wholes: list[Tensor]) -> None:
        self._wholes = [whole.detach() for whole in wholes]
        self._units.last = self

    def drop(self, *_: object) -> None:
        """Free the whole params."""
        self._wholes = None

    def pack(self, tensor: Tensor) -> Any:
        """What autograd keeps of a tensor: of a view of a param, where it lies."""
        if type(tensor) is not Tensor or not tensor.numel():
            return tensor
        number = self._numbers.get(tensor.untyped_storage().data_ptr())
        if number is None or tensor.dtype != self._dtypes[number] or tensor.is_conj() or tensor.is_neg():
            return tensor
        return _SavedView(number, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(self, saved: Any) -> Tensor:
        """The tensor again."""
        if not isinstance(saved, _SavedView):
            return saved
        if self._wholes is None:
            if self._units.last is not None:
                self._units.last.drop()  # before there is memory for the next
            self._keep(gather_whole_values(self._shards))
        assert self._wholes is not None
        return self._wholes[saved.number].as_strided(saved.size, saved.stride, saved.offset)


class _SavedView(NamedTuple):
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


@contextlib.contextmanager
def whole_params(tree: TreeLike, units: Units | None) -> Iterator[Tree]:
    """The params of a unit with whole tensors in the place of DTensors, for a block.

    What autograd keeps of them is where they lie: the backward pass gathers them again. Where somebody else decides
    what is kept (torch.utils.checkpoint, transforms of torch.func), it decides about these too.
    """
    flat = flatten(tree)
    sharded = {path: leaf for path, leaf in flat.items() if read_placement(leaf) is not None}
    if units is not None and units.last is not None:
        units.last.drop()
    wholes = gather_wholes(list(sharded.values()))
    whole_tree = unflatten({**flat, **dict(zip(sharded, wholes, strict=True))})
    is_plain = torch.is_grad_enabled() and not (under_transform() or under_forward_mode() or saved_tensors_hooks(True))
    if units is None or not sharded or not is_plain:
        yield whole_tree
        return
    again = _GatheredAgain(units, [leaf.detach() for leaf in sharded.values()], wholes)
    node = next((whole.grad_fn for whole in wholes if whole.grad_fn is not None), None)
    if node is not None:
        node.register_prehook(again.drop)  # all gradients of the unit are there then
    del wholes
    with torch.autograd.graph.saved_tensors_hooks(again.pack, again.unpack):
        yield whole_tree
