"""``funcnet verify``: whether a certificate holds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet.checkpoint import verify
from funcnet.cli._options import AsJson
from funcnet.cli._terminal import exit_on_error, print_json, show_byte_progress, stdout_console


def verify_command(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="The JSON file of a conversion.")],
    source: Annotated[
        str | None, typer.Option("--source", metavar="SRC", help="Where the source is now.", show_default=False)
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="DST", help="Where the target is now.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the certificate of a conversion: prove its rules again, carry them out, and hash both sides.

    The exit code is 0 if all is as it says, 1 if something is not, 2 if it cannot be checked.
    """
    with exit_on_error("verify", FuncnetError, OSError), show_byte_progress("verifying") as progress:
        problems = verify(certificate, source=source, target=target, progress=progress)
    if as_json:
        print_json({"holds": not problems, "wrong": problems})
    else:
        console = stdout_console()
        for problem in problems:
            console.print(Text(problem, "red"), soft_wrap=True)
        console.print(Text("The certificate does not hold.", "bold red") if problems else Text("It holds.", "green"))
    raise typer.Exit(1 if problems else 0)
