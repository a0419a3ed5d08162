"""The two programs of a module that somebody else wrote: its source, and the code that calls its net."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

import funcnet as fn
from funcnet.compare._input_specs import InputSpec
from funcnet.compare._target import Target


def module_source(module: nn.Module, factory: Callable[..., object] | None) -> str:
    """The source of the factory that built a module, if any, and of its class, unless that belongs to torch."""
    module_class = type(module)
    texts = [] if factory is None or factory is module_class else [_object_source(factory)]
    if not texts or not module_class.__module__.startswith("torch.nn."):
        texts.append(_object_source(module_class))
    return "\n\n".join(texts)


def _object_source(function_or_class: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function_or_class))
    except (OSError, TypeError):
        return f"# {function_or_class.__module__}.{function_or_class.__qualname__} has no source file\n"


def calling_code(target: Target, expression: str, specs: Sequence[InputSpec], net: fn.Net, seed: int) -> str:
    """The program that calls the net, complete except for the inputs, followed by the printed net."""
    imported_name = target.name.partition(".")[0]
    names = _input_names(specs)
    arguments = ", ".join(f"{name}={name}" if spec.name else name for name, spec in zip(names, specs, strict=True))
    printed_net = "\n".join(f"#   {line}" for line in repr(net).splitlines())
    return f"""\
from {target.module} import {imported_name}
import funcnet as fn

module = {expression}
net, params, buffers = fn.from_module(module)

# eval mode
output, _ = net.apply(params, buffers, {arguments})

# training mode, with the draws of
# torch.manual_seed({seed}); module({arguments})
output, new_buffers = net.apply(
    params, buffers, {arguments}, train=True, rng={seed}
)

# the net
{printed_net}
"""


def _input_names(specs: Sequence[InputSpec]) -> list[str]:
    """The variable of each input in the calling code: its own name, else ``x``, or ``x0``, ``x1``, ..."""
    unnamed_count = sum(spec.name is None for spec in specs)
    numbers = iter(range(unnamed_count))
    return [spec.name or ("x" if unnamed_count == 1 else f"x{next(numbers)}") for spec in specs]


def describe_foreign_parts(net: fn.Net) -> str:
    """A sentence that names the parts of a net which run a forward that funcnet did not write."""
    wrapped = list(_iter_outermost_wrapped(net))
    if not wrapped:
        return "Every part is a native net."
    names = [f"{part.title()} at {path!r}" if path else part.title() for path, part in wrapped]
    is_whole_net = not wrapped[0][0]
    ending = "." if is_whole_net else "; the other parts are native nets."
    listing = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"Run by the module's own forward over explicit params (fn.Wrapped): {listing}{ending}"


def _iter_outermost_wrapped(net: fn.Net) -> Iterator[tuple[str, fn.Wrapped]]:
    prefix = None
    for path, part in net.named_nets():
        if isinstance(part, fn.Wrapped) and (prefix is None or not path.startswith(prefix)):
            prefix = f"{path}." if path else ""
            yield path, part
