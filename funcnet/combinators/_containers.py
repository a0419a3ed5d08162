"""The records of the three containers, counterparts of torch/nn/modules/container.py."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, overload

from torch import nn
from typing_extensions import Self

from funcnet.combinators._views import MappingView, SequenceView, SequentialView
from funcnet.core import Net, View, as_net
from funcnet.core.internals import StockNet

Items: TypeAlias = tuple[tuple[str, Net], ...]

Part: TypeAlias = Net | Callable[..., Any]
"""What a container is built of: a net, or a plain function."""


class _Container(StockNet, fields_in_view=False):
    """Named nets in order; what each subclass adds is how it is built and called."""

    items_: Items

    def parts(self) -> Mapping[str, Net]:
        return dict(self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def __bool__(self) -> bool:
        return True  # a net, even an empty one; nn.Sequential() is falsy, which only hides mistakes

    def _set_items(self, parts: Iterable[tuple[str, Part]]) -> None:
        items = tuple((str(name), as_net(str(name), part)) for name, part in parts)
        twin = getattr(nn, type(self).__name__, nn.Module)
        bad_names = [name for name, _ in items if not name or "." in name or name == "rng" or hasattr(twin, name)]
        if bad_names:
            raise ValueError(
                f"parts of {type(self).__name__} cannot be named {bad_names}: its twin or a view uses such names."
            )
        object.__setattr__(self, "items_", items)

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        return self._from_items(tuple((name, nets.get(name, net)) for name, net in self.items_))

    @classmethod
    def _from_items(cls, items: Items) -> Self:
        container = object.__new__(cls)
        object.__setattr__(container, "items_", items)
        return container


class _Sequence(_Container):
    """A container whose parts have positions."""

    def __iter__(self) -> Iterator[Net]:
        return (net for _, net in self.items_)

    def view_base(self) -> type[View]:
        return SequenceView


class Sequential(_Sequence):
    """Nets applied one after the other.

    Written as layers side by side, as an unpacked list, or as an OrderedDict of names; plain functions are layers too.
    Indexing gives a net, slicing a Sequential that keeps the names, so ``{k: params[k] for k in ...}`` are its params.

    Args:
        args: nets or functions; or one dict of them, whose keys become their names.

    Params, Buffers: those of the parts under their names, "0", "1", ... unless named.
    Shape: as the parts say.

    >>> import torch
    >>> from funcnet import Linear, ReLU
    >>> layers = [Linear(4, 8), ReLU(), Linear(8, 2)]
    >>> net = Sequential(*layers)
    >>> net == Sequential(Linear(4, 8), ReLU(), Linear(8, 2)), net[0]
    (True, Linear(in_features=4, out_features=8, bias=True))
    >>> params, _ = net.init(0)
    >>> list(params), net(params, torch.ones(1, 4)).shape
    (['0', '2'], torch.Size([1, 2]))
    """

    def __init__(self, *args: Part | Mapping[str, Part]) -> None:
        if len(args) == 1 and isinstance(args[0], Mapping):
            self._set_items(args[0].items())
        else:
            self._set_items((str(index), part) for index, part in enumerate(args))  # type: ignore[misc]

    @staticmethod
    def forward(p: View, input: Any) -> Any:
        for step in p._steps:
            input = step(p, input)
        return input

    def view_base(self) -> type[View]:
        return SequentialView

    def as_module(self) -> nn.Module:
        return nn.Sequential(OrderedDict((name, net.as_module()) for name, net in self.items_))

    @overload
    def __getitem__(self, index: int) -> Net: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Net:
        if isinstance(index, slice):
            return Sequential._from_items(self.items_[index])
        return self.items_[index][1]

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)


class ModuleList(_Sequence):
    """Nets by position, for a body to index and loop over; not callable by itself.

    Args:
        modules: nets or functions.

    >>> from funcnet import Linear
    >>> ModuleList([Linear(2, 2) for _ in range(3)])
    ModuleList(
      (0-2): 3 x Linear(in_features=2, out_features=2, bias=True)
    )
    """

    def __init__(self, modules: Iterable[Part] | None = None) -> None:
        self._set_items((str(index), part) for index, part in enumerate(modules or ()))

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        raise TypeError("ModuleList has no forward of its own: loop over its parts in a body (funcnet.compose).")

    def as_module(self) -> nn.Module:
        return nn.ModuleList([net.as_module() for net in self])

    @overload
    def __getitem__(self, index: int) -> Net: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Net:
        if isinstance(index, slice):
            return ModuleList(list(self)[index])
        return self.items_[index][1]

    def __add__(self, other: Iterable[Part]) -> ModuleList:
        return ModuleList([*self, *other])


class ModuleDict(_Container):
    """Nets by name, for a body to choose from; not callable by itself.

    Args:
        modules: a mapping, or pairs, of names and nets or functions.

    >>> from funcnet import Linear
    >>> heads = ModuleDict({"age": Linear(8, 1), "kind": Linear(8, 5)})
    >>> list(heads), "age" in heads
    (['age', 'kind'], True)
    """

    def __init__(self, modules: Mapping[str, Part] | Iterable[tuple[str, Part]] | None = None) -> None:
        self._set_items(modules.items() if isinstance(modules, Mapping) else modules or ())

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        raise TypeError("ModuleDict has no forward of its own: choose one of its parts in a body (funcnet.compose).")

    def as_module(self) -> nn.Module:
        return nn.ModuleDict({name: net.as_module() for name, net in self.items_})

    def view_base(self) -> type[View]:
        return MappingView

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items_)

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def __getitem__(self, name: str) -> Net:
        return self._children[name]

    def keys(self) -> list[str]:
        """Names of the nets."""
        return list(self)

    def values(self) -> list[Net]:
        """The nets."""
        return [net for _, net in self.items_]

    def items(self) -> list[tuple[str, Net]]:
        """Names and nets."""
        return list(self.items_)
