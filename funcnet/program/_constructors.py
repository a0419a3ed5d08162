"""Modules and tensors as the expressions that build them."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, FuncnetError
from funcnet.adapters import from_module
from funcnet.core import Net
from funcnet.foreign import Wrapped
from funcnet.program._expressions import dotted_name, number, without_repetition
from funcnet.program._text import text_of

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_IGNORED_FIELDS = frozenset({"impl", "device", "dtype", "mode"})


def layer_constructor(module: nn.Module) -> ast.Call | None:
    """The call that builds a layer of torch.nn as this one is, but for its numbers; None for any other module.

    >>> text_of(layer_constructor(nn.Conv2d(3, 8, 3, padding=1)))
    'nn.Conv2d(3, 8, 3, padding=1)'
    """
    kind = type(module)
    is_layer = getattr(nn, kind.__name__, None) is kind and not isinstance(module, _CONTAINERS)
    if not is_layer or (list(module.children()) and not isinstance(module, nn.MultiheadAttention)):
        return None
    try:
        net = from_module(module)[0]
    except FuncnetError:
        return None
    if isinstance(net, Wrapped) or not dataclasses.is_dataclass(net):
        return None
    calls = (_constructor_call(kind, net, simplify) for simplify in (without_repetition, _unchanged))
    call = next((call for call in calls if call is not None and _builds(call, module)), None)
    dtypes = {param.dtype for param in module.parameters()} - {torch.float32}
    if call is not None and dtypes:
        call.keywords.append(ast.keyword("dtype", dotted_name(str(dtypes.pop()))))
    return call


def _unchanged(value: object) -> object:
    return value


def _constructor_call(kind: type[nn.Module], net: Net, simplify: Callable[[object], object]) -> ast.Call | None:
    """The call of a class with the fields of its net that differ from the defaults; None if one is not a constant."""
    args: list[ast.expr] = []
    keywords: list[ast.keyword] = []
    has_mode = not issubclass(kind, (nn.RNNBase, nn.RNNCellBase))
    for field in dataclasses.fields(net):  # type: ignore[arg-type]  # nets are made dataclasses by their base
        value = simplify(getattr(net, field.name))
        is_mode = field.name == "mode" and has_mode
        if field.name.startswith("_") or (field.name in _IGNORED_FIELDS and not is_mode):
            continue
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if not is_required and value == simplify(field.default):
            continue
        expression = _literal(value)
        if expression is None:
            return None
        if is_required:
            args.append(expression)
        else:
            keywords.append(ast.keyword(field.name, expression))
    return ast.Call(dotted_name(f"nn.{kind.__name__}"), args, keywords)


def _literal(value: object) -> ast.expr | None:
    """The expression for a constant or a tuple or list of constants; None for any other value."""
    if isinstance(value, (tuple, list)):
        items = [_literal(item) for item in value]
        known = [item for item in items if item is not None]
        if len(known) < len(items):
            return None
        return ast.Tuple(known) if isinstance(value, tuple) else ast.List(known)
    is_finite = isinstance(value, float) and math.isfinite(value)
    return ast.Constant(value) if value is None or isinstance(value, (bool, int, str)) or is_finite else None  # type: ignore[arg-type]


def _builds(call: ast.Call, module: nn.Module) -> bool:
    """Whether an expression builds a module that looks the same."""
    try:
        with torch.device("meta"):
            twin = eval(text_of(call), {"nn": nn, "torch": torch})
    except Exception:
        return False
    return repr(twin) == repr(module) and _state_shapes(twin) == _state_shapes(module)


def _state_shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


def call_of(name: str, args: Sequence[ast.expr | int], **keywords: ast.expr | bool) -> ast.Call:
    """The expression for a call, with numbers and flags as they are."""

    def as_expression(value: ast.expr | int) -> ast.expr:
        return value if isinstance(value, ast.expr) else ast.Constant(value)

    named = [ast.keyword(key, as_expression(value)) for key, value in keywords.items()]
    return ast.Call(dotted_name(name), [as_expression(arg) for arg in args], named)


def empty_tensor(tensor: Tensor) -> ast.Call:
    """The expression for a tensor of a shape and dtype."""
    sizes: list[ast.expr | int] = [*tensor.shape] or [ast.Tuple([])]
    if tensor.dtype == torch.get_default_dtype():
        return call_of("torch.empty", sizes)
    return call_of("torch.empty", sizes, dtype=dotted_name(str(tensor.dtype)))


_MOST_NUMBERS = 4096


def tensor_literal(tensor: Tensor, path: str) -> ast.expr:
    """The expression for the numbers of a tensor, which no state_dict holds.

    Raises:
        ConversionError: if they are too many.
    """
    tensor = tensor.detach().cpu()
    dtype, shape, flat = dotted_name(str(tensor.dtype)), tuple(tensor.shape), tensor.reshape(-1)
    if flat.numel() > 1 and bool((flat == flat[0]).all()):
        sizes = ast.Tuple([ast.Constant(size) for size in shape])
        return call_of("torch.full", [sizes, number(flat[0].item())], dtype=dtype)
    holds_ints = not tensor.dtype.is_floating_point and tensor.dtype != torch.bool
    if holds_ints and shape and flat.numel() > 1 and bool((tensor == torch.arange(shape[-1])).all()):
        row = call_of("torch.arange", [shape[-1]], dtype=dtype)
        return row if len(shape) == 1 else _method_call(row, "expand", shape)
    if flat.numel() > _MOST_NUMBERS:
        raise ConversionError(
            f"buffer {path!r} is in no state_dict (persistent=False) and holds {flat.numel()} numbers, more than a "
            f"text should. Register it with persistent=True, or write it stateless: there it is an argument."
        )
    values = call_of("torch.tensor", [ast.List([number(value) for value in flat.tolist()])], dtype=dtype)
    return values if len(shape) == 1 else _method_call(values, "view", shape)


def _method_call(value: ast.expr, method: str, shape: Sequence[int]) -> ast.Call:
    sizes: list[ast.expr] = [ast.Constant(size) for size in shape] or [ast.Tuple([])]
    return ast.Call(ast.Attribute(value, method), sizes, [])
