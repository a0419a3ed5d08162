"""The two programs of a module that somebody else wrote: its source, and the calls of its net."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

import funcnet as fn
from funcnet.compare._input_specs import InputSpec
from funcnet.compare._target import Target


def source_of(module: nn.Module, factory: Any) -> str:
    """Source of the factory that built a module, if one did, and of its class, unless that is one of torch's."""
    kind = type(module)
    parts = [] if factory is None or factory is kind else [_source(factory)]
    if not parts or not kind.__module__.startswith("torch.nn."):
        parts.append(_source(kind))
    return "\n\n".join(parts)


def _source(thing: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return f"# {thing.__module__}.{thing.__qualname__} has no source file\n"


def calling_code(target: Target, expression: str, specs: Sequence[InputSpec], net: fn.Net, seed: int) -> str:
    """The program that calls the net, complete but for the inputs, and what the net prints as."""
    outer = target.name.partition(".")[0]
    names = input_names(specs)
    given = ", ".join(f"{name}={name}" if spec.name else name for name, spec in zip(names, specs, strict=True))
    shown = "\n".join(f"#   {line}" for line in repr(net).splitlines())
    return f"""\
from {target.module} import {outer}
import funcnet as fn

module = {expression}
net, params, buffers = fn.from_module(module)

# eval mode
output, _ = net.apply(params, buffers, {given})

# training mode, with the draws of
# torch.manual_seed({seed}); module({given})
output, new_buffers = net.apply(
    params, buffers, {given}, train=True, rng={seed}
)

# the net
{shown}
"""


def input_names(specs: Sequence[InputSpec]) -> list[str]:
    """What the calling code calls its inputs: their names, else x, or x0, x1, ..."""
    unnamed = sum(spec.name is None for spec in specs)
    numbers = iter(range(unnamed))
    return [spec.name or ("x" if unnamed == 1 else f"x{next(numbers)}") for spec in specs]


def foreign_parts(net: fn.Net) -> str:
    """Which parts of a net run a forward that funcnet did not write, in words."""
    wrapped = list(_outermost_wrapped(net))
    if not wrapped:
        return "Every part is a native net."
    named = [f"{part.title()} at {path!r}" if path else part.title() for path, part in wrapped]
    rest = "." if named[0] == wrapped[0][1].title() else "; the other parts are native nets."
    shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    return f"Run by the module's own forward over explicit params (fn.Wrapped): {shown}{rest}"


def _outermost_wrapped(net: fn.Net) -> Iterator[tuple[str, fn.Wrapped]]:
    inside = None
    for path, part in net.named_nets():
        if isinstance(part, fn.Wrapped) and (inside is None or not path.startswith(inside)):
            inside = f"{path}." if path else ""
            yield path, part
