"""Example inputs: the tensors in them, what else is known of them, and what a call must fulfil to be like them."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError
from funcnet._tensors import iter_tensors
from funcnet.program._text import text_of
from funcnet.program._traced import Check
from funcnet.program._vocabulary import UnwritableError, Vocabulary, fields_of

RESERVED_NAMES = frozenset({"params", "buffers", "rng", "torch", "F", "fn", "math", "operator"})
"""Names that a captured function uses itself."""


@dataclasses.dataclass(frozen=True)
class TensorInput:
    """A tensor among the example inputs, and the expression that reads it from the arguments of a call."""

    expression: ast.expr
    value: Tensor

    @property
    def text(self) -> str:
        """The expression as text."""
        return text_of(self.expression)

    @property
    def is_argument(self) -> bool:
        """Whether it is an argument itself, and in no container."""
        return isinstance(self.expression, ast.Name)


@dataclasses.dataclass
class Inputs:
    """Example inputs by their parts."""

    signature: str  # that of the forward as source text
    names: list[str]  # the parameters of the forward
    arguments: dict[str, object]  # the inputs by those names
    tensors: list[TensorInput]  # the tensors in them, each object once
    checks: list[Check]  # what must hold for a call besides the shapes of tensors
    call: str  # the argument list that hands ``t0, t1, ...`` to a module
    vocabulary: Vocabulary  # what the texts above call things

    @property
    def names_with_tensors(self) -> list[str]:
        """The arguments that hold tensors."""
        return [name for name, value in self.arguments.items() if any(True for _ in iter_tensors(value))]


def inner_name(name: str) -> str:
    """What a captured function calls an argument: its own name, unless the function needs that name itself.

    >>> inner_name("x"), inner_name("params")
    ('x', 'params_')
    """
    return f"{name}_" if name in RESERVED_NAMES else name


def read_inputs(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Inputs:
    """The parts of example inputs of a module.

    Raises:
        ConversionError: if an input is neither a tensor nor a constant nor a container of those.
        TypeError: if the forward does not take such inputs.
    """
    signature = inspect.signature(module.forward)
    arguments = signature.bind(*args, **kwargs).arguments
    reader = _InputReader()
    for name, parameter in signature.parameters.items():
        if name in arguments:
            reader.add_value(arguments[name], ast.Name(name))
        elif parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            reader.add_check(name, "nothing", f"not {name}")
        else:
            try:
                reader.vocabulary.constant_expression(parameter.default)
            except UnwritableError:
                reader.add_check(name, "nothing", f"{name} is NOT_GIVEN")
            else:
                reader.add_value(parameter.default, ast.Name(name))
    tensors = reader.distinct_tensors()
    names = {id(tensor.value): ast.Name(f"t{index}") for index, tensor in enumerate(tensors)}

    def write_value(value: object, where: str) -> str:
        return text_of(reader.vocabulary.value_expression(value, lambda leaf: names.get(id(leaf)), where))

    call = [write_value(value, f"input {index}") for index, value in enumerate(args)]
    call += [f"{key}={write_value(value, key)}" for key, value in kwargs.items()]
    return Inputs(
        _signature_text(signature, reader.vocabulary),
        list(signature.parameters),
        dict(arguments),
        tensors,
        reader.checks,
        ", ".join(call),
        reader.vocabulary,
    )


class _InputReader:
    """Collects the tensors in inputs, and checks for everything else in them."""

    def __init__(self) -> None:
        self.tensors: list[TensorInput] = []
        self.checks: list[Check] = []
        self.vocabulary = Vocabulary()

    def add_check(self, text: str, expected: str, condition: str) -> None:
        self.checks.append(Check(text, expected, condition))

    def distinct_tensors(self) -> list[TensorInput]:
        """Each tensor once, with checks that a call gives one tensor twice exactly where the example does."""
        first: dict[int, TensorInput] = {}
        for tensor in self.tensors:
            first_tensor = first.setdefault(id(tensor.value), tensor)
            if first_tensor is not tensor:
                self.add_check(
                    tensor.text, f"the tensor given as {first_tensor.text}", f"{tensor.text} is {first_tensor.text}"
                )
        texts = [tensor.text for tensor in first.values()]
        if len(texts) == 2:
            self.add_check(", ".join(texts), "different tensors", f"{texts[0]} is not {texts[1]}")
        elif len(texts) > 2:
            ids = ", ".join(f"_id({text})" for text in texts)
            self.add_check(", ".join(texts), "different tensors", f"_len({{{ids}}}) == {len(texts)}")
        return list(first.values())

    def add_value(self, value: object, expression: ast.expr) -> None:
        """Add the tensors and checks of an input or of a value inside it; ``expression`` reads the value in a call."""
        kind, text = type(value), text_of(expression)
        if isinstance(value, Tensor):
            self._add_tensor(value, expression)
        elif isinstance(value, enum.Enum) or value is None or kind is bool:
            self.add_check(text, repr(value), f"{text} is {text_of(self.vocabulary.constant_expression(value))}")
        elif kind in (dict, OrderedDict):
            self._add_items(value.items(), kind, expression)  # type: ignore[attr-defined]
        elif kind in (list, tuple):
            is_kind = f"_type({text}) is {kind.__name__} and _len({text}) == {len(value)}"  # type: ignore[arg-type]
            self.add_check(text, f"a {kind.__name__} of {len(value)}", is_kind)  # type: ignore[arg-type]
            for index, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
                self.add_value(item, ast.Subscript(expression, ast.Constant(index)))
        else:
            try:
                self._add_fields_or_constant(value, expression)
            except UnwritableError as error:
                raise ConversionError(
                    f"input {text} is {error.value!r:.60}, which is neither a tensor nor a constant nor a container "
                    f"of those. funcnet.from_module(module) runs the module's own forward on anything."
                ) from None

    def _add_tensor(self, value: Tensor, expression: ast.expr) -> None:
        if type(value) not in (Tensor, nn.Parameter) or value.layout is not torch.strided:
            raise ConversionError(
                f"input {text_of(expression)} is a {type(value).__name__} of layout {value.layout}; trace takes plain "
                f"tensors. funcnet.from_module(module) runs the module's own forward on anything."
            )
        self.tensors.append(TensorInput(expression, value))

    def _add_items(self, items: Sequence[tuple[object, object]], kind: type, expression: ast.expr) -> None:
        text = text_of(expression)
        keys = [self.vocabulary.constant_expression(key, text) for key, _ in items]
        same_keys = f"_list({text}) == [{', '.join(map(text_of, keys))}]"
        condition = f"_type({text}) is {self.vocabulary.function_name(kind)} and {same_keys}"
        self.add_check(text, f"a {kind.__name__} of {[key for key, _ in items]}", condition)
        for key, (_, item) in zip(keys, items, strict=True):
            self.add_value(item, ast.Subscript(expression, key))

    def _add_fields_or_constant(self, value: object, expression: ast.expr) -> None:
        kind, text = type(value), text_of(expression)
        class_name = f"_type({text}) is {self.vocabulary.function_name(kind)}"
        if not hasattr(value, "_fields") and not dataclasses.is_dataclass(value):
            constant = text_of(self.vocabulary.constant_expression(value))
            self.add_check(text, repr(value), f"{class_name} and {text} == {constant}")
            return
        fields = fields_of(value)
        self.add_check(text, f"a {kind.__name__}", class_name)
        if dataclasses.is_dataclass(value) and isinstance(value, Mapping):  # a ModelOutput, whose unset fields are None
            for name in sorted({field.name for field in dataclasses.fields(value)} - set(fields)):
                self.add_check(f"{text}.{name}", "None", f"{text}.{name} is None")
        for name, item in fields.items():
            self.add_value(item, ast.Attribute(expression, name))


def _signature_text(signature: inspect.Signature, vocabulary: Vocabulary) -> str:
    """The parameters of a forward as text, with their defaults; a default that is not a constant becomes NOT_GIVEN."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.VAR_POSITIONAL not in kinds and "*" not in parts:
            parts.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" * (parameter.kind is parameter.VAR_KEYWORD)
        default = ""
        if parameter.default is not parameter.empty:
            try:
                default = f"={text_of(vocabulary.constant_expression(parameter.default))}"
            except UnwritableError:
                default = "=NOT_GIVEN"
        parts.append(f"{star}{name}{default}")
        following = kinds[index + 1] if index + 1 < len(kinds) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and following is not parameter.POSITIONAL_ONLY:
            parts.append("/")
    return ", ".join(parts)


