"""What an operator wrote to and what it drew, watched around its call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._tensors import iter_tensors
from funcnet._torch import operator_name, written_arguments
from funcnet._torch_functions import HAS_WORK_SPACE, WRITES_AVERAGES_UNDECLARED
from funcnet.random.internals import GeneratorStates

Operator = Callable[..., object]
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def iter_written_tensors(operator: Operator, args: Args, kwargs: Kwargs) -> Iterator[Tensor]:
    """The tensors that an operator writes to."""
    for index, name in written_arguments(operator):
        yield from iter_tensors(args[index] if index < len(args) else kwargs.get(name))
    if operator in WRITES_AVERAGES_UNDECLARED and args[5]:
        yield from iter_tensors(args[3:5])


def without_work_space(operator: Operator, result: Any) -> Any:
    """The result of an operator without the memory that it works in and leaves with arbitrary contents."""
    return result[:3] if operator_name(operator) in HAS_WORK_SPACE else result


class GeneratorWatch:
    """The generators that an operator may draw from, and their states before and after it.

    Args:
        tensors: the tensors that the operator is called with, for their devices.
        kwargs: its keyword arguments, which may name a generator.
    """

    def __init__(self, tensors: Sequence[Tensor], kwargs: Kwargs) -> None:
        argument = kwargs.get("generator")
        indices = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
        generators = [torch.default_generator, *(torch.cuda.default_generators[index] for index in indices)]
        generators += [argument] if argument is not None else []
        self._before = GeneratorStates(generators)
        self._after = self._before

    def check_drawn(self) -> bool:
        """Whether the operator, which has just run, drew from one of the generators."""
        self._after = GeneratorStates(self._before.generators)
        return self._before != self._after

    def with_same_draws(self, operator: Operator) -> Callable[[Args, Kwargs], object]:
        """A function that runs the operator, and draws in each call what it drew in the first."""

        def run_operator(args: Args, kwargs: Kwargs) -> object:
            self._restore_if_moved(self._before)
            return operator(*args, **kwargs)

        return run_operator

    def restore(self) -> None:
        """Put the generators back to where the first run of the operator left them."""
        self._restore_if_moved(self._after)

    def _restore_if_moved(self, states: GeneratorStates) -> None:
        if self._before != self._after:
            states.restore()
