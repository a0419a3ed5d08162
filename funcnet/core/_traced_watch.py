"""Whether a body wrote to what the caller gave it, while torch.compile traces the body.

The compiler repeats writes to lists and dicts, and to tensors, so that compiled code would change what is the caller's
where plain code is refused. While it traces, the tensors have versions too, and lists and dicts can be compared. An
error raised there makes the compiler run the call as plain code, whose error names what was written to; with
``fullgraph=True`` it is the error that users see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from funcnet._errors import PurityError
from funcnet._tensors import is_tensordict
from funcnet.core._input_watch import name_inputs, write_error
from funcnet.core._net import Net


def traced_write_error(title: str, names: str) -> PurityError:
    """The error for a body that wrote to tensors which existed before its call."""
    return write_error(title, [f"{names} (in the words of the compiler)"])


def untraceable_error(title: str, what: str) -> PurityError:
    """The error for a body whose writes do not show while it is traced."""
    return PurityError(
        f"the body of {title} uses {what}, by which it could write to what is not its own, unseen by compiled code. "
        f"Leave it out, or call the net outside of torch.compile(fullgraph=True)."
    )


def run_and_compare_when_traced(
    title: str,
    body: Callable[..., Any],
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shared_values: list[tuple[str, Any]],
) -> Any:
    """Run a body that is being traced, and refuse writes to lists, dicts and objects, which the compiler repeats.

    The compiler traces this function, so it uses only what the compiler supports, and checks no other objects.

    Args:
        title: the name of the net.
        body, inputs, kwargs: the call.
        shared_values: pairs of a name and a value that the body holds.
    """
    if not shared_values and all(isinstance(value, Tensor) for value in (*inputs, *kwargs.values())):
        return body(*inputs, **kwargs)
    named = [*name_inputs(inputs, kwargs), *shared_values]
    before = [(name, value, _copy_simple(value)) for name, value in _list_simple(named)]
    output = body(*inputs, **kwargs)
    for name, value, items in before:
        now = _copy_simple(value)
        if len(now) != len(items) or not all(
            key == old_key and item is old_item
            for (key, item), (old_key, old_item) in zip(now, items)  # noqa: B905  # the compiler knows no strict=
        ):
            raise write_error(title, [], [name])
    return output


def can_be_compared(value: Any) -> bool:
    """Whether a value holds others, in a way that the compiler can trace."""
    if isinstance(value, (list, dict, tuple)) or is_tensordict(value):
        return True
    return hasattr(value, "__dict__") and not (isinstance(value, (Tensor, nn.Module, Net)) or callable(value))


def _list_simple(named_values: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The lists, dicts and objects in some values."""
    simple = []
    for name, value in named_values:
        if can_be_compared(value):
            if not isinstance(value, tuple):
                simple.append((name, value))
            simple += _list_simple([(f"{name}[{key!r}]", item) for key, item in _copy_simple(value)])
    return simple


def _copy_simple(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values, or positions and items, at this moment."""
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, dict) or is_tensordict(value):
        return list(value.items())
    return list(value.__dict__.items())
