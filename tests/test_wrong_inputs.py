"""What a module refuses, its net refuses before it computes: with the path, what was expected and what came."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import funcnet as fn
from tests.cases import LAYER_CASES
from tests.helpers import assert_identical, clone, parametrize


def altered(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The input with another rank, other sizes and other dtypes."""
    yield "a scalar", x.new_ones(())
    if x.dim():
        yield "one axis less", x[0]
    yield "one axis more", x[None]
    yield "three axes more", x[None, None, None]
    for axis in range(x.dim()):
        yield f"axis {axis} one longer", torch.cat([x, x.narrow(axis, 0, 1)], axis) if x.shape[axis] else x
        yield f"axis {axis} empty", x.narrow(axis, 0, 0)
    yield "int64", x.long()
    yield "bool", x > 0
    yield "float64", x.double()
    yield "complex64", x.to(torch.complex64)


@pytest.mark.filterwarnings("ignore")
@parametrize(case=LAYER_CASES)
def test_wrong_inputs_are_refused_as_by_the_module(case):
    module = case.module().eval()
    layer = case.net()

    @fn.compose(part=layer)
    def net(p, *inputs, **kwargs):
        return p.part(*inputs, **kwargs)

    _, params, buffers = fn.from_module(module)
    params = fn.tree.map(torch.Tensor.requires_grad_, params)  # as in the module: torch.matmul chooses kernels by it
    params = {"part": params} if params else {}
    buffers = {"part": buffers} if buffers else {}
    xs = case.inputs()
    for index, x in enumerate(xs):
        for what, wrong in altered(x) if isinstance(x, Tensor) else ():
            if index == 1 and what == "axis 0 empty" and isinstance(module, torch.nn.EmbeddingBag):
                continue  # no offsets at all end the process within torch's kernel
            given = [*xs[:index], wrong, *xs[index + 1 :]]
            refused, expected = outcome(lambda given=given: module(*clone(given), **case.call))
            refuses, output = outcome(
                lambda given=given: net.apply(params, buffers, *given, **case.call, rng=7)[0],
            )
            assert refuses == refused, f"input {index} with {what}: {expected if refused else output}"
            if not refused:
                assert_identical(output, expected)
            elif not layer.calls_unknown_code() and not isinstance(output, (TypeError, NotImplementedError)):
                message = str(output)
                refusing = [below for path, below in layer.named_nets("part") if f"{path!r}: " in message]
                assert refusing, message
                assert type(refusing[0]).__name__ in message, message
                assert "expected" in message, message
                assert "got" in message, message
                assert layer._children or str(tuple(wrong.shape)) in message, message


def outcome(work: Any) -> tuple[bool, Any]:
    """Whether it raises; and the error or the result."""
    torch.manual_seed(7)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return False, work()
    except Exception as error:
        return True, error
