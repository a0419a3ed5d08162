"""Calls inside of torch.utils.checkpoint: they leave nothing behind that only the cycle collector frees."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import funcnet as fn
from tests.helpers import assert_identical, parametrize

X = torch.linspace(-1, 1, 16).view(2, 8)
BLOCKS = fn.Sequential(*[fn.Sequential(fn.Linear(8, 8), fn.Tanh()) for _ in range(3)])


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).tanh())


def collect_cycles(step) -> list[object]:
    """The objects that three runs of a step leave in cycles, after one that fills caches."""
    step()
    gc.collect()
    gc.freeze()  # what other tests left may fall apart while the steps run, and is not theirs
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(3):
            step()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def checkpointed_gradient(net, params):
    def loss(params):
        return checkpoint(lambda params, x: net(params, x), params, X, use_reentrant=False).square().sum()

    return fn.value_and_grad(loss)(params)


def count_cycles_of_module() -> int:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    return len(collect_cycles(lambda: checkpoint(module, X, use_reentrant=False).sum().backward()))


@parametrize(kind=["stock", "foreign"])
def test_a_checkpoint_around_a_net_leaves_no_more_than_one_around_a_module(kind):
    # Regression: the exception that ends a recomputation was a local of a frame in its own traceback, and kept alive
    # what the call had: 2,080 objects and 18 tensors in three steps
    if kind == "stock":
        net, params = BLOCKS, BLOCKS.init(0)[0]
    else:
        torch.manual_seed(0)
        net, params, _ = fn.from_module(Block())
    objects = collect_cycles(lambda: checkpointed_gradient(net, params))
    assert len(objects) <= count_cycles_of_module()
    assert not [obj for obj in objects if isinstance(obj, torch.Tensor)]
    plain = fn.value_and_grad(lambda params: net(params, X).square().sum())(params)
    assert_identical(checkpointed_gradient(net, params), plain)


@fn.compose(a=fn.Linear(8, 8))
def misspelled(p, x):
    return p.b(x)


@pytest.mark.parametrize(("net", "width"), [(BLOCKS, 5), (misspelled, 8)], ids=["shape", "name"])
def test_an_error_leaves_nothing_behind(net, width):
    params, _ = net.init(0)

    def step():
        with pytest.raises((fn.ShapeError, AttributeError)):
            net(params, torch.ones(2, width))

    assert not [obj for obj in collect_cycles(step) if isinstance(obj, torch.Tensor)]


def _drop(p, x):
    return F.dropout(p.a(x), 0.5, p.training)


def _scale(p, x):
    return p.a(x) * torch.rand(8)


@parametrize(body=[_drop, _scale])
@parametrize(rng=[0, fn.random.key(0)])
def test_the_first_call_of_a_body_that_draws_may_be_checkpointed(body, rng):
    # Regression: a body that was seen to draw ran a second time in its first call, and the checkpoint counted both
    net = fn.compose(a=fn.Linear(8, 8))(body)
    params, _ = net.init(0)

    def run(params, x):
        return net.apply(params, {}, x, train=True, rng=rng)[0]

    def loss(params):
        return checkpoint(run, params, X, use_reentrant=False).square().sum()

    first = fn.value_and_grad(loss)(params)
    assert_identical(first, fn.value_and_grad(lambda params: run(params, X).square().sum())(params))
    assert_identical(fn.value_and_grad(loss)(params), first)
