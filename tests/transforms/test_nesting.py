"""Each derivative within each other, over the table of cases: the slopes of a function along one line.

Along the line ``x + s * t`` a scalar function of tensors is a function of one number s. Each transform here makes such
a function of such a function: its slope, its curvature, or a sum over several places. So what two of them give, one
around the other, is known from finite differences of what the inner one gives alone; and that from the function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

import funcnet as fn
from tests.cases import CASES, COMPOSED_CASES
from tests.cases.case import Case
from tests.helpers import parametrize, total

Scalar: TypeAlias = Callable[[list[Tensor]], Tensor]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return sum(((a * b).sum() for a, b in zip(left, right, strict=True)), torch.zeros((), dtype=torch.float64))


def _move(xs: Sequence[Tensor], ts: Sequence[Tensor], step: Any) -> list[Tensor]:
    return [x + step * t for x, t in zip(xs, ts, strict=True)]


def _quadratic_form(matrix: Sequence[Sequence[Tensor]], ts: Sequence[Tensor]) -> Tensor:
    rows = [
        sum((block * t).reshape(*s.shape, -1).sum(-1) for block, t in zip(row, ts, strict=True))
        for row, s in zip(matrix, ts, strict=True)
    ]
    return _dot([row.view(s.shape) for row, s in zip(rows, ts, strict=True)], ts)


def transforms(ts: list[Tensor]) -> dict[str, Callable[[Scalar], Scalar]]:
    """Name -> a transform of scalar functions; all but vmap, hvp and hessian give the slope in the direction ``ts``."""
    one, places = torch.ones((), dtype=torch.float64), torch.tensor([0.0, 0.25], dtype=torch.float64)
    return {
        "grad": lambda f: lambda xs: _dot(fn.grad(f)(xs), ts),
        "value_and_grad": lambda f: lambda xs: _dot(fn.value_and_grad(f)(xs)[1], ts),
        "jvp": lambda f: lambda xs: fn.jvp(f, (xs,), (ts,))[1],
        "vjp": lambda f: lambda xs: _dot(fn.vjp(f, xs)[1](one), ts),
        "jacobian": lambda f: lambda xs: _dot(fn.jacobian(f)(xs), ts),
        "hvp": lambda f: lambda xs: _dot(fn.hvp(f)(xs, ts), ts),
        "hessian": lambda f: lambda xs: _quadratic_form(fn.hessian(f)(xs), ts),
        "torch.hessian": lambda f: lambda xs: _quadratic_form(torch.func.hessian(f)(xs), ts),
        "vmap": lambda f: lambda xs: torch.vmap(lambda place: f(_move(xs, ts, place)))(places).sum(),
        "torch.grad": lambda f: lambda xs: _dot(torch.func.grad(f)(xs), ts),
        "torch.jvp": lambda f: lambda xs: torch.func.jvp(f, (xs,), (ts,))[1],
    }


NAMES = [name for name in transforms([]) if "hessian" not in name]
MATRICES = ["hessian", "torch.hessian"]


def expected_along(name: str, line: Callable[[float], Tensor], h: float = 2e-3) -> Tensor:
    """What a transform gives of a function along the line, by finite differences of fourth order with steps of h."""
    if name == "vmap":
        return line(0.0) + line(0.25)
    if name in ("hvp", "hessian", "torch.hessian"):
        middle, near, far = line(0.0), line(h) + line(-h), line(2 * h) + line(-2 * h)
        return (16 * near - far - 30 * middle) / (12 * h * h)
    return (8 * (line(h) - line(-h)) - (line(2 * h) - line(-2 * h))) / (12 * h)


def differentiable(xs: Any, contiguous: bool = True) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    leaves, spec = tree_flatten(tree_map_only(Tensor, Tensor.contiguous, xs) if contiguous else xs)
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def rebuild(tensors: Sequence[Tensor]) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return spec.unflatten(filled)

    return [leaves[place] for place in places], rebuild


def function_of_case(case: Case, train: bool) -> tuple[Scalar, list[Tensor], list[Tensor]]:
    """A smooth scalar of a net's output, as a function of its inputs and params; a point, and a direction."""
    net = case.net()
    params, buffers = net.init(0, dtype=torch.float64)
    tensors, rebuild = differentiable((params, case.inputs(torch.float64)))
    generator = torch.Generator().manual_seed(5)
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]
    scale = 0.3 / max(1.0, float(_dot(directions, directions)) ** 0.5)

    def f(tensors: list[Tensor]) -> Tensor:
        params, xs = rebuild(tensors)
        output, _ = net.apply(params, buffers, *xs, **case.call, train=train, rng=fn.random.key(0))
        return total(output).sin()

    return f, tensors, [scale * direction for direction in directions]


TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


DEFINED_OTHERWISE = (
    "padding_idx",
    "scale_grad_by_freq",
    "max_norm",
    "CTCLoss",
    "spectral_norm",
    "discriminator",
    "several_p",
)
"""Parts of names of cases whose gradient is not the slope of their output, by definition.

Embeddings leave rows out of it or scale it, torch's CTC gradient holds for log-probabilities that add up to one, and
the power iteration of a spectral norm counts as constant.
"""


NO_THIRD_DERIVATIVE = ("ConvTranspose",)
"""Parts of names of cases that torch refuses to differentiate three times: with an output padding, by an error."""


def supports_all(case: Case, train: bool) -> bool:
    net = case.net()
    if any(part in case.name for part in DEFINED_OTHERWISE):
        return False
    names = ("grad", "vmap", "vmap(grad)", "jvp", "hessian", "ensemble")
    return all(fn.supports(net, name, train=train) for name in names)


NESTED = {
    "BatchNorm2d(3,momentum=None)4x3x5x5",
    "LayerNorm([3,5])4x3x5",
    "InstanceNorm1d(3)2x3x5",
    "MSELoss()4x3,4x3",
    "MultiheadAttention(8,2,bias=False,average_attn_weights=False)3x8,4x8,4x8",
}


ROWS = [case for case in (*CASES, *COMPOSED_CASES) if case.name in NESTED]


def is_left_to_sweep(case: Case, train: bool) -> bool:
    return train is not ("Batch" in case.name)


def find_problem(name: str, function: Scalar, transformed: Scalar, xs: list[Tensor], ts: list[Tensor]) -> str:
    """What a transform of a function gives instead of what finite differences give; "" if they agree."""

    def line(s: float) -> Tensor:
        return function(_move(xs, ts, s))

    expected, result = expected_along(name, line), transformed(xs)
    if torch.allclose(result, expected, **TOLERANCE):
        return ""
    if not torch.allclose(expected_along(name, line, 1e-3), expected, **TOLERANCE):
        return ""  # the function has a kink between the places
    return f"{result.item()} instead of {expected.item()}"


@parametrize(case=ROWS, train=[False, True], is_slow=is_left_to_sweep)
def test_each_transform_within_each_other(case, train):
    if not supports_all(case, train):
        pytest.skip("some derivative is refused, as supports says")
    f, xs, ts = function_of_case(case, train)
    if not xs:
        pytest.skip("nothing to differentiate")
    by_name = transforms(ts)
    has_third = not any(part in case.name for part in NO_THIRD_DERIVATIVE)
    problems = []
    for inner in [*NAMES, *MATRICES]:
        once = by_name[inner](f)
        outers = [outer for outer in NAMES if inner in NAMES and (has_third or "hvp" not in (inner, outer))]
        lines = {
            "f": (f, once, inner),
            **{outer: (once, by_name[outer](once), outer) for outer in outers},
        }
        for outer, (function, transformed, name) in lines.items():
            problem = find_problem(name, function, transformed, xs, ts)
            problems += [f"{outer}({inner}): {problem}"] if problem else []
    assert not problems


NESTS = list(itertools.product(("grad", "jvp", "vjp", "vmap", "value_and_grad"), repeat=2))
SHARDS = 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")  # torch's logsigmoid, vmap of jvp
@pytest.mark.parametrize("shard", range(SHARDS))
def test_nests_of_two_over_all_rows(shard):
    """Every row runs five of the nests, and every nest runs over a fifth of the rows."""
    rows = [(case, train) for case in (*CASES, *COMPOSED_CASES) for train in (False, True)]
    problems = []
    for number in range(shard, len(rows), SHARDS):
        case, train = rows[number]
        if not supports_all(case, train):
            continue
        f, xs, ts = function_of_case(case, train)
        by_name = transforms(ts)
        for outer, inner in NESTS[number % 5 :: 5] if xs else ():
            once = by_name[inner](f)
            problem = find_problem(outer, once, by_name[outer](once), xs, ts)
            problems += [f"{outer}({inner}) of {case.name}, train={train}: {problem}"] if problem else []
    assert not problems


def test_the_nests_of_five_rows_in_turn_are_all_nests():
    assert sorted(nest for number in range(5) for nest in NESTS[number::5]) == sorted(NESTS)
