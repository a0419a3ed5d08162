"""Explains calls whose inputs do not fit: what the body takes, and where buffers, mode and rng are passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from string import ascii_lowercase
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from funcnet.core._body_functions import iter_code, iter_functions
from funcnet.core._function import Function
from funcnet.core._kinds import ForeignNet
from funcnet.core._net import Net

_PLAIN_NAMES = ("train", "training", "mode", "rng", "seed", "generator", "buffers")


def _is_mode(value: object) -> bool:
    return isinstance(value, bool) or callable(value)


def _is_rng(value: object) -> bool:
    is_key = isinstance(value, Tensor) and value.dtype == torch.int64 and not value.dim()
    return is_key or (isinstance(value, int) and not isinstance(value, bool))


def _is_tree(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_generator(value: object) -> bool:
    return isinstance(value, torch.Generator)


_VALUE_TESTS = {
    "train": _is_mode,
    "training": _is_mode,
    "rng": _is_rng,
    "seed": _is_rng,
    "key": _is_rng,
    "generator": _is_generator,
    "buffers": _is_tree,
}


def _misspell(name: str) -> Iterator[str]:
    """A name with two letters exchanged, one left out or doubled, or an s at its end; of long names, one replaced."""
    for index in range(len(name)):
        before, letter, after = name[:index], name[index], name[index + 1 :]
        yield f"{before}{letter}{letter}{after}"
        if len(name) > 4:
            yield before + after
            yield from (before + other + after for other in ascii_lowercase if other != letter)
        if after:
            yield f"{before}{after[0]}{letter}{after[1:]}"
    yield f"{name}s"


_TESTS_BY_NAME: dict[str, Callable[[object], bool]] = {
    misspelt: test
    for name, test in _VALUE_TESTS.items()
    for misspelt in (name, *_misspell(name))
    if misspelt not in _PLAIN_NAMES
}
"""What the value of a near name has to be for it to be taken as that name; else it is the body's own affair."""

SWALLOWED_ARGUMENTS = frozenset({*_PLAIN_NAMES, *_TESTS_BY_NAME})
"""Names by which a caller may mean the mode, rng or buffers; a body with ``**kwargs`` would accept them silently."""

_MODE_IS_FOR_APPLY = "A mode and draws are for net.apply(params, buffers, *inputs, train=, rng=)."
_BUFFERS_ARE_FOR_APPLY = (
    "net(params, *inputs) hands everything after params to the body; buffers go to net.apply(params, buffers, *inputs)."
)


def refuse_swallowed_arguments(net: Net, kwargs: Mapping[str, Any], method: str) -> None:
    """Refuse a mode, an rng or buffers that a body would accept as a keyword argument and never read.

    Raises:
        TypeError: if the body takes any keyword and no code of the net takes or reads one of this name.
    """
    signature = signature_of_call(net, method)
    parameters = {} if signature is None else signature.parameters
    names = [name for name, value in kwargs.items() if name not in parameters and _is_meant_for_apply(name, value)]
    if not names or not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    functions = iter_functions(part for _, part in net.named_nets())
    codes = [code for _, function in functions for code in iter_code(function)]
    unread = [f"{name}=" for name in names if not any(_takes_or_reads(code, name) for code in codes)]
    if unread:
        raise TypeError(
            f"{net.title()} takes {_format_inputs(signature)} and would swallow {', '.join(unread)} unread, as no code "
            f"of it reads such an argument. {_MODE_IS_FOR_APPLY}"
        )


def _is_meant_for_apply(name: str, value: object) -> bool:
    """Whether a keyword argument is the mode, rng or buffers, perhaps misspelt."""
    return name in _PLAIN_NAMES or (name in _TESTS_BY_NAME and _TESTS_BY_NAME[name](value))


def _takes_or_reads(code: CodeType, name: str) -> bool:
    """Whether a function has an argument of this name, or holds the name as text, as in ``kwargs.get(name)``."""
    count = code.co_argcount + code.co_kwonlyargcount
    return name in code.co_varnames[:count] or name in code.co_consts


def signature_of_call(net: Net, method: str) -> inspect.Signature | None:
    """The inputs that a body, or any other method, takes after its view; None if they are not known."""
    part = None if isinstance(net, ForeignNet) or method == "forward" else net._parts.get(method)
    if isinstance(part, Net):
        return signature_of_call(part, "forward")
    try:
        if isinstance(net, ForeignNet):
            return inspect.signature(net.called_function(method))
        if isinstance(net, Function):
            return inspect.signature(net.function) if method == "forward" else None
        signature = inspect.signature(getattr(net, method))
    except (AttributeError, TypeError, ValueError):
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def explain_wrong_call(
    net: Net, error: Exception, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], method: str
) -> TypeError | None:
    """The error for inputs whose number or names the body does not take; None if they fit."""
    signature = signature_of_call(net, method) if isinstance(error, TypeError) else None
    if signature is None:
        return None
    try:
        signature.bind(*inputs, **kwargs)
    except TypeError as misfit:
        message = f"{net.title()} takes {_format_inputs(signature)}: {misfit}."
    else:
        return None
    unexpected = {name: value for name, value in kwargs.items() if name not in signature.parameters}
    if any(_is_meant_for_apply(name, value) and not _is_tree(value) for name, value in unexpected.items()):
        return TypeError(f"{message} {_MODE_IS_FOR_APPLY}")
    return TypeError(f"{message} {_BUFFERS_ARE_FOR_APPLY}" if _begin_with_buffers(inputs) else message)


def mention_buffers(error: Exception, inputs: tuple[Any, ...]) -> Exception:
    """The error of a call; it also explains where buffers go if the first input looks like buffers."""
    is_about_types = isinstance(error, (TypeError, AttributeError))
    if is_about_types and _begin_with_buffers(inputs) and _BUFFERS_ARE_FOR_APPLY not in str(error):
        return TypeError(f"{str(error).rstrip('.')}. The first input is {{}}: {_BUFFERS_ARE_FOR_APPLY}")
    return error


def _begin_with_buffers(inputs: tuple[Any, ...]) -> bool:
    """Whether the first input is an empty dict, as the buffers of a net that has none are."""
    return bool(inputs) and type(inputs[0]) is dict and not inputs[0]


def _format_inputs(signature: inspect.Signature | None) -> str:
    """The inputs as they stand in code, without types."""
    parameters = [] if signature is None else signature.parameters.values()
    return str(inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]))
