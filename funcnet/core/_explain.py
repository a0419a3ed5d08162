"""What went wrong in a body, and where: the error to show, with the path and what funcnet knows about the cause."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from funcnet._errors import FuncnetError, ShapeError
from funcnet._torch import under_transform
from funcnet._typing import TreeLike
from funcnet.core._check import misfits_of, refuse
from funcnet.core._view import View, origin

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
    views = list(_views_in(error))
    if not views:
        return _wrong_call(error)
    if isinstance(error, AttributeError) and (unset := _NO_SETTER.match(str(error))):
        return _no_such_name(views[-1], unset[1] or unset[2])
    _, path = origin(views[-1])
    where = f"{type(views[-1]).__name__} at {path!r}" if path else type(views[-1]).__name__
    expects = views[-1]._expects
    # within a transform an error may as well say what torch cannot transform, so it keeps its type
    if expects and isinstance(error, (RuntimeError, ValueError, IndexError)) and not under_transform():
        return ShapeError(f"{where} failed: {str(error).rstrip('.')}. It expects {expects}.")
    if sys.version_info >= (3, 11):
        error.add_note(f"in the body of {where}{expects and f', which expects {expects}'}")
    return error


def _views_in(error: Exception) -> Iterator[View]:
    """The views of the bodies an error went through, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_argcount:
            first = trace.tb_frame.f_locals.get(code.co_varnames[0])
            if isinstance(first, View) and (not code.co_name.startswith("_")):
                yield first
        trace = trace.tb_next


_NO_SETTER = re.compile(r"property '(\w+)' of .* has no setter|can't set attribute '(\w+)'")


def _wrong_call(error: Exception) -> Exception:
    """A TypeError of the call itself says where buffers go, if there were too many arguments."""
    text = str(error)
    if isinstance(error, TypeError) and re.search("unexpected keyword argument '(train|rng)'", text):
        return TypeError(f"{error}. A mode and draws are for net.apply(params, buffers, *inputs, train=, rng=).")
    if isinstance(error, TypeError) and "positional argument" in text:
        return TypeError(
            f"{error}. net(params, *inputs) hands everything after params to the body; buffers go to "
            f"net.apply(params, buffers, *inputs)."
        )
    return error


def _no_such_name(view: View, name: str) -> AttributeError:
    _, path = origin(view)
    cls = type(view)
    names = sorted(name for name in (*cls.__dict__, *getattr(cls, "__slots__", ())) if not name.startswith("_"))
    what = f"{cls.__name__} at {path!r}" if path else cls.__name__
    if isinstance(cls.__dict__.get(name), property):
        return AttributeError(f"{what}: {name!r} is a param or a part, which a call cannot replace. Buffers it can.")
    return AttributeError(f"{what} has no {name!r}; it has {', '.join(names) or 'no names'}.")