def free_axes(inputs: Inputs, dynamic: object) -> list[tuple[int, ...]]:
    """For each tensor input the axes whose size stays free.

    Raises:
        ValueError: if ``dynamic`` names something that is not an input or an axis.
    """
    if isinstance(dynamic, Mapping):
        return _free_axes_by_input(inputs, dynamic)
    if dynamic not in ((), ("batch",)):
        raise ValueError(f'dynamic is ("batch",), () or a mapping from inputs to axes, not {dynamic!r}.')
    return [(0,) if dynamic and tensor.value.dim() else () for tensor in inputs.tensors]


def _free_axes_by_input(inputs: Inputs, dynamic: Mapping[str | int, int | Sequence[int]]) -> list[tuple[int, ...]]:
    axes_by_name = {
        inputs.names[key] if isinstance(key, int) and key < len(inputs.names) else key: value
        for key, value in dynamic.items()
    }
    free: list[tuple[int, ...]] = []
    matched: set[str | int] = set()
    for tensor in inputs.tensors:
        text, rank = tensor.text, tensor.value.dim()
        names = [name for name in axes_by_name if text == name or text.startswith((f"{name}[", f"{name}."))]
        matched |= set(names)
        values = [axes_by_name[name] for name in names]
        axes = [axis for value in values for axis in ([value] if isinstance(value, int) else value)]
        if problems := [axis for axis in axes if not -rank <= axis < rank]:
            raise ValueError(f"dynamic: {text} has {rank} axes, and no axis {problems}.")
        free.append(tuple(sorted({axis % rank for axis in axes})))
    if unknown := [name for name in axes_by_name if name not in matched]:
        texts = [tensor.text for tensor in inputs.tensors]
        raise ValueError(f"dynamic names {unknown}, the tensor inputs are {texts}.")
    return free


