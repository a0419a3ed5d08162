"""Parameters that the code of a foreign module reads from elsewhere than its own attributes.

A call can put the tensors of ``params`` only where the module holds its own. What code reads by a global name, by an
attribute of a class or as the default of an argument stays what it is. Where that is a parameter of the module itself,
the params of a call would be used in one place and not in the other; where it is none, nothing trains it.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._reachable import collect_reachable
from funcnet.core.internals import get_defaults
from funcnet.foreign._code_words import is_foreign_code, iter_code_of_calls
from funcnet.foreign._module_walk import named_modules, named_tensors
from funcnet.tree import join

_SHOWN = 5


def check_outside_parameters(module: nn.Module, stacklevel: int) -> None:
    """Refuse a module whose code reads its own parameters by other names, and warn of one that reads other parameters.

    Args:
        module: the module.
        stacklevel: of the warning, counted from the caller.

    Raises:
        ConversionError: names the parameters and where the code finds them.
    """
    own = {id(tensor): path for path, tensor in named_tensors(module, "_parameters")}
    found = {id(tensor): (place, tensor) for place, tensor in _iter_outside_parameters(module)}
    tied = [f"{own[key]}: {place}" for key, (place, _) in found.items() if key in own]
    if tied:
        raise ConversionError(
            f"the code of {type(module).__name__} reads parameters of the module by other names too, where a call "
            f"cannot put those of params{bullet_list(tied)}\nRead them as attributes of the module everywhere."
        )
    other = [f"{place}, of shape {tuple(tensor.shape)}" for place, tensor in found.values()]
    if other:
        more = [f"and {len(other) - _SHOWN} more"] if len(other) > _SHOWN else []
        warnings.warn(
            f"the code of {type(module).__name__} reads tensors that require grad and are no parameters of the module"
            f"{bullet_list([*other[:_SHOWN], *more])}\nThe net holds them as they are, and nothing trains them. "
            f"Assign them to attributes of the module, lists of them as nn.ParameterList or nn.ModuleList.",
            stacklevel=stacklevel + 1,
        )


def _iter_outside_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that require grad and that code finds outside of the dicts of the module, each with its place."""
    all_names: set[str] = set()
    copied_ids = set(collect_reachable(module))  # what instances hold is copied, and follows the call
    for function, names in iter_code_of_calls(module):
        all_names |= names
        defaults = {} if id(function) in copied_ids else get_defaults(function)
        for name, value in defaults.items():
            yield from _iter_trained_tensors(value, f"the default of {name!r} in {function.__qualname__}")
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            yield from _iter_trained_tensors(value, f"the global {name!r} in {function.__qualname__}")
            if _is_class_of_user(value):
                yield from _iter_class_attributes(value, names)
    classes = dict.fromkeys(base for submodule in module.modules() for base in type(submodule).__mro__)
    for cls in filter(_is_class_of_user, classes):
        yield from _iter_class_attributes(cls, all_names)
    own_ids = {id(submodule) for submodule in module.modules()} | {id(param) for param in module.parameters()}
    for path, submodule in named_modules(module):
        for name, value in vars(submodule).items():
            if name in all_names and name not in ("_parameters", "_buffers", "_modules"):
                yield from _iter_trained_tensors(value, f"the attribute {join(path, name)!r}", own_ids)


def _iter_class_attributes(cls: type, names: set[str]) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(cls).items():
        if name in names:
            yield from _iter_trained_tensors(value, f"the attribute {name!r} of the class {cls.__name__}")


def _iter_trained_tensors(
    value: Any, place: str, own_ids: set[int] | frozenset[int] = frozenset()
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that require grad among a value and its items, and those of modules among them."""
    is_mapping = isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections")
    items = value.values() if is_mapping else value if type(value) in (list, tuple, set) else (value,)
    for item in list(items):
        if id(item) in own_ids:
            continue
        if isinstance(item, Tensor):
            if item.requires_grad and item.is_leaf:
                yield place, item
        elif isinstance(item, nn.Module):
            yield from (
                (f"{path!r} in {place}", param) for path, param in item.named_parameters() if param.requires_grad
            )


def _is_class_of_user(value: object) -> bool:
    return isinstance(value, type) and not isinstance(value, types.GenericAlias) and is_foreign_code(value.__module__)
