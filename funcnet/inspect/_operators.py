"""What an operator wrote to and what it drew, watched around its call."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import operator_name, written_arguments
from funcnet._torch_functions import HAS_WORK_SPACE, WRITES_AVERAGES_UNDECLARED
from funcnet.inspect._origins import tensors_in


def written_by(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operator writes to."""
    for at, name in written_arguments(func):
        yield from tensors_in(args[at] if at < len(args) else kwargs.get(name))
    if func in WRITES_AVERAGES_UNDECLARED and args[5]:
        yield from tensors_in(args[3:5])


def filled(func: Any, result: Any) -> Any:
    """The result of an operator without its work space."""
    return result[:3] if operator_name(func) in HAS_WORK_SPACE else result


class Draws:
    """The generators that an operator may draw from, and whether it did."""

    def __init__(self, given: list[Tensor], kwargs: Any) -> None:
        own = kwargs.get("generator")
        indices = {tensor.device.index for tensor in given if tensor.device.type == "cuda"}
        self._generators = [torch.default_generator, *(torch.cuda.default_generators[index] for index in indices)]
        self._generators += [own] if own is not None else []
        self._before = self._states()
        self._after = self._before

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def moved(self) -> bool:
        self._after = self._states()
        return not all(map(torch.equal, self._before, self._after))

    def repeated(self, func: Any) -> Callable[[Any, Any], Any]:
        """The operator, which draws in each call what it drew in the first."""

        def run(args: Any, kwargs: Any) -> Any:
            self.restore(before=True)
            return func(*args, **kwargs)

        return run

    def restore(self, before: bool = False) -> None:
        if not all(map(torch.equal, self._before, self._after)):
            self._set(self._before if before else self._after)


def python_state() -> dict[str, Any]:
    """The states of Python's generator, and of NumPy's where it is loaded."""
    states: dict[str, Any] = {"random": random.getstate()}
    if "numpy" in sys.modules:
        _, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy.random"] = (keys.tobytes(), *rest)
    return states