def named_arguments(module: nn.Module, body: list[str], inputs: Inputs) -> dict[str, tuple[ast.expr, object]]:
    """Name of an argument -> the expression that reads it from those of the forward, and its value.

    Tensors that are taken as ``*inputs`` are an argument each; the body of a net may have names for them.
    """
    kinds = {name: parameter.kind for name, parameter in inspect.signature(module.forward).parameters.items()}
    result: dict[str, tuple[ast.expr, object]] = {}
    for name in inputs.names_with_tensors:
        value = inputs.arguments[name]
        is_variadic = kinds.get(name) is inspect.Parameter.VAR_POSITIONAL
        if not is_variadic or not all(isinstance(item, Tensor) for item in value):  # type: ignore[attr-defined]
            result[inner_name(name)] = (ast.Name(name), value)
            continue
        items: Sequence[object] = value  # type: ignore[assignment]
        names = _variadic_names(body, len(items), name)
        for index, (item, item_name) in enumerate(zip(items, names, strict=True)):
            result[inner_name(item_name)] = (ast.Subscript(ast.Name(name), ast.Constant(index)), item)
    return result


def _variadic_names(body: list[str], count: int, name: str) -> list[str]:
    """Names for a number of inputs: those after ``self`` or ``p`` in a body, if it has as many."""
    names = [parameter for parameter in body if parameter not in ("self", "p", name)]
    if len(names) >= count and len(names) in (len(body), len(body) - 1):
        return names[:count]
    return ["x"] if count == 1 else [f"x{index}" for index in range(count)]
