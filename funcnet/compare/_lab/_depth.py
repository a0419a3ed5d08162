"""The same model with more or fewer repeated blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import funcnet as fn
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._turns import SkippedError, reason_of
from funcnet.compare._models import Pair
from funcnet.compare._results import NotPossible


@dataclass(frozen=True)
class Depths:
    """Which depths there are, what one more of them is, and the model at each."""

    at: tuple[int, ...]
    block: str
    make: Callable[[int], Subject]


# One part of each of the four models, so deep. ``layers`` is torch.nn or funcnet: both have the same names.


def _hidden(layers: Any, depth: int) -> Any:
    more = (layer for _ in range(depth - 1) for layer in (layers.Linear(128, 128), layers.ReLU()))
    first = (layers.Flatten(), layers.Linear(64, 128), layers.ReLU())
    return layers.Sequential(*first, *more, layers.Linear(128, 10))


def _listed(layers: Any, depth: int) -> Any:
    return layers.ModuleList(layers.Linear(64, 64) for _ in range(depth))


def _convolutions(layers: Any, depth: int) -> Any:
    more = (layer for _ in range(depth - 1) for layer in (layers.ReLU(), layers.Conv2d(20, 20, 3, padding=1)))
    return layers.Sequential(layers.Conv2d(20, 20, 3), *more)


def _normed(layers: Any, depth: int) -> Any:
    more = (
        layer
        for _ in range(depth - 1)
        for layer in (layers.BatchNorm2d(20), layers.ReLU(), layers.Conv2d(20, 20, 3, padding=1))
    )
    return layers.Sequential(layers.Conv2d(1, 20, 3), *more)


_OF_PAIRS = {
    "sequential": ("layers", _hidden, "Linear(128, 128) and ReLU, once for each hidden layer"),
    "modulelist": ("layers", _listed, "Linear(64, 64) in the ModuleList"),
    "conv": ("conv2", _convolutions, "convolution of 20 channels (padded from the third on)"),
    "batchnorm": ("conv", _normed, "convolution of 20 channels, with BatchNorm and ReLU between them"),
}


def depths_of_pair(pair: Pair, subject: Subject) -> Depths:
    """One of the four models, with one of its parts repeated."""
    part, layers, block = _OF_PAIRS[pair.name]

    def make(depth: int) -> Subject:
        torch.manual_seed(subject.seed)
        module = pair.module()
        setattr(module, part, layers(nn, depth))
        return subject.with_module(module, pair.net.replaced({part: layers(fn, depth)}))

    return Depths((1, 4, 16), block, make)


def depths_of_module(subject: Subject) -> Depths | NotPossible:
    """The first blocks of the longest Sequential or ModuleList of equal blocks, if the module runs with fewer.

    Only blocks that a deep copy can go without are taken away: nothing is added, and the times are those of the
    module's own forward over what is left.
    """
    found = _repeated(subject.module)
    if found is None:
        return NotPossible(
            f"{subject.title} has no obvious depth: no Sequential or ModuleList in it holds two or more equal blocks"
        )
    path, count = found
    name = type(next(subject.module.get_submodule(path).children())).__name__

    def make(depth: int) -> Subject:
        module = copy.deepcopy(subject.module)
        blocks: Any = module.get_submodule(path)
        del blocks[depth:]
        return subject.with_module(module, fn.from_module(module)[0])

    depths = tuple(sorted({1, -(-count // 2), count}))
    try:
        for depth in depths[:-1]:
            with torch.no_grad():
                subject.batch(subject.sizes[0]).call(make(depth).module.eval())
    except Exception as error:  # a forward may count on all of its blocks
        return NotPossible(f"{subject.title} does not run with the first blocks of {path} alone: {reason_of(error)}")
    where = path or "the module itself"
    return Depths(depths, f"first blocks of {where}, of the {count} {name} it has", make)


def _repeated(module: nn.Module) -> tuple[str, int] | None:
    """Path and length of the container with the most equal blocks; the outermost, if several have as many."""
    best: tuple[str, int] | None = None
    for path, part in module.named_modules():
        if not isinstance(part, (nn.Sequential, nn.ModuleList)) or len(part) < 2:
            continue
        blocks = {(type(block), repr(block), _shapes(block)) for block in part}
        if len(blocks) == 1 and (best is None or len(part) > best[1]):
            best = path, len(part)
    return best


def _shapes(module: nn.Module) -> tuple[Any, ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())


def at_depth(depths: Depths, depth: int) -> Subject:
    """The model at one depth.

    Raises:
        SkippedError: if it cannot be built; says why.
    """
    try:
        return depths.make(depth)
    except Exception as error:
        raise SkippedError(f"the model of depth {depth} cannot be built: {reason_of(error)}") from error
