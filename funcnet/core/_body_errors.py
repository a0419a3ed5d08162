"""The errors of bodies, explained: each gets the path where it happened and what funcnet knows about its cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from inspect import CO_VARARGS
from operator import attrgetter
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from funcnet._context import under_transform
from funcnet._errors import FuncnetError, ShapeError, TransformError, UnplacedTransformError, add_note
from funcnet._tensors import is_inexact, iter_tensors
from funcnet._typing import TreeLike
from funcnet.core._check import find_tree_misfits, misfit_error
from funcnet.core._draw_source import call_and_path, describe_view
from funcnet.core._kinds import ForeignNet
from funcnet.core._view import EMPTY_TREE, View
from funcnet.core._wrong_calls import explain_wrong_call, mention_buffers
from funcnet.kernels.internals import describe_missing_rule
from funcnet.tree import flatten, join

if TYPE_CHECKING:
    from funcnet.core._call import PreparedNet


def explain_error(
    prepared: PreparedNet,
    params: TreeLike,
    error: Exception,
    inputs: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = EMPTY_TREE,
    method: str = "forward",
) -> Exception:
    """The error to raise for an error of a body: it names the path and what funcnet knows about the cause.

    Args:
        prepared: the net that was called.
        params, inputs, kwargs, method: what it was called with.
        error: what the body raised, or Python when it called the body.
    """
    if isinstance(error, UnplacedTransformError):
        return _explain_where(prepared, error)
    if isinstance(error, FuncnetError) or type(error).__module__ == "torch.utils.checkpoint":
        return error  # torch.utils.checkpoint stops its recomputation by this exception
    if "mixed torch.Tensor and DTensor" in str(error):
        from funcnet.core._placed_calls import mixed_placement_error

        return mixed_placement_error(prepared.net.title(), params, inputs, kwargs, error)
    lines = find_tree_misfits(prepared.specs, {"params": params})
    if lines:
        return misfit_error(prepared.net, lines)
    wrong_call = explain_wrong_call(prepared.net, error, inputs, kwargs, method)
    return wrong_call or mention_buffers(_explain_where(prepared, error), inputs)


def _explain_where(prepared: PreparedNet, error: Exception) -> Exception:
    """The error with the path and the inputs of the body that raised it."""
    if isinstance(error, AttributeError) and isinstance(error.obj, View):
        return _missing_name_error(error.obj, error.name or "")
    bodies = list(_iter_bodies_passed(error))
    if not bodies:
        return error
    view, title_and_path, inputs = bodies[-1]
    net = prepared.nets_by_path.get(call_and_path(view)[1])
    if isinstance(net, ForeignNet):
        title_and_path, inputs = net.find_running_submodule(error.__traceback__) or (title_and_path, inputs)
    elif isinstance(error, AttributeError) and (name := _unassignable_name(view, error)):
        if name in vars(type(view)):
            return _missing_name_error(view, name)
        return AttributeError(
            f"{title_and_path}: p.{name} cannot be set, as a call keeps nothing but buffers. Use a local variable, or "
            f"declare {name}=funcnet.Buffer(shape)."
        )
    if isinstance(error, UnplacedTransformError):
        return error.place(title_and_path)
    expects = view._expects
    expected = f"expected {expects}, " if expects else ""
    inputs_text = ", ".join(f"{name} {describe_input(value)}" for name, value in inputs.items()) or "no input"
    expected_and_got = f"{expected}got {inputs_text}"
    if under_transform() and "saved tensor hooks" in str(error):
        return TransformError(
            f"{title_and_path} uses torch.utils.checkpoint (or other hooks on saved tensors), of which transforms of "
            f"torch.func know nothing. Switch checkpointing off in the module, or take gradients by "
            f"funcnet.value_and_grad, which is a plain backward pass."
        )
    missing_rule = describe_missing_rule(error)
    if missing_rule is not None:
        message = str(error).strip().partition("\n")[0]
        return TransformError(f"{title_and_path}: {missing_rule}. Torch says: {message}")
    is_about_dtypes = isinstance(error, RuntimeError) and _ABOUT_DTYPES.search(str(error))
    if is_about_dtypes and (entries := _describe_mixed_dtypes(prepared, view, inputs)):
        got = f"expected one floating dtype, got {inputs_text}; {entries}"
        return ShapeError(f"{title_and_path}: {got}. {_message_as_sentence(error)}")
    is_about_transform = under_transform() and _ABOUT_TRANSFORMS.search(str(error))  # what torch cannot transform
    is_about_inputs = not (is_about_transform or _ABOUT_MACHINE.search(str(error)))
    if expects is not None and isinstance(error, _ERRORS_OF_INPUTS) and is_about_inputs:
        error_type = TypeError if isinstance(error, (TypeError, AttributeError)) else ShapeError
        is_nested = any(isinstance(value, torch.Tensor) and value.is_nested for value in inputs.values())
        way_out = _PAD_NESTED if is_nested else ""
        return error_type(f"{title_and_path}: {expected_and_got}. {_message_as_sentence(error)}{way_out}")
    add_note(error, f"in the body of {title_and_path}: {expected_and_got}")
    return error


def _describe_mixed_dtypes(prepared: PreparedNet, view: View, inputs: Mapping[str, Any]) -> str | None:
    """The params and buffers of a body by their dtypes, if these and its inputs are of several floating dtypes."""
    path = call_and_path(view)[1]
    prefix = f"{path}." if path else ""
    tensors: dict[str, object] = {}
    for tree in ("params", "buffers"):
        for entry in prepared.specs.get(tree, ()):
            if entry.startswith(prefix):
                tensors[f"{tree} {entry!r}"] = _read_entry(view, tree, entry.removeprefix(prefix))
    names_by_dtype: dict[torch.dtype, list[str]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and is_inexact(tensor):
            names_by_dtype.setdefault(tensor.dtype, []).append(name)
    input_dtypes = {tensor.dtype for tensor in iter_tensors(dict(inputs)) if is_inexact(tensor)}
    if len(names_by_dtype.keys() | input_dtypes) < 2:
        return None
    groups = []
    for dtype, names in names_by_dtype.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        verb = "is" if len(names) == 1 else "are"
        groups.append(f"{', '.join(names[:4])}{more} {verb} {str(dtype).removeprefix('torch.')}")
    return "; ".join(groups)


def _read_entry(view: View, tree: str, path: str) -> object:
    """The value at a path of the params or buffers that a view was made of; None if the view cannot tell."""
    try:
        return attrgetter(path)(view)
    except AttributeError:
        return flatten(getattr(view, f"_{tree}", EMPTY_TREE)).get(path)


_ABOUT_DTYPES = re.compile(r"dtype|scalar type|[Tt]ype \(|weights are torch")
_ABOUT_TRANSFORMS = re.compile(
    r"vmap|batch|functorch|torch\.func|forward AD|derivative|data-dependent|item\(\)|not implemented"
)
_PAD_NESTED = " Pad a nested tensor, torch.nested.to_padded_tensor(x, 0.0), and give a mask of what is padding."
_ABOUT_MACHINE = re.compile(r"could not create a primitive|allocate memory|out of memory|CUDA error|cuDNN error")
"""What torch says where the inputs are right, and the machine has no kernel or no memory for them."""
_ERRORS_OF_INPUTS = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError)


def _message_as_sentence(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    first_word = text.split(" ")[0]
    return f"{text[:1].upper() if first_word.isalpha() else text[:1]}{text[1:]}." if text else ""


def _iter_bodies_passed(error: Exception) -> Iterator[tuple[View, str, dict[str, Any]]]:
    """The view, the title with path, and the inputs of each body that an error passed through, outermost first."""
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
            yield (*(shared or (view, describe_view(view))), inputs)
            parent = parent if shared else view
        trace = trace.tb_next


def _find_shared_view(parent: View, view: View, code: CodeType) -> tuple[View, str] | None:
    """The shared view of a body that ignores its view, and the paths under ``parent`` where that body may be.

    None if the body with this code uses its view. A body that ignores its view is called with any view.
    """
    matches = [
        (cls, path)
        for cls, path in _iter_view_classes(type(parent), call_and_path(parent)[1])
        if cls._shared is not None and cls.__call__.__code__ is code
    ]
    if matches:
        return matches[0][0]._shared, f"{matches[0][0].__name__} at {' or '.join(repr(path) for _, path in matches)}"
    return (parent, describe_view(parent)) if view is type(view)._shared else None


def _iter_view_classes(cls: type[View], path: str) -> Iterator[tuple[Any, str]]:
    """The view classes of all parts under a view of class ``cls``, each with its path."""
    for name, part_class in zip(cls._names, cls._classes, strict=True):
        yield part_class, join(path, name)
        yield from _iter_view_classes(part_class, join(path, name))


def _is_data(value: object) -> bool:
    return value is not None and not isinstance(value, bool)


def describe_input(value: object) -> str:
    """A value in a few words: for a tensor its shape and dtype.

    >>> describe_input(torch.ones(2, 3)), describe_input((torch.ones(1), None)), describe_input({"a": torch.ones(1)})
    ('(2, 3) float32', '((1,) float32, None)', "a dict with 'a'")
    """
    if isinstance(value, torch.Tensor) and value.is_nested:
        return f"a nested tensor of {value.size(0)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)) and any(isinstance(item, (torch.Tensor, tuple)) for item in value):
        return f"({', '.join(map(describe_input, value))})"
    if isinstance(value, Mapping) and value:
        return f"a dict with {', '.join(map(repr, value))}"
    return f"{value!r:.40}"


_NO_SETTER = re.compile(r"property '(\w+)' of '(\w+)' object has no setter|can't set attribute '(\w+)'")
_NO_SLOT = re.compile(r"'(\w+)' object has no attribute '(\w+)'")


def _unassignable_name(view: View, error: AttributeError) -> str | None:
    """The name in a failed ``p.name = …``, taken from Python's message; None otherwise.

    A failed read of an attribute has the same message; there ``error.obj`` is the object without that attribute.
    """
    if error.obj is not None and error.obj is not view:
        return None
    if match := _NO_SLOT.fullmatch(str(error)):
        return match[2] if match[1] == type(view).__name__ else None
    match = _NO_SETTER.match(str(error))
    if match is None or (match[2] or type(view).__name__) != type(view).__name__:
        return None
    name = match[1] or match[3]
    return name if name in vars(type(view)) else None


def _missing_name_error(view: View, name: str) -> AttributeError:
    """The error for a name that a view does not have, or cannot be assigned; it lists the names that exist."""
    cls = type(view)
    names = sorted(name for name in (*cls.__dict__, *getattr(cls, "__slots__", ())) if not name.startswith("_"))
    title_and_path = describe_view(view)
    if isinstance(cls.__dict__.get(name), property):
        return AttributeError(
            f"{title_and_path}: {name!r} is a param or a part, which a call cannot replace. Buffers it can."
        )
    return AttributeError(f"{title_and_path} has no {name!r}; it has {', '.join(names) or 'no names'}.")
