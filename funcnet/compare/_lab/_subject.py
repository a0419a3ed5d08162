"""A model under study: its module, its net, and inputs of any batch size."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn
from funcnet._torch import pytree
from funcnet._typing import Tree
from funcnet.compare._digits import Digits
from funcnet.compare._errors import SkippedError, summarize_error
from funcnet.compare._input_specs import InputSpec, make_inputs
from funcnet.compare._measure import SLOW_SECONDS
from funcnet.compare._models import Pair
from funcnet.compare._results import FoundEffect, NotPossible
from funcnet.compare._sides import sum_outputs
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit
from funcnet.compare._training_steps import logits

Output = TypeVar("Output")
BatchTree = tuple[tuple[Tensor, ...], dict[str, Any], tuple[Tensor, ...]]
"""A batch as a tree that vmap can map over: args, kwargs, and the labels if there are any."""


class Batch(NamedTuple):
    """The inputs of a call, and the labels that its loss needs, if any."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Any]  # tensors; mypy cannot tell them from the options of functions called with them
    labels: Tensor | None

    @property
    def size(self) -> int:
        """The first size of the inputs; 1 if there is none."""
        tensors = [leaf for leaf in pytree.tree_leaves(self.to_tree()) if isinstance(leaf, Tensor) and leaf.dim()]
        return int(tensors[0].shape[0]) if tensors else 1

    def call(self, function: Callable[..., Output]) -> Output:
        """Call a function with these inputs."""
        return function(*self.args, **self.kwargs)

    def to_tree(self) -> BatchTree:
        """The same tensors as a tree that vmap can map over."""
        return self.args, dict(self.kwargs), () if self.labels is None else (self.labels,)

    @staticmethod
    def from_tree(tree: BatchTree) -> Batch:
        """The batch that :meth:`to_tree` made the tree from."""
        args, kwargs, labels = tree
        return Batch(args, kwargs, *(labels or (None,)))

    @staticmethod
    def from_sample(sample: BatchTree) -> Batch:
        """A batch of one sample, from a tree without batch axis."""
        return Batch.from_tree(pytree.tree_map(lambda leaf: leaf[None], sample))

    def split_samples(self) -> list[Batch]:
        """The samples, each as a batch of one, in tensors of its own."""
        tree = self.to_tree()
        count = pytree.tree_leaves(tree)[0].shape[0]
        return [Batch.from_tree(pytree.tree_map(lambda leaf, i=i: leaf[i : i + 1].clone(), tree)) for i in range(count)]


