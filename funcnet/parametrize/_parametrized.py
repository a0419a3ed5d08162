"""A net some of whose tensors are computed from others: the record, and the view that its body gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList as TorchList

from funcnet._errors import TreeError
from funcnet._typing import Flat
from funcnet.combinators import ModuleDict
from funcnet.combinators.internals import SequenceView
from funcnet.core import Buffer, Net, Param, View
from funcnet.core.internals import InitContext, StockNet, dtype_to_declare, has_entries
from funcnet.layers import Layer
from funcnet.parametrize._first_values import Registration, right_inverse_of
from funcnet.parametrize._parametrized_modules import attach_computed_tensor, build_list_module
from funcnet.tree import join


class ParametrizationList(StockNet):
    """The original tensors of one computed tensor, and the nets that compute it in sequence.

    Called without inputs it returns the computed tensor. Its twin is torch.nn.utils.parametrize.ParametrizationList.
    """

    items: tuple[Net, ...]
    originals: tuple[tuple[str, Param | Buffer], ...]
    unsafe: bool = False

    @classmethod
    def from_list_module(cls, module: nn.Module, nets: Iterable[Net]) -> ParametrizationList | None:
        """The net of torch's list, given the nets of its parametrizations; None if an original is not a tensor."""
        module = cast(TorchList, module)
        tensors: Mapping[str, Any] = module._parameters or module._buffers
        kind = Param if module._parameters else Buffer
        names = ["original"] if module.is_tensor else [f"original{index}" for index in range(module.ntensors)]
        if list(tensors) != names:
            return None
        originals = (
            (name, kind(tuple(tensor.shape), dtype=dtype_to_declare(tensor))) for name, tensor in tensors.items()
        )
        return cls(tuple(nets), tuple(originals), module.unsafe)

    def parts(self) -> Mapping[str, Any]:
        return {**dict(self.originals), **{str(index): net for index, net in enumerate(self.items)}}

    def constants(self) -> Mapping[str, Any]:
        return {"names": tuple(name for name, _ in self.originals)}

    def view_base(self) -> type[View]:
        return SequenceView

    def as_module(self) -> nn.Module:
        return build_list_module(list(map(_twin_of_step, self.items)), self.originals, self.unsafe)

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        items = tuple(nets.get(str(index), net) for index, net in enumerate(self.items))
        return ParametrizationList(items, self.originals, self.unsafe)

    def _meta_tensors(self, dtype: torch.dtype, path: str) -> Flat:
        """The tensors of the list at a path, as tensors on the meta device."""
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


def _twin_of_step(net: Net) -> nn.Module:
    """The module of a parametrization, with the inverse that torch needs for assignments to the computed tensor."""
    module: Any = net.as_module()
    inverse = right_inverse_of(net)
    if inverse is not None and not hasattr(module, "right_inverse"):
        module.right_inverse = partial(inverse, module)
    return module


READ_SEVERAL_TIMES = {nn.MultiheadAttention}
"""Modules that read a tensor several times in a call. This matters if each read writes to buffers."""


def parametrize_net(base: Net, lists: Mapping[str, Net]) -> Parametrized | None:
    """The net whose tensors of these names are computed; None if it would not compute what the module computes."""
    if base._facts.reads_trees or not set(lists) <= set(base._own_entries):
        return None
    for name, computed in lists.items():
        if not isinstance(computed, ParametrizationList):
            return None
        kind = type(computed.originals[0][1])
        if type(base._own_entries[name]) is not kind or (kind is Buffer and isinstance(base, Layer)):
            return None  # a layer replaces its buffers, and a computed buffer cannot be replaced
        if has_entries(computed, Buffer) and getattr(base, "twin", nn.Module) in READ_SEVERAL_TIMES:
            return None
    return Parametrized(base, tuple(lists.items()))  # type: ignore[arg-type]


class Parametrized(StockNet):
    """A net some of whose tensors are computed from others each time they are read.

    The functions of ``funcnet.parametrize`` build it. Its body is that of ``base``, and runs on a view on which the
    computed tensors are properties.
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
        other_parts = {name: part for name, part in self.base._parts.items() if name not in computed}
        return {**other_parts, "parametrizations": ModuleDict(computed)}

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
        computed = {
            name: property(_read_computed(name, self._reads_per_call(name)), _refuse_assignment(name))
            for name, _ in self.lists
        }
        return type("ParametrizedView", (self.base.view_base(),), {"__slots__": (), **computed})

    def _reads_per_call(self, name: str) -> int:
        """How often the module reads a computed tensor in a call. It is 1 where reads do not write to buffers."""
        computed = dict(self.lists)
        if getattr(self.base, "twin", None) not in _RECURRENT or not has_entries(computed[name], Buffer):
            return 1
        # In each call nn.RNNBase first checks for each weight whether it exists, then whether it is the same tensor as
        # before, up to the first one that is not. A computed weight is a new tensor, so it then collects all weights
        # again: it checks whether each exists, and reads it.
        return 4 if name == next(name for name in self.base._own_entries if name in computed) else 2

    def as_module(self) -> nn.Module:
        module = self.base.as_module()
        for name, computed in self.lists:
            attach_computed_tensor(module, name, computed.as_module())
        return module

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        base_nets = {name: net for name, net in nets.items() if name != "parametrizations"}
        lists: Any = nets.get("parametrizations", self._children["parametrizations"])
        return Parametrized(self.base._with_children(base_nets, base_nets) if base_nets else self.base, lists.items_)

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        if all(join(path, name) in context.aliases for name in self._all_entries):
            return  # the same net, used at a second path
        values = dict(context.init_net(self.base, path))
        for name, computed in self.lists:
            value, list_path = values.pop(join(path, name)), join(path, f"parametrizations.{name}")
            values.update(
                computed._meta_tensors(value.dtype, list_path)
                if value.is_meta
                else Registration(computed.items, computed.unsafe, value, context, list_path).first_values()
            )
        yield from values.items()


_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)


def _read_computed(name: str, reads_per_call: int) -> Callable[[View], Tensor]:
    """The getter of a computed tensor. It repeats the reads of the module, as each may change buffers."""

    def read_tensor(view: View) -> Tensor:
        for _ in range(reads_per_call - 1):
            getattr(view.parametrizations, name)()
        return getattr(view.parametrizations, name)()

    return read_tensor


def _refuse_assignment(name: str) -> Callable[[View, Tensor], None]:
    """The setter of a computed tensor."""

    def refuse(view: View, value: Tensor) -> None:
        raise TreeError(
            f"{name!r} is computed by its parametrizations and cannot be assigned in a call: assign its originals, "
            f"or leave a buffer that the body replaces unparametrized."
        )

    return refuse
