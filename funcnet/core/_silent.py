"""Which bodies cannot draw from torch's global generator, told from their code.

To watch the generator costs about a hundredth of a small call. Most bodies are a few calls of parts and of functions
such as ``F.relu``; they need no watching, and saying so is safe only if nothing in them is unknown. So every name
a body uses is looked at, its helpers too, and whatever is not known to be silent counts as drawing.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet.core._function import Function
from funcnet.core._net import Net
from funcnet.random import DRAWING

_NAMES = {function.__name__ for function in DRAWING} | {"nn", "init", "distributions", "sample", "rsample", "Generator"}
_MODULES = ("torch", "funcnet", "math", "operator", "itertools", "functools")
_LISTED = ("torch.nn.functional", "torch.functional")  # Python code of torch of which it is known what draws
_BUILTINS = {
    getattr(builtins, name)
    for name in (
        *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max"),
        *("min", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip"),
        *("ValueError", "TypeError", "RuntimeError", "KeyError", "AssertionError", "NotImplementedError"),
    )
}
_VALUES = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Tensor, Net)


def never_draws_globally(net: Net) -> bool:
    """Whether the body of a net, parts not included, is known never to draw from torch's generator."""
    if net._traits.reads_trees or not hasattr(type(net), "forward"):
        return False
    function = net.function if isinstance(net, Function) else getattr(net.forward, "__func__", net.forward)
    others = net._named_constants.values()
    return all(_silent(value, set()) for value in (function, *others))


def _silent(value: Any, seen: set[int]) -> bool:
    if id(value) in seen or isinstance(value, _VALUES):
        return True
    seen.add(id(value))
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in _MODULES
    if isinstance(value, (tuple, list, frozenset)):
        return all(_silent(item, seen) for item in value)
    name, module = getattr(value, "__name__", ""), getattr(value, "__module__", None) or ""
    if isinstance(value, types.FunctionType) and not module.startswith(("torch.", "funcnet.")):
        return _silent_code(value, seen)
    if isinstance(value, type):
        return value in _BUILTINS or issubclass(value, Tensor)
    if isinstance(value, types.FunctionType) and module not in _LISTED:
        return False  # it may draw further down
    known = module.split(".")[0] in ("torch", "funcnet", "math") or isinstance(value, types.BuiltinFunctionType)
    return value in _BUILTINS if module == "builtins" else known and name not in _NAMES


def _silent_code(function: Callable[..., Any], seen: set[int]) -> bool:
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    if names & _NAMES:
        return False
    space = {**vars(builtins), **function.__globals__}
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    used = [space[name] for name in names if name in space]
    used += [getattr(home, name) for home in (torch, F) for name in names if hasattr(home, name)]
    return all(_silent(value, seen) for value in (*used, *cells, *(function.__defaults__ or ())))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not assigned yet
        return False
