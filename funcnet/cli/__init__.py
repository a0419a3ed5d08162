"""The ``funcnet`` command. What it needs beyond the library is in the extra ``cli``, imported when it runs."""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich", "click")


def main() -> None:
    """Run the command; without the extra, say how to install it and exit with 2."""
    try:
        from funcnet.cli._app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(
            f"funcnet: the command needs {missing}, which is not installed; the library works without it. "
            f'Install what the command needs: pip install "funcnet[cli]"\n'
        )
        raise SystemExit(2) from None
    app(prog_name="funcnet")
