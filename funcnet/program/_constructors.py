"""Modules as the expressions that build them."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, FuncnetError
from funcnet.adapters import from_module
from funcnet.core import Net
from funcnet.foreign import Wrapped

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_IGNORED = frozenset({"impl", "device", "dtype", "mode"})


def constructor(module: nn.Module) -> ast.expr | None:
    """The call that builds a layer of torch.nn as this one is, but for its numbers; None for any other module.

    >>> ast.unparse(constructor(nn.Conv2d(3, 8, 3, padding=1)))
    'nn.Conv2d(3, 8, 3, padding=1)'
    """
    kind = type(module)
    own = getattr(nn, kind.__name__, None) is kind and not isinstance(module, _CONTAINERS)
    if not own or (list(module.children()) and not isinstance(module, nn.MultiheadAttention)):
        return None
    try:
        net = from_module(module)[0]
    except FuncnetError:
        return None
    if isinstance(net, Wrapped) or not dataclasses.is_dataclass(net):
        return None
    call = next(
        (call for plain in (_plain, _given) if (call := _call(kind, net, plain)) and _builds(call, module)), None
    )
    if call is None:
        return None
    dtypes = {param.dtype for param in module.parameters()} - {torch.float32}
    if dtypes:
        call.keywords.append(ast.keyword("dtype", ast.parse(str(dtypes.pop()), mode="eval").body))
    return call


def _given(value: Any) -> Any:
    return value


def _call(kind: type, net: Net, plain: Callable[[Any], Any]) -> ast.Call | None:
    args: list[ast.expr] = []
    keywords: list[ast.keyword] = []
    for field in dataclasses.fields(net):  # type: ignore[arg-type]
        value = plain(getattr(net, field.name))
        if field.name.startswith("_") or (field.name in _IGNORED and not (field.name == "mode" and _has_mode(kind))):
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if not required and value == plain(field.default):
            continue
        if not _is_constant(value):
            return None
        node = ast.parse(repr(value), mode="eval").body
        if required:
            args.append(node)
        else:
            keywords.append(ast.keyword(field.name, node))
    return ast.Call(ast.Name(f"nn.{kind.__name__}"), args, keywords)


def _has_mode(kind: type) -> bool:
    return not issubclass(kind, (nn.RNNBase, nn.RNNCellBase))


def _plain(value: Any) -> Any:
    """A tuple of one number as that number, as most authors write it."""
    if isinstance(value, tuple) and value and all(type(one) is int and one == value[0] for one in value):
        return value[0]
    return value


def _is_constant(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _builds(call: ast.Call, module: nn.Module) -> bool:
    """Whether an expression builds a module that looks the same."""
    text = ast.unparse(ast.Expression(call))
    try:
        with torch.device("meta"):
            built = eval(text, {"nn": nn, "torch": torch})
    except Exception:
        return False
    state = {key: value.shape for key, value in module.state_dict().items()}
    return repr(built) == repr(module) and state == {key: value.shape for key, value in built.state_dict().items()}


def empty(tensor: Tensor) -> str:
    """An expression for a tensor of this shape and dtype."""
    dtype = "" if tensor.dtype == torch.get_default_dtype() else f", dtype={tensor.dtype}"
    return f"torch.empty({', '.join(map(str, tensor.shape)) or '()'}{dtype})"


_MOST = 4096


def literal(tensor: Tensor, path: str) -> str:
    """An expression for the numbers of a tensor, which no state_dict holds.

    Raises:
        ConversionError: if they are too many.
    """
    tensor = tensor.detach().cpu()
    dtype, shape = f"dtype={tensor.dtype}", tuple(tensor.shape)
    flat = tensor.reshape(-1)
    if flat.numel() > 1 and bool((flat == flat[0]).all()):
        return f"torch.full({shape}, {_number(flat[0])}, {dtype})"
    if not tensor.dtype.is_floating_point and tensor.dtype != torch.bool and shape and flat.numel() > 1:
        row = tensor.reshape(-1, shape[-1])
        if bool((row == torch.arange(shape[-1])).all()):
            expanded = f".expand({', '.join(map(str, shape))})" if len(shape) > 1 else ""
            return f"torch.arange({shape[-1]}, {dtype}){expanded}"
    if flat.numel() > _MOST:
        raise ConversionError(
            f"buffer {path!r} is in no state_dict (persistent=False) and holds {flat.numel()} numbers, more than a "
            f"text should. Register it with persistent=True, or write it stateless: there it is an argument."
        )
    numbers = ", ".join(_number(one) for one in flat)
    shaped = "" if len(shape) == 1 else f".view({', '.join(map(str, shape)) or '()'})"
    return f"torch.tensor([{numbers}], {dtype}){shaped}"


def _number(one: Tensor) -> str:
    value = one.item()
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else f'float("{value}")'
