"""The errors of bodies, explained: each gets the path where it happened and what funcnet knows about its cause."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import CO_VARARGS
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from funcnet._context import under_transform
from funcnet._errors import FuncnetError, ShapeError, TransformError
from funcnet._typing import TreeLike
from funcnet.core._check import find_tree_misfits, misfit_error
from funcnet.core._view import View, call_and_path, describe_place
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._call import Program


def explain_error(program: Program, params: TreeLike, error: Exception) -> Exception:
    """The error to raise for one that came out of a body: with a path, and what funcnet knows about the cause."""
    if isinstance(error, FuncnetError) or type(error).__module__ == "torch.utils.checkpoint":
        return error  # the second is how a checkpoint ends a call that has recomputed enough
    lines = find_tree_misfits(program.specs, {"params": params})
    if lines:
        return misfit_error(program.net, lines)
    if isinstance(error, AttributeError) and isinstance(error.obj, View):
        return _missing_name_error(error.obj, error.name or "")
    bodies = list(_iter_bodies_passed(error))
    if not bodies:
        return _wrong_call_error(error)
    view, place, inputs = bodies[-1]
    if isinstance(error, AttributeError) and (refused := _NO_SETTER.match(str(error))):
        return _missing_name_error(view, refused[1] or refused[2])
    if isinstance(error, AttributeError) and (name := _unsettable_name(view, error)):
        return AttributeError(
            f"{place}: p.{name} cannot be set, as a call keeps nothing but buffers. Use a local variable, or "
            f"declare {name}=funcnet.Buffer(shape)."
        )
    expects = view._expects
    expected = f"expected {expects}, " if expects else ""
    inputs_text = ", ".join(f"{name} {describe_value(value)}" for name, value in inputs.items()) or "no input"
    expected_and_got = f"{expected}got {inputs_text}"
    if under_transform() and "saved tensor hooks" in str(error):
        return TransformError(
            f"{place} uses torch.utils.checkpoint (or other hooks on saved tensors), of which transforms of torch.func "
            f"know nothing. Switch checkpointing off in the module, or take gradients by funcnet.value_and_grad, which "
            f"is a plain backward pass."
        )
    is_about_transform = under_transform() and _ABOUT_TRANSFORMS.search(str(error))  # what torch cannot transform
    if expects is not None and isinstance(error, _ERRORS_OF_INPUTS) and not is_about_transform:
        error_type = TypeError if isinstance(error, (TypeError, AttributeError)) else ShapeError
        return error_type(f"{place}: {expected_and_got}. {_message_as_sentence(error)}")
    if sys.version_info >= (3, 11):
        error.add_note(f"in the body of {place}: {expected_and_got}")
    return error


_ABOUT_TRANSFORMS = re.compile(
    r"vmap|batch|functorch|torch\.func|forward AD|derivative|data-dependent|item\(\)|not implemented"
)
_ERRORS_OF_INPUTS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError)


def _message_as_sentence(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    first_word = text.split(" ")[0]
    return f"{text[:1].upper() if first_word.isalpha() else text[:1]}{text[1:]}." if text else ""


def _iter_bodies_passed(error: Exception) -> Iterator[tuple[View, str, dict[str, Any]]]:
    """The view, the place in words and the inputs of each body that an error went through, outermost first."""
    trace, parent = error.__traceback__, None
    while trace is not None:
        code = trace.tb_frame.f_code
        is_public = code.co_argcount and not code.co_name.startswith("_")
        values = trace.tb_frame.f_locals if is_public else {}  # reading them makes a dict, which the frame keeps
        view = values.get(code.co_varnames[0]) if is_public else None
        if isinstance(view, View):
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            inputs = {name: values[name] for name in names if name in values}
            inputs = {name: value for name, value in inputs.items() if name == names[0] or _is_data(value)}
            if code.co_flags & CO_VARARGS:
                varargs = values[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]]
                inputs.update({f"input {index}": value for index, value in enumerate(varargs)})
            shared = _find_shared_view(parent, view, code) if parent is not None else None
            yield (*(shared or (view, describe_place(view))), inputs)
            parent = parent if shared else view
        trace = trace.tb_next


def _find_shared_view(parent: View, view: View, code: CodeType) -> tuple[View, str] | None:
    """The shared view of a body that ignores its view, and the paths under ``parent`` where that body may be.

    None if the body with this code uses its view. One that ignores it is called with any view, so its own is unknown.
    """
    matches = [
        (cls, path)
        for cls, path in _iter_view_classes(type(parent), call_and_path(parent)[1])
        if cls._shared is not None and cls.__call__.__code__ is code
    ]
    if matches:
        return matches[0][0]._shared, f"{matches[0][0].__name__} at {' or '.join(repr(path) for _, path in matches)}"
    return (parent, describe_place(parent)) if view is type(view)._shared else None


def _iter_view_classes(cls: type[View], path: str) -> Iterator[tuple[Any, str]]:
    """The view classes of all parts under a view of class ``cls``, each with its path."""
    for name, part_class in zip(cls._names, cls._classes, strict=True):
        yield part_class, join(path, name)
        yield from _iter_view_classes(part_class, join(path, name))


def _is_data(value: object) -> bool:
    return value is not None and not isinstance(value, bool)


def describe_value(value: object) -> str:
    """A value in a few words: for a tensor its shape and dtype.

    >>> describe_value(torch.ones(2, 3)), describe_value((torch.ones(1), None))
    ('(2, 3) float32', '((1,) float32, None)')
    """
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)) and any(isinstance(item, (torch.Tensor, tuple)) for item in value):
        return f"({', '.join(map(describe_value, value))})"
    return f"{value!r:.40}"


_NO_SETTER = re.compile(r"property '(\w+)' of .* has no setter|can't set attribute '(\w+)'")
_NO_SLOT = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_ARGUMENT_OF_APPLY = re.compile("unexpected keyword argument '(train|training|rng|seed|generator)'")


def _wrong_call_error(error: Exception) -> Exception:
    """The error of a call that did not reach a body; it says where buffers, mode and draws are given."""
    text = str(error)
    if isinstance(error, TypeError) and _ARGUMENT_OF_APPLY.search(text):
        return TypeError(f"{error}. A mode and draws are for net.apply(params, buffers, *inputs, train=, rng=).")
    if isinstance(error, TypeError) and "positional argument" in text:
        return TypeError(
            f"{error}. net(params, *inputs) hands everything after params to the body; buffers go to "
            f"net.apply(params, buffers, *inputs)."
        )
    return error


def _unsettable_name(view: View, error: AttributeError) -> str | None:
    """The name that a body assigned to a view which has no slot for it, as Python's message says it."""
    match = _NO_SLOT.fullmatch(str(error))
    return match[2] if match and match[1] == type(view).__name__ else None


def _missing_name_error(view: View, name: str) -> AttributeError:
    """The error for a name that a view does not have, or cannot be assigned; it lists the names that exist."""
    cls = type(view)
    names = sorted(name for name in (*cls.__dict__, *getattr(cls, "__slots__", ())) if not name.startswith("_"))
    place = describe_place(view)
    if isinstance(cls.__dict__.get(name), property):
        return AttributeError(f"{place}: {name!r} is a param or a part, which a call cannot replace. Buffers it can.")
    return AttributeError(f"{place} has no {name!r}; it has {', '.join(names) or 'no names'}.")
