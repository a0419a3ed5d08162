"""The same model with more or fewer repeated blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import funcnet as fn
from funcnet._typing import Shape
from funcnet.compare._errors import describe_reason
from funcnet.compare._lab._subject import Subject
from funcnet.compare._models import Pair
from funcnet.compare._results import NotPossible


@dataclass(frozen=True)
class Depths:
    """The depths at which a model is measured, what one more block is, and what makes the model of a depth."""

    values: tuple[int, ...]
    block: str
    make_subject: Callable[[int], Subject]


# One part of each of the four models, with a given depth. ``layers`` is torch.nn or funcnet: both have the same names.


def _hidden_layers(layers: Any, depth: int) -> Any:
    first = (layers.Flatten(), layers.Linear(64, 128), layers.ReLU())
    hidden = _repeat(lambda: (layers.Linear(128, 128), layers.ReLU()), depth - 1)
    return layers.Sequential(*first, *hidden, layers.Linear(128, 10))


def _linear_layers(layers: Any, depth: int) -> Any:
    return layers.ModuleList(layers.Linear(64, 64) for _ in range(depth))


def _convolutions(layers: Any, depth: int) -> Any:
    padded = _repeat(lambda: (layers.ReLU(), layers.Conv2d(20, 20, 3, padding=1)), depth - 1)
    return layers.Sequential(layers.Conv2d(20, 20, 3), *padded)


def _normed_convolutions(layers: Any, depth: int) -> Any:
    blocks = _repeat(lambda: (layers.BatchNorm2d(20), layers.ReLU(), layers.Conv2d(20, 20, 3, padding=1)), depth - 1)
    return layers.Sequential(layers.Conv2d(1, 20, 3), *blocks)


def _repeat(make_block: Callable[[], tuple[Any, ...]], count: int) -> Iterator[Any]:
    return (layer for _ in range(count) for layer in make_block())


# For each of the four models: the part that gets deeper, what makes it, and what one more block is.
_DEEPER_PARTS = {
    "sequential": ("layers", _hidden_layers, "Linear(128, 128) and ReLU, once for each hidden layer"),
    "modulelist": ("layers", _linear_layers, "Linear(64, 64) in the ModuleList"),
    "conv": ("conv2", _convolutions, "convolution of 20 channels (padded from the third on)"),
    "batchnorm": ("conv", _normed_convolutions, "convolution of 20 channels, with BatchNorm and ReLU between them"),
}


def depths_of_pair(pair: Pair, subject: Subject) -> Depths:
    """The depths of one of the four models, where one of its parts is repeated."""
    part, make_part, block = _DEEPER_PARTS[pair.name]

    def make_subject(depth: int) -> Subject:
        torch.manual_seed(subject.seed)
        module = pair.module()
        setattr(module, part, make_part(nn, depth))
        return subject.with_model(module, pair.net.replaced({part: make_part(fn, depth)}))

    return Depths((1, 4, 16), block, make_subject)


def depths_of_module(subject: Subject) -> Depths | NotPossible:
    """The depths of a module with a Sequential or ModuleList of equal blocks, if it runs with fewer of them.

    Blocks are removed from the end of the longest such container, in a deep copy. None are added, so that the times
    are those of the module's own forward over the blocks that remain.
    """
    container = _find_repeated_blocks(subject.module)
    if container is None:
        return NotPossible(
            f"{subject.title} has no obvious depth: no Sequential or ModuleList in it holds two or more equal blocks"
        )
    path, count = container
    block_class = type(next(subject.module.get_submodule(path).children())).__name__

    def make_subject(depth: int) -> Subject:
        module = copy.deepcopy(subject.module)
        blocks: Any = module.get_submodule(path)
        del blocks[depth:]
        return subject.with_model(module, fn.from_module(module)[0])

    depths = tuple(sorted({1, -(-count // 2), count}))
    try:
        for depth in depths[:-1]:
            with torch.no_grad():
                subject.batch(subject.sizes[0]).call(make_subject(depth).module.eval())
    except Exception as error:  # a forward may rely on all of its blocks
        reason = describe_reason(error)
        return NotPossible(f"{subject.title} does not run with the first blocks of {path} alone: {reason}")
    location = path or "the module itself"
    return Depths(depths, f"first blocks of {location}, of the {count} {block_class} it has", make_subject)


def _find_repeated_blocks(module: nn.Module) -> tuple[str, int] | None:
    """The path and length of the container with the most equal blocks; the outermost, if several have as many."""
    longest: tuple[str, int] | None = None
    for path, part in module.named_modules():
        if not isinstance(part, (nn.Sequential, nn.ModuleList)) or len(part) < 2:
            continue
        distinct_blocks = {(type(block), repr(block), _state_shapes(block)) for block in part}
        if len(distinct_blocks) == 1 and (longest is None or len(part) > longest[1]):
            longest = path, len(part)
    return longest


def _state_shapes(module: nn.Module) -> tuple[tuple[str, Shape], ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())
