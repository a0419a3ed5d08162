"""The ``funcnet`` command. What it needs beyond the library is in the extra ``cli``, imported when it runs."""

from __future__ import annotations

import signal
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
    told: list[int] = []

    def end(number: int, frame: object) -> None:
        told.append(number)
        sys.exit(128 + number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # so that what is half written is cleaned up
        signal.signal(signal.SIGTERM, end)
    try:
        app(prog_name="funcnet")
    except BaseException:
        if told:  # whatever went wrong in the middle of something that was cut short
            raise SystemExit(128 + told[0]) from None
        raise