@dataclass(frozen=True, eq=False)
class Subject:
    """A module, its net with params and buffers, and how to call both and compute a loss.

    Args:
        sizes: the batch sizes to measure at; only one if the inputs have no batch axis.
        batch: makes the inputs for a batch size.
        loss: a function of an output and labels.
        no_batch_axis: the reason why the batch size cannot be changed, or None if it can.
        effects: what a call does besides computing its output.
        call_seconds: about how long a call of the module takes at the middle size, in the slower of both modes.
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
    no_batch_axis: NotPossible | None = None
    effects: tuple[FoundEffect, ...] | NotPossible = ()
    call_seconds: float = 0.0

    @cached_property
    def is_native(self) -> bool:
        """Whether no part of the net runs a forward that funcnet did not write."""
        return not any(isinstance(part, fn.Wrapped) for _, part in self.net.named_nets())

    @property
    def middle_size(self) -> int:
        """The batch size for everything that is measured at one size only."""
        return self.sizes[min(1, len(self.sizes) - 1)]

    @cached_property
    def draws_in_training(self) -> bool:
        """Whether a part of the net draws random numbers in training mode."""
        return any(part.draws(True) for _, part in self.net.named_nets()) or self._needs_rng(train=True)

    @cached_property
    def draws_in_eval(self) -> bool:
        """Whether the net draws random numbers in eval mode too."""
        return self._needs_rng(train=False)

    def _needs_rng(self, train: bool) -> bool:
        """Whether a call without an rng is refused: only a call shows what a foreign forward draws."""
        batch = self.batch(self.sizes[0])
        try:
            with torch.no_grad():
                self.net.apply(self.params, self.buffers, *batch.args, train=train, **batch.kwargs)
        except fn.RandomnessError:
            return True
        except Exception:  # who calls the net in this mode will see the error
            return False
        return False

    def with_model(self, module: nn.Module, net: fn.Net) -> Subject:
        """The same inputs and loss for another module and net, which share one ``state_dict``."""
        params, buffers = fn.from_state_dict(net, module.state_dict())
        return dataclasses.replace(self, module=module, net=net, params=params, buffers=buffers)


def subject_from_pair(pair: Pair, digits: Digits, seed: int) -> Subject:
    """One of the four models of the comparison, on the digits."""
    torch.manual_seed(seed)
    module = pair.module()
    params, buffers = pair.net.init(seed)

    def make_batch(size: int) -> Batch:
        x, labels = digits.train_x[:size].clone(), digits.train_labels[:size].clone()
        return Batch((x,), {}, labels)

    return Subject(pair.title, module, pair.net, params, buffers, seed, (2, 16, 64, 256), make_batch, _cross_entropy)


def _cross_entropy(output: object, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return F.cross_entropy(logits(output), labels)


def subject_from_module(
    module: nn.Module, specs: Sequence[InputSpec], seed: int, limit: TimeLimit = NO_LIMIT
) -> Subject:
    """A module of the user, on random inputs; the sum of its outputs takes the place of a loss.

    Other batch sizes are tried as far as the limit goes.
    """
    net, params, buffers = fn.from_module(module)
    tensors = (*module.parameters(), *module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))

    def make_batch(size: int) -> Batch:
        resized = [dataclasses.replace(spec, shape=(size, *spec.shape[1:])) if size else spec for spec in specs]
        args, kwargs = make_inputs(resized, seed)
        moved_kwargs = {name: tensor.to(device) for name, tensor in kwargs.items()}
        return Batch(tuple(tensor.to(device) for tensor in args), moved_kwargs, None)

    sizes: tuple[int, ...] = (0,)  # the inputs keep the sizes that they have
    no_batch_axis = None
    first_sizes = {spec.shape[0] if spec.shape else 0 for spec in specs}
    batch_size = max(first_sizes)
    if len(first_sizes) > 1 or batch_size == 0:
        no_batch_axis = NotPossible("the inputs have no batch axis: a first size that all of them share")
    else:
        sizes = tuple(sorted({max(2, batch_size * factor // 2) for factor in (1, 2, 4, 8)}))
        if reason := _find_size_limit(module, make_batch, sizes, limit):
            no_batch_axis, sizes = NotPossible(reason), (0,)
        elif error := _find_size_error(module, make_batch, sizes):
            no_batch_axis = NotPossible(
                f"the first size of the inputs is no batch: with another the module raises {error}"
            )
            sizes = (0,)
    title = type(module).__name__
    return Subject(title, module, net, params, buffers, seed, sizes, make_batch, _sum_loss, no_batch_axis)


def _find_size_limit(
    module: nn.Module, make_batch: Callable[[int], Batch], sizes: tuple[int, ...], limit: TimeLimit
) -> str:
    """Why there is no time to try several sizes, judged by the smallest; an empty text if there is."""
    start = time.perf_counter()
    if not _find_size_error(module, make_batch, sizes[:1]):
        seconds = time.perf_counter() - start
        try:
            limit.require(seconds * sum(sizes) / sizes[0] if seconds > SLOW_SECONDS else 0.0)
        except SkippedError as error:
            return f"other batch sizes were not tried: {error}"
    return ""


def _find_size_error(module: nn.Module, make_batch: Callable[[int], Batch], sizes: tuple[int, ...]) -> str:
    """The error that a copy of the module raises for one of the sizes; an empty text if it accepts them all."""
    module_copy = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            for size in sizes:
                make_batch(size).call(module_copy)
    except Exception as error:  # a forward may raise anything
        return summarize_error(error, 160)
    return ""


def _sum_loss(output: object, labels: Tensor | None) -> Tensor:
    return sum_outputs(output)
