"""What a traced net may be called with: the tensors in its example inputs, and everything else as it was."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError
from funcnet.program._code import Check
from funcnet.program._words import UnspeakableError, Words, fields_of

OWN_NAMES = frozenset({"params", "buffers", "rng", "torch", "F", "fn", "math", "operator"})
"""What a captured function calls things itself."""


class TensorInput(NamedTuple):
    """A tensor among the example inputs, and the expression that finds it among the arguments of a call."""

    place: str
    value: Tensor

    @property
    def simple(self) -> bool:
        """Whether it is an argument itself."""
        return self.place.isidentifier()


@dataclasses.dataclass
class Inputs:
    """Example inputs taken apart.

    ``signature`` is that of the forward as source text; ``tensors`` are those given, each object once; ``checks`` is
    what must hold besides the shapes of tensors; ``call`` is the argument list that hands ``t0, t1, ...`` to a module.
    """

    signature: str
    names: list[str]
    arguments: dict[str, Any]
    tensors: list[TensorInput]
    checks: list[Check]
    call: str
    words: Words

    def inside(self, place: str) -> str:
        """A place as the captured function spells it, which uses some names itself."""
        name = place.split(".")[0].split("[")[0]
        return f"{name}_{place[len(name) :]}" if name in OWN_NAMES else place

    @property
    def used(self) -> list[str]:
        """The arguments that hold tensors."""
        return [name for name, value in self.arguments.items() if any(True for _ in _tensors_in(value))]


def taken_apart(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """The tensors in example inputs, and what else there is to know about them.

    Raises:
        ConversionError: if an input is neither a tensor nor a constant nor a container of those.
        TypeError: if the forward does not take such inputs.
    """
    signature = inspect.signature(module.forward)
    arguments = signature.bind(*args, **kwargs).arguments
    tensors: list[TensorInput] = []
    checks: list[Check] = []
    words = Words()
    for name, parameter in signature.parameters.items():
        if name in arguments:
            _walk(arguments[name], name, tensors, checks, words)
        elif parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            checks.append(Check(name, "nothing", f"not {name}"))
        else:
            try:
                words.constant(parameter.default)
            except UnspeakableError:
                checks.append(Check(name, "nothing", f"{name} is NOT_GIVEN"))
            else:
                _walk(parameter.default, name, tensors, checks, words)
    once = [tensor for index, tensor in enumerate(tensors) if _first(tensors, tensor) == index]
    for index, tensor in enumerate(tensors):
        first = _first(tensors, tensor)
        if first != index:
            owner = tensors[first].place
            checks.append(Check(tensor.place, f"the tensor given as {owner}", f"{tensor.place} is {owner}"))
    names = {id(tensor.value): f"t{index}" for index, tensor in enumerate(once)}
    if len(once) > 1:
        places = [tensor.place for tensor in once]
        one = f"{places[0]} is not {places[1]}"
        many = f"_len({{{', '.join(f'_id({place})' for place in places)}}}) == {len(places)}"
        checks.append(Check(", ".join(places), "different tensors", one if len(places) == 2 else many))
    call = [words.value(value, lambda leaf: names.get(id(leaf)), f"input {index}") for index, value in enumerate(args)]
    call += [f"{key}={words.value(value, lambda leaf: names.get(id(leaf)), key)}" for key, value in kwargs.items()]
    return Inputs(
        _signature(signature, words), list(signature.parameters), dict(arguments), once, checks, ", ".join(call), words
    )


def _first(tensors: list[TensorInput], tensor: TensorInput) -> int:
    return next(index for index, other in enumerate(tensors) if other.value is tensor.value)


def _walk(value: Any, place: str, tensors: list[TensorInput], checks: list[Check], words: Words) -> None:
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or value.layout is not torch.strided:
            raise ConversionError(
                f"input {place} is a {type(value).__name__} of layout {value.layout}; trace takes plain tensors. "
                f"funcnet.from_module(module) runs the module's own forward on anything."
            )
        tensors.append(TensorInput(place, value))
        return
    kind = type(value)
    if isinstance(value, enum.Enum) or value is None or kind is bool:
        checks.append(Check(place, repr(value), f"{place} is {words.constant(value)}"))
        return
    if kind in (dict, OrderedDict):
        keys = ", ".join(words.constant(key, place) for key in value)
        known = f"_type({place}) is {words.function(kind)} and _list({place}) == [{keys}]"
        checks.append(Check(place, f"a {kind.__name__} of {list(value)}", known))
        for key, item in value.items():
            _walk(item, f"{place}[{words.constant(key)}]", tensors, checks, words)
        return
    if kind in (list, tuple):
        known = f"_type({place}) is {kind.__name__} and _len({place}) == {len(value)}"
        checks.append(Check(place, f"a {kind.__name__} of {len(value)}", known))
        for index, item in enumerate(value):
            _walk(item, f"{place}[{index}]", tensors, checks, words)
        return
    try:
        if hasattr(value, "_fields") or dataclasses.is_dataclass(value):
            given = fields_of(value)
            checks.append(Check(place, f"a {kind.__name__}", f"_type({place}) is {words.function(kind)}"))
            absent = {field.name for field in dataclasses.fields(value)} - set(given) if hasattr(value, "keys") else ()
            checks += [Check(f"{place}.{name}", "None", f"{place}.{name} is None") for name in sorted(absent)]
            for name, item in given.items():
                _walk(item, f"{place}.{name}", tensors, checks, words)
            return
        constant = words.constant(value)
    except UnspeakableError as error:
        raise ConversionError(
            f"input {place} is {error.value!r:.60}, which is neither a tensor nor a constant nor a container of those. "
            f"funcnet.from_module(module) runs the module's own forward on anything."
        ) from None
    checks.append(Check(place, repr(value), f"_type({place}) is {words.function(kind)} and {place} == {constant}"))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    found: list[TensorInput] = []
    _walk(value, "_", found, [], Words())
    yield from (tensor.value for tensor in found)


def _signature(signature: inspect.Signature, words: Words) -> str:
    """The parameters of a forward as text, with their defaults; what no constant stands for is NOT_GIVEN."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.VAR_POSITIONAL not in kinds and "*" not in parts:
            parts.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" * (parameter.kind is parameter.VAR_KEYWORD)
        default = ""
        if parameter.default is not parameter.empty:
            try:
                default = f"={words.constant(parameter.default)}"
            except UnspeakableError:
                default = "=NOT_GIVEN"
        parts.append(f"{star}{name}{default}")
        after = kinds[index + 1] if index + 1 < len(kinds) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and after is not parameter.POSITIONAL_ONLY:
            parts.append("/")
    return ", ".join(parts)
