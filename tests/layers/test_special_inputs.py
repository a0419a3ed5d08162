"""For any input a net does what the module does: it returns the same bits, or raises where the module raises."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

import funcnet as fn
from tests.cases.activations import ACTIVATIONS
from tests.cases.shapes import SHAPES
from tests.helpers import assert_identical, global_generator_untouched, parametrize

CASES = [*ACTIVATIONS, *SHAPES]


def result_or_raises(run: Any) -> Any:
    """The result of a call, or the word that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on complex numbers
            return run()
    except (RuntimeError, ValueError, TypeError, IndexError):
        return "raises"


def assert_same_as_module(case, x: Tensor, train: bool) -> None:
    net, params, buffers = fn.from_module(case.module().to(x.dtype if x.is_floating_point() else torch.float32))
    module = fn.to_module(net, params, buffers).train(train)
    before = x.clone()
    left, right = (copy.deepcopy(x) for _ in range(2))  # with the memory layout of x
    with global_generator_untouched():
        ours = result_or_raises(lambda: net.apply(params, buffers, left, train=train, rng=7)[0])
    assert_identical(left, before)
    torch.manual_seed(7)
    theirs = result_or_raises(lambda: module(right))
    assert_identical(ours, theirs)


@parametrize(case=CASES)
def test_nan_infinities_and_expanded_inputs_give_the_bits_of_the_module(case):
    [x] = case.inputs()
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 3.0, -3.0, 6.0, 100.0, -100.0])
    tiled = special.repeat(x.numel() // len(special) + 1)[: x.numel()].view(x.shape)
    flat = [] if getattr(case.module(), "inplace", False) else [x.reshape(-1)[0].expand(x.shape)]
    for variant in (tiled, *flat):
        for train in (False, True) if case.dropout else (False,):
            assert_same_as_module(case, variant, train)


@parametrize(case=CASES)
def test_empty_batches_and_other_ranks_give_what_the_module_gives(case):
    [x] = case.inputs()
    for variant in (x[:0] if x.dim() else x.new_empty(0), x[None], x.reshape(-1), x.sum(), x.new_empty(0)):
        for train in (False, True) if case.dropout else (False,):
            assert_same_as_module(case, variant, train)
