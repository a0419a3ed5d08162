"""``funcnet summary``: what is in a module."""

from __future__ import annotations

import dataclasses

from funcnet.cli._options import AsJson, Inputs, Output, Target
from funcnet.cli._terminal import CALL_ERRORS, exit_on_error, print_json, stdout_console, user_code, write_lines
from funcnet.compare import built_target
from funcnet.inspect import summary


def summary_command(target: Target, inputs: Inputs = None, output: Output = None, as_json: AsJson = False) -> None:
    """Show what is in a module: paths, types, output shapes, parameters and bytes.

    Without an input the column of outputs stays empty.

    The exit code is 0, or 2 if the module cannot be built or called.
    """
    with exit_on_error("summary", *CALL_ERRORS, as_one_line=True), user_code():
        module, args, kwargs = built_target(target, inputs or (), seed=0, needs_input=False)
        table = summary(module, *args, **kwargs)  # type: ignore[arg-type]  # no input has such a name
    if as_json:
        rows = [dataclasses.asdict(row) for row in table.rows]
        print_json({"rows": rows, "parameters": table.parameters, "bytes": table.bytes})
    elif output is not None:
        write_lines(output, str(table))
    else:
        stdout_console().print(table)
