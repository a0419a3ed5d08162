"""The records of the three containers, counterparts of torch/nn/modules/container.py."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from funcnet.combinators._views import MappingView, SequenceView, SequentialView
from funcnet.core import Net, View, as_net
from funcnet.core.internals import StockNet

Items = tuple[tuple[str, Net], ...]


class _Container(StockNet, fields_in_view=False):
    """Named nets in order; what each subclass adds is how it is built and called."""

    items_: Items

    def parts(self) -> Mapping[str, Any]:
        return dict(self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def __bool__(self) -> bool:
        return True  # a net, even an empty one; nn.Sequential() is falsy, which only hides mistakes

    def _set(self, items: Iterable[tuple[str, Any]]) -> None:
        named = tuple((str(name), as_net(str(name), part)) for name, part in items)
        twin = getattr(nn, type(self).__name__, nn.Module)
        bad = [name for name, _ in named if not name or "." in name or name == "rng" or hasattr(twin, name)]
        if bad:
            raise ValueError(
                f"parts of {type(self).__name__} cannot be named {bad}: its twin or a view uses such names."
            )
        object.__setattr__(self, "items_", named)

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        return self._of(tuple((name, nets.get(name, net)) for name, net in self.items_))

    @classmethod
    def _of(cls, items: Items) -> Any:
        made = object.__new__(cls)
        object.__setattr__(made, "items_", items)
        return made


class _Sequence(_Container):
    """What Sequential and ModuleList share: positions."""

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

    def __init__(self, *args: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Mapping):
            self._set(args[0].items())
        else:
            self._set((str(index), part) for index, part in enumerate(args))

    @staticmethod
    def forward(p: Any, input: Any) -> Any:
        for step in p._steps:
            input = step(p, input)
        return input

    def view_base(self) -> type[View]:
        return SequentialView

    def as_module(self) -> nn.Module:
        return nn.Sequential(OrderedDict((name, net.as_module()) for name, net in self.items_))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential._of(self.items_[index])
        return self.items_[index][1]

    def __add__(self, other: Any) -> Sequential:
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

    def __init__(self, modules: Iterable[Any] | None = None) -> None:
        self._set((str(index), part) for index, part in enumerate(modules or ()))

    def forward(self, p: Any, *inputs: Any, **kwargs: Any) -> Any:
        raise TypeError("ModuleList has no forward of its own: loop over its parts in a body (funcnet.compose).")

    def as_module(self) -> nn.Module:
        return nn.ModuleList([net.as_module() for net in self])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ModuleList(list(self)[index])
        return self.items_[index][1]

    def __add__(self, other: Iterable[Any]) -> ModuleList:
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

    def __init__(self, modules: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None) -> None:
        self._set(modules.items() if isinstance(modules, Mapping) else modules or ())

    def forward(self, p: Any, *inputs: Any, **kwargs: Any) -> Any:
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
