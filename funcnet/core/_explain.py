"""What went wrong in a body, and where: the error to show, with the path and what funcnet knows about the cause."""

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
from funcnet.core._check import misfits_of, refuse
from funcnet.core._view import View, origin, where
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._call import Program


def explain(program: Program, params: TreeLike, error: Exception) -> Exception:
    """The error to show for one that came out of a body: with a path, and what funcnet knows about the cause."""
    if isinstance(error, FuncnetError):
        return error
    lines = misfits_of(program.expected, {"params": params})
    if lines:
        return refuse(program.net, lines)
    if isinstance(error, AttributeError) and isinstance(error.obj, View):
        return _no_such_name(error.obj, error.name or "")
    bodies = list(_bodies_in(error))
    if not bodies:
        return _wrong_call(error)
    view, place, inputs = bodies[-1]
    if isinstance(error, AttributeError) and (unset := _NO_SETTER.match(str(error))):
        return _no_such_name(view, unset[1] or unset[2])
    if isinstance(error, AttributeError) and (unset := _unslotted(view, error)):
        return AttributeError(
            f"{place}: p.{unset[2]} cannot be set, as a call keeps nothing but buffers. Use a local variable, or "
            f"declare {unset[2]}=funcnet.Buffer(shape)."
        )
    expects = view._expects
    wanted = f"expected {expects}, " if expects else ""
    got = f"{wanted}got {', '.join(f'{name} {described(value)}' for name, value in inputs.items()) or 'no input'}"
    if under_transform() and "saved tensor hooks" in str(error):
        return TransformError(
            f"{place} uses torch.utils.checkpoint (or other hooks on saved tensors), of which transforms of torch.func "
            f"know nothing. Switch checkpointing off in the module, or take gradients by funcnet.value_and_grad, which "
            f"is a plain backward pass."
        )
    transform = under_transform() and _OF_TRANSFORMS.search(str(error))  # it says what torch cannot transform
    if expects is not None and isinstance(error, _OF_INPUTS) and not transform:
        kind = TypeError if isinstance(error, (TypeError, AttributeError)) else ShapeError
        return kind(f"{place}: {got}. {_sentence(error)}")
    if sys.version_info >= (3, 11):
        error.add_note(f"in the body of {place}: {got}")
    return error


_OF_TRANSFORMS = re.compile(
    r"vmap|batch|functorch|torch\.func|forward AD|derivative|data-dependent|item\(\)|not implemented"
)
_OF_INPUTS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError)


def _sentence(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    first = text.split(" ")[0]
    return f"{text[:1].upper() if first.isalpha() else text[:1]}{text[1:]}." if text else ""


def _bodies_in(error: Exception) -> Iterator[tuple[View, str, dict[str, Any]]]:
    """The view, the place in words and the inputs of each body an error went through, outermost first."""
    trace, above = error.__traceback__, None
    while trace is not None:
        code, values = trace.tb_frame.f_code, trace.tb_frame.f_locals
        view = values.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(view, View) and not code.co_name.startswith("_"):
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            inputs = {name: values[name] for name in names if name in values}
            inputs = {name: value for name, value in inputs.items() if name == names[0] or _is_data(value)}
            if code.co_flags & CO_VARARGS:
                rest = values[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]]
                inputs.update({f"input {index}": value for index, value in enumerate(rest)})
            shared = _shared_view(above, view, code) if above is not None else None
            yield (*(shared or (view, where(view))), inputs)
            above = above if shared else view
        trace = trace.tb_next


def _shared_view(parent: View, view: View, code: CodeType) -> tuple[View, str] | None:
    """The shared view of a body that ignores its view, and the paths under ``parent`` where that body may be.

    None if the body with this code uses its view. One that ignores it is called with any view, so its own is unknown.
    """
    matches = [
        (part, path)
        for part, path in _iter_view_classes(type(parent), origin(parent)[1])
        if part._shared is not None and part.__call__.__code__ is code
    ]
    if matches:
        return matches[0][0]._shared, f"{matches[0][0].__name__} at {' or '.join(repr(path) for _, path in matches)}"
    return (parent, where(parent)) if view is type(view)._shared else None


def _iter_view_classes(cls: type[View], path: str) -> Iterator[tuple[Any, str]]:
    """The view classes of all parts under a view of class ``cls``, each with its path."""
    for name, part in zip(cls._names, cls._classes, strict=True):
        yield part, join(path, name)
        yield from _iter_view_classes(part, join(path, name))


def _is_data(value: Any) -> bool:
    return value is not None and not isinstance(value, bool)


def described(value: Any) -> str:
    """A value in a few words: for a tensor its shape and dtype.

    >>> described(torch.ones(2, 3)), described((torch.ones(1), None))
    ('(2, 3) float32', '((1,) float32, None)')
    """
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)) and any(isinstance(item, (torch.Tensor, tuple)) for item in value):
        return f"({', '.join(map(described, value))})"
    return f"{value!r:.40}"


_NO_SETTER = re.compile(r"property '(\w+)' of .* has no setter|can't set attribute '(\w+)'")
_NO_SLOT = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_OF_APPLY = re.compile("unexpected keyword argument '(train|training|rng|seed|generator)'")


def _wrong_call(error: Exception) -> Exception:
    """A TypeError of the call itself says where buffers go, if there were too many arguments."""
    text = str(error)
    if isinstance(error, TypeError) and _OF_APPLY.search(text):
        return TypeError(f"{error}. A mode and draws are for net.apply(params, buffers, *inputs, train=, rng=).")
    if isinstance(error, TypeError) and "positional argument" in text:
        return TypeError(
            f"{error}. net(params, *inputs) hands everything after params to the body; buffers go to "
            f"net.apply(params, buffers, *inputs)."
        )
    return error


def _unslotted(view: View, error: AttributeError) -> re.Match[str] | None:
    """What could not be assigned to a view, as Python says it."""
    found = _NO_SLOT.fullmatch(str(error))
    return found if found and found[1] == type(view).__name__ else None


def _no_such_name(view: View, name: str) -> AttributeError:
    _, path = origin(view)
    cls = type(view)
    names = sorted(name for name in (*cls.__dict__, *getattr(cls, "__slots__", ())) if not name.startswith("_"))
    what = f"{cls.__name__} at {path!r}" if path else cls.__name__
    if isinstance(cls.__dict__.get(name), property):
        return AttributeError(f"{what}: {name!r} is a param or a part, which a call cannot replace. Buffers it can.")
    return AttributeError(f"{what} has no {name!r}; it has {', '.join(names) or 'no names'}.")
