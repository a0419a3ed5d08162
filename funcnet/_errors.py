"""The errors funcnet raises. Each says what was tried, where, what was expected and what came, and the next step."""

from __future__ import annotations

from collections.abc import Iterable


class FuncnetError(Exception):
    """Base of all funcnet errors; every subclass is also a subclass of a built-in exception."""


class TreeError(FuncnetError, ValueError):
    """A tree of params or buffers, or a state_dict, does not fit the net. Lists every problem at once."""


class ShapeError(FuncnetError, RuntimeError):
    """An input does not fit a layer. A RuntimeError, as the kernel's own error would be."""


class RandomnessError(FuncnetError, RuntimeError):
    """A draw was needed and could not be made from the ``rng`` of the call."""


class PurityError(FuncnetError, RuntimeError):
    """A body wrote to something that belongs to its caller."""


class TransformError(FuncnetError, RuntimeError):
    """A layer was called under a transform that it does not support."""


class UnplacedTransformError(TransformError):
    """The same, raised by code that does not know which layer called it; the net that runs the layer says so.

    Args:
        subject: what could not run, in words; the net puts the layer and its path in its place.
        clause: the rest of the sentence, and the next step.
    """

    def __init__(self, subject: str, clause: str) -> None:
        super().__init__(f"{subject} {clause}")
        self.clause = clause

    def place(self, title: str) -> TransformError:
        """The error with the title of the layer, and its path."""
        return TransformError(f"{title} {self.clause}")


class DrawTransformError(RandomnessError, TransformError):
    """A draw cannot be made under the transform that it is in."""


class UnplacedDrawError(DrawTransformError, UnplacedTransformError):
    """The same, raised by code that does not know which layer draws."""

    def place(self, title: str) -> TransformError:
        """The error with the title of the layer, and its path."""
        return DrawTransformError(f"{title} {self.clause}")


class InitError(FuncnetError, ValueError):
    """Initial values were asked for where none are defined."""


class ConversionError(FuncnetError, TypeError):
    """Something has no counterpart on the other side (module, net or file)."""


def bullet_list(lines: Iterable[str]) -> str:
    """Lines of an error's body, indented by two.

    >>> bullet_list(["one", "two"])
    '\\n  one\\n  two'
    """
    return "".join(f"\n  {line}" for line in lines)
