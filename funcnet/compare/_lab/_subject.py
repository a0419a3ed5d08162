"""A model under study: its module, its net, and inputs of any batch size."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn
from funcnet._typing import Tree
from funcnet.compare._digits import Digits
from funcnet.compare._errors import summarize_error
from funcnet.compare._input_specs import InputSpec, make_inputs
from funcnet.compare._models import Pair
from funcnet.compare._results import NotPossible
from funcnet.compare._sides import total
from funcnet.compare._training_steps import logits


class Batch(NamedTuple):
    """What a model is called with, and what its loss needs besides."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: Tensor | None

    def call(self, function: Callable[..., Any]) -> Any:
        return function(*self.args, **self.kwargs)


@dataclass(frozen=True, eq=False)
class Subject:
    """A module, its net with params and buffers, and how to call and judge both.

    Args:
        sizes: batch sizes to measure at; one, if the inputs have no batch axis.
        batch: inputs for a batch size.
        loss: of an output and labels.
    """

    title: str
    module: nn.Module
    net: fn.Net
    params: Tree
    buffers: Tree
    seed: int
    sizes: tuple[int, ...]
    batch: Callable[[int], Batch]
    loss: Callable[[Any, Tensor | None], Tensor]
    whole_batch: NotPossible | None = None

    @cached_property
    def native(self) -> bool:
        """Whether no part of the net runs a forward of somebody else's."""
        return not any(isinstance(part, fn.Wrapped) for _, part in self.net.named_nets())

    @property
    def middle(self) -> int:
        """The batch size for everything that is measured at one size."""
        return self.sizes[min(1, len(self.sizes) - 1)]

    @cached_property
    def draws(self) -> bool:
        """Whether a part of the net draws in training mode."""
        return any(part.draws(True) for _, part in self.net.named_nets()) or self._asks_for_draws(train=True)

    @cached_property
    def draws_in_eval(self) -> bool:
        """Whether the net asks for draws in eval mode too."""
        return self._asks_for_draws(train=False)

    def _asks_for_draws(self, train: bool) -> bool:
        """Whether a call without an rng is refused: only the call knows what a foreign forward draws."""
        batch = self.batch(self.sizes[0])
        try:
            with torch.no_grad():
                self.net.apply(self.params, self.buffers, *batch.args, train=train, **batch.kwargs)
        except fn.RandomnessError:
            return True
        return False

    def with_module(self, module: nn.Module, net: fn.Net) -> Subject:
        """The same inputs and loss for another module and net, which share one ``state_dict``."""
        params, buffers = fn.from_state_dict(net, module.state_dict())
        return dataclasses.replace(self, module=module, net=net, params=params, buffers=buffers)


def subject_of_pair(pair: Pair, digits: Digits, seed: int) -> Subject:
    """One of the four models, on the digits."""
    torch.manual_seed(seed)
    module = pair.module()
    params, buffers = pair.net.init(seed)

    def batch(size: int) -> Batch:
        x, labels = digits.train_x[:size].clone(), digits.train_labels[:size].clone()
        return Batch((x,), {}, labels)

    return Subject(pair.title, module, pair.net, params, buffers, seed, (2, 16, 64, 256), batch, cross_entropy)


def cross_entropy(output: Any, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return F.cross_entropy(logits(output), labels)


def subject_of_module(module: nn.Module, specs: Sequence[InputSpec], seed: int) -> Subject:
    """A module of the user's, on random inputs; the sum of its outputs stands for a loss."""
    net, params, buffers = fn.from_module(module)
    first = {spec.shape[0] if spec.shape else 0 for spec in specs}
    given = max(first)
    if len(first) == 1 and given > 0:
        whole = None
        sizes = tuple(sorted({max(2, given * factor // 2) for factor in (1, 2, 4, 8)}))
    else:
        whole = NotPossible("the inputs have no batch axis: a first size that all of them share")
        sizes = (0,)
    held = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))

    def batch(size: int) -> Batch:
        resized = [dataclasses.replace(spec, shape=(size, *spec.shape[1:])) if size else spec for spec in specs]
        args, kwargs = make_inputs(resized, seed)
        return Batch(
            tuple(value.to(held) for value in args), {name: value.to(held) for name, value in kwargs.items()}, None
        )

    if whole is None and (error := _refused(module, batch, sizes)):
        whole = NotPossible(f"the first size of the inputs is no batch: with another the module raises {error}")
        sizes = (0,)
    title = type(module).__name__
    return Subject(title, module, net, params, buffers, seed, sizes, batch, _total, whole)


def _refused(module: nn.Module, batch: Callable[[int], Batch], sizes: tuple[int, ...]) -> str:
    """What a copy of the module says to other sizes; nothing, if it takes them all."""
    copied = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            for size in sizes:
                batch(size).call(copied)
    except Exception as error:  # whatever a forward may raise
        return summarize_error(error, 160)
    return ""


def _total(output: Any, labels: Tensor | None) -> Tensor:
    return total(output)
