"""The errors funcnet raises. Each says what was tried, where, what was expected and what came, and the next step."""

from __future__ import annotations

import sys
from collections.abc import Iterable


class FuncnetError(Exception):
    """Base of all funcnet errors; every subclass is also a subclass of a built-in exception.

    >>> issubclass(TreeError, FuncnetError), issubclass(TreeError, ValueError)
    (True, True)
    """


class TreeError(FuncnetError, ValueError):
    """A tree of params or buffers, or a state_dict, does not fit the net. Lists every problem at once.

    >>> import torch, funcnet as fn
    >>> fn.Linear(2, 3)({"weight": torch.ones(3, 2), "bais": torch.ones(3)}, torch.ones(1, 2))
    Traceback (most recent call last):
        ...
    funcnet._errors.TreeError: params and buffers do not fit Linear: 2 problems
      missing     params['bias']: expected shape (3,); nearest given name: 'bais'
      extra       params['bais']: tensor of shape (3,); nearest expected name: 'bias'
    net.init(0) gives the structure; funcnet.from_state_dict(net, sd) reads a state_dict.
    """


class ShapeError(FuncnetError, RuntimeError):
    """An input does not fit a layer. A RuntimeError, as the kernel's own error would be.

    >>> import torch, funcnet as fn
    >>> net = fn.Linear(2, 3)
    >>> net(net.init(0)[0], torch.ones(1, 5))
    Traceback (most recent call last):
        ...
    funcnet._errors.ShapeError: Linear: expected input (*, 2), got input (1, 5) float32. mat1 and mat2 shapes cannot
    be multiplied (1x5 and 2x3).
    """


class RandomnessError(FuncnetError, RuntimeError):
    """A draw was needed and could not be made from the ``rng`` of the call.

    >>> import torch, funcnet as fn
    >>> fn.Dropout().apply({}, {}, torch.ones(2), train=True)
    Traceback (most recent call last):
        ...
    funcnet._errors.RandomnessError: rng is None and random numbers are drawn at the net itself. Pass
    rng=funcnet.random.key(0), or rng=0 for the draws of torch.manual_seed(0).
    """


class PurityError(FuncnetError, RuntimeError):
    """A body wrote to something that belongs to its caller.

    >>> import torch, funcnet as fn
    >>> @fn.compose()
    ... def doubled(p, x):
    ...     return x.mul_(2)
    >>> doubled({}, torch.ones(2))
    Traceback (most recent call last):
        ...
    funcnet._errors.PurityError: the body of doubled wrote in place to input 0, which belongs to the caller and is
    changed now. Write x = x + 1 for x += 1, or work on a clone().
    """


class TransformError(FuncnetError, RuntimeError):
    """A layer was called under a transform that it does not support.

    >>> import torch, funcnet as fn
    >>> net = fn.CrossMapLRN2d(2)
    >>> torch.func.hessian(lambda x: net({}, x).sum())(torch.ones(1, 2, 2, 2))
    Traceback (most recent call last):
        ...
    funcnet._errors.TransformError: CrossMapLRN2d cannot run under hessian: torch's gradient of it is not the
    derivative of a function, so it has no Hessian; LocalResponseNorm has one.
    """


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
    """Initial values were asked for where none are defined.

    >>> import funcnet as fn
    >>> fn.LazyLinear(3).init(0)
    Traceback (most recent call last):
        ...
    funcnet._errors.InitError: LazyLinear has no shape yet. net, params, buffers = net.init(rng,
    example_inputs=(x,)) gives the concrete net.
    """


class ConversionError(FuncnetError, TypeError):
    """Something has no counterpart on the other side (module, net or file).

    >>> import funcnet as fn
    >>> fn.from_module(3)
    Traceback (most recent call last):
        ...
    funcnet._errors.ConversionError: from_module takes an nn.Module, not 3.
    """


def add_note(error: BaseException, note: str) -> None:
    """Give an error of somebody else a line that is shown below its message.

    Python 3.10 shows no notes, so there the line is a part of the message, if that is a text.

    Args:
        error: the error, which is raised again afterwards.
        note: the line.
    """
    if sys.version_info >= (3, 11):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])


def bullet_list(lines: Iterable[str]) -> str:
    """Lines of an error's body, indented by two.

    >>> bullet_list(["one", "two"])
    '\\n  one\\n  two'
    """
    return "".join(f"\n  {line}" for line in lines)
