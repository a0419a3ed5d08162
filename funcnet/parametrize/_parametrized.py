"""A net with tensors computed from others: the record, and what its body sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import TreeError
from funcnet._typing import Flat
from funcnet.combinators import ModuleDict
from funcnet.combinators._views import SequenceView
from funcnet.core import Buffer, Net, Param, View
from funcnet.core.internals import InitContext, StockNet, dtype_to_declare, has_entries
from funcnet.layers import Layer
from funcnet.parametrize._first_values import Registered, right_inverse
from funcnet.parametrize._twins import attach, list_module
from funcnet.tree import join


class ParametrizationList(StockNet):
    """The original tensors of one computed tensor, and the nets that compute it, one after the other.

    Called without inputs it gives the computed tensor. Its twin is torch.nn.utils.parametrize.ParametrizationList.
    """

    items: tuple[Net, ...]
    originals: tuple[tuple[str, Param | Buffer], ...]
    unsafe: bool = False

    @classmethod
    def of(cls, module: Any, nets: Iterable[Net]) -> ParametrizationList | None:
        """The net for torch's list, with nets for its parametrizations; None if an original is no tensor."""
        kind, held = (Param, module._parameters) if module._parameters else (Buffer, module._buffers)
        names = ["original"] if module.is_tensor else [f"original{index}" for index in range(module.ntensors)]
        if list(held) != names:
            return None
        originals = ((name, kind(tuple(tensor.shape), dtype=dtype_to_declare(tensor))) for name, tensor in held.items())
        return cls(tuple(nets), tuple(originals), module.unsafe)

    def parts(self) -> Mapping[str, Any]:
        return {**dict(self.originals), **{str(index): net for index, net in enumerate(self.items)}}

    def constants(self) -> Mapping[str, Any]:
        return {"names": tuple(name for name, _ in self.originals)}

    def view_base(self) -> type[View]:
        return SequenceView

    def as_module(self) -> nn.Module:
        return list_module(list(map(_twin, self.items)), self.originals, self.unsafe)

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        items = tuple(nets.get(str(index), net) for index, net in enumerate(self.items))
        return ParametrizationList(items, self.originals, self.unsafe)

    def _shapes(self, dtype: torch.dtype, path: str) -> Flat:
        """The tensors of the list at a path, without content."""
        specs = self._all_entries.items()
        return {
            join(path, key): torch.empty(spec.shape, dtype=spec.dtype or dtype, device="meta") for key, spec in specs
        }

    @staticmethod
    def forward(p: SequenceView) -> Tensor:
        tensor = p[0](*[getattr(p, name) for name in p.names])
        for step in p._steps[1:]:
            tensor = step(p, tensor)
        return tensor


def _twin(net: Net) -> nn.Module:
    """The module of a parametrization, with the inverse that assigning to the computed tensor takes."""
    module: Any = net.as_module()
    inverse = right_inverse(net)
    if inverse is not None and not hasattr(module, "right_inverse"):
        module.right_inverse = partial(inverse, module)
    return module


READ_SEVERAL_TIMES = {nn.MultiheadAttention}
"""Modules that read a tensor several times in a call, which counts if a read leaves something behind in buffers."""


def parametrized(base: Net, lists: Mapping[str, Net]) -> Parametrized | None:
    """The net whose tensors of these names are computed; None if that would not be what a module does."""
    if base._facts.reads_trees or not set(lists) <= set(base._own_entries):
        return None
    for name, computed in lists.items():
        if not isinstance(computed, ParametrizationList):
            return None
        kind = type(computed.originals[0][1])
        if type(base._own_entries[name]) is not kind or (kind is Buffer and isinstance(base, Layer)):
            return None  # a layer replaces its buffers, which cannot be done to one that is computed
        if has_entries(computed, Buffer) and getattr(base, "twin", nn.Module) in READ_SEVERAL_TIMES:
            return None
    return Parametrized(base, tuple(lists.items()))  # type: ignore[arg-type]


class Parametrized(StockNet):
    """A net some of whose tensors are computed from others by every read of them; made by the functions of this room.

    Its body is that of ``base``, and runs on a view on which the computed tensors are properties.
    """

    base: Net
    lists: tuple[tuple[str, ParametrizationList], ...]

    @property
    def forward(self) -> Callable[..., Any]:
        """The body of ``base``."""
        return self.base.forward

    def title(self) -> str:
        return f"Parametrized{self.base.title()}"

    def parts(self) -> Mapping[str, Any]:
        computed = dict(self.lists)
        kept = {name: part for name, part in self.base._parts.items() if name not in computed}
        return {**kept, "parametrizations": ModuleDict(computed)}

    def constants(self) -> Mapping[str, Any]:
        computed = dict(self.lists)
        return {name: value for name, value in self.base.constants().items() if name not in computed}

    def draws(self, training: bool) -> bool:
        return self.base.draws(training)

    def calls_unknown_code(self) -> bool:
        return not self.base._facts.is_trusted

    def limits(self, training: bool) -> Mapping[str, str]:
        return self.base.limits(training)

    def expects(self) -> str:
        return self.base.expects()

    def view_base(self) -> type[View]:
        computed = {name: property(_reader(name, self._looks(name)), _refusal(name)) for name, _ in self.lists}
        return type("ParametrizedView", (self.base.view_base(),), {"__slots__": (), **computed})

    def _looks(self, name: str) -> int:
        """How often the module looks at a computed tensor in a call; told only where that leaves traces in buffers."""
        computed = dict(self.lists)
        if getattr(self.base, "twin", None) not in _RECURRENT or not has_entries(computed[name], Buffer):
            return 1
        # It looks whether a weight is there and whether it is another one than before, until the first that is; as
        # then one is, it gathers all, and again looks first whether each is there.
        return 4 if name == next(name for name in self.base._own_entries if name in computed) else 2

    def as_module(self) -> nn.Module:
        module = self.base.as_module()
        for name, computed in self.lists:
            attach(module, name, computed.as_module())
        return module

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        kept = {name: net for name, net in nets.items() if name != "parametrizations"}
        lists: Any = nets.get("parametrizations", self._children["parametrizations"])
        return Parametrized(self.base._with_children(kept) if kept else self.base, lists.items_)

    def first_values(self, start: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        if all(join(path, name) in start.aliases for name in self._all_entries):
            return  # the same net at a second place
        made = dict(start.init_net(self.base, path))
        for name, computed in self.lists:
            value, where = made.pop(join(path, name)), join(path, f"parametrizations.{name}")
            made.update(
                computed._shapes(value.dtype, where)
                if value.is_meta
                else Registered(computed.items, computed.unsafe, value, start, where).tensors()
            )
        yield from made.items()


_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)


def _reader(name: str, looks: int) -> Callable[[View], Tensor]:
    def _read(view: View) -> Tensor:
        for _ in range(looks - 1):
            getattr(view.parametrizations, name)()
        return getattr(view.parametrizations, name)()

    return _read


def _refusal(name: str) -> Callable[[View, Tensor], None]:
    def _refuse(view: View, value: Tensor) -> None:
        raise TreeError(
            f"{name!r} is computed by its parametrizations and cannot be assigned in a call: assign its originals, "
            f"or leave a buffer that the body replaces unparametrized."
        )

    return _refuse
