"""Calls of nets between the graphs of torch.compile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from funcnet._torch import set_frame_compiler


class _BetweenGraphs(threading.local):
    """Calls from code that torch.compile could not compile as a whole: it would compile each function by itself.

    A function of this package that is compiled and its caller that is not would disagree about whether code is being
    traced, and a watch would begin in one way and end in the other. So the functions of a call are never compiled
    alone: they run as plain code, and the body of the net is compiled.
    """

    compile_frame: Any = None  # what compiles the frames of a body, in a call between graphs

    @contextmanager
    def compiling_bodies_alone(self, can_compile: bool) -> Iterator[None]:
        """A block in which no function is compiled, except for bodies that :meth:`run` runs.

        Args:
            can_compile: whether bodies may be compiled.
        """
        outer, compile_frame = self.compile_frame, set_frame_compiler(None)
        self.compile_frame = compile_frame if can_compile else None
        try:
            yield
        finally:
            set_frame_compiler(compile_frame)
            self.compile_frame = outer

    def run(self, body: Callable[..., Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a body, whose functions are compiled."""
        set_frame_compiler(self.compile_frame)
        try:
            return body(*inputs, **kwargs)
        finally:
            set_frame_compiler(None)


BETWEEN_GRAPHS = _BetweenGraphs()
