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
    signals: list[int] = []

    def exit_on_signal(number: int, frame: object) -> None:
        signals.append(number)
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):  # an exit cleans up files that are half written
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, exit_on_signal)
    try:
        app(prog_name="funcnet")
    except BaseException:
        if signals:  # the exit may have become another error in the middle of something
            raise SystemExit(128 + signals[0]) from None
        raise
