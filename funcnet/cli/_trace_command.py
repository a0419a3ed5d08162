"""``funcnet trace``: the forward of a module as plain code over params."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from funcnet.cli._options import AllowRounding, Inputs, Output, Target, Train
from funcnet.cli._terminal import CALL_ERRORS, exit_on_error, print_code, user_code, write_lines
from funcnet.compare import built_target
from funcnet.program import trace


def trace_command(
    target: Target,
    inputs: Inputs = None,
    train: Train = False,
    both: Annotated[bool, typer.Option("--both", help="Trace both modes.")] = False,
    allow_rounding: AllowRounding = False,
    output: Output = None,
) -> None:
    """Trace a module once, and print its forward as plain torch and F calls over its params.

    This is the code that the net of funcnet.trace runs; it has the module's own bits. funcnet source writes a program
    that runs by itself.

    The exit code is 0, or 2 if it cannot be traced.
    """
    with exit_on_error("trace", *CALL_ERRORS, as_one_line=True), user_code():
        module, args, kwargs = built_target(target, inputs or (), seed=0)
        mode: Any = "both" if both else train
        net, _, _ = trace(module, *args, train=mode, exact=not allow_rounding, **kwargs)  # type: ignore[arg-type]
    if output is not None:
        write_lines(output, net.source)
    else:
        print_code(net.source)
