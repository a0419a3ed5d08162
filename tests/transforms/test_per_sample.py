"""Statistics of the gradients of single examples: what vmap(grad) gives, for every layer and composition of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import funcnet as fn
from tests.cases import CASES, COMPOSED_CASES
from tests.helpers import assert_identical, clone, total

QUICK_RULES = {"linear", "matmul", "convolution", "embedding", "norm"}


def assert_close(left: Any, right: Any, tolerance: float = 1e-12) -> None:
    """Equal structure and, but for rounding in float64, equal tensors; each is compared by its norm."""
    left_leaves, right_leaves = tree_leaves(left), tree_leaves(right)
    assert len(left_leaves) == len(right_leaves)
    least = 1e-3 * max(float(torch.linalg.vector_norm(leaf)) for leaf in right_leaves)  # some hold nothing but rounding
    for one, other in zip(left_leaves, right_leaves, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        difference, size = torch.linalg.vector_norm(one - other), torch.linalg.vector_norm(other)
        assert difference <= tolerance * max(float(size), least), (float(difference), float(size))


def norms_of(grads: Any) -> Tensor:
    """The norm of each example's gradient, all leaves together."""
    leaves = tree_leaves(grads)
    return torch.stack([leaf.reshape(len(leaf), -1).norm(dim=1) for leaf in leaves]).norm(dim=0)


def weighted_sum(grads: Any, weights: Tensor) -> Any:
    return fn.tree.map(lambda grad: torch.einsum("b,b...->...", weights, grad), grads)


def check_against_vmap(loss: Any, in_dims: Any, params: Any, *batch: Any, **options: Any) -> dict[str, str]:
    """Compare every statistic with vmap(grad); returns the rules that were used."""
    given = clone((params, batch))
    grads = torch.vmap(torch.func.grad(lambda p, *xs: loss(p, *xs, **options)), in_dims=in_dims)(params, *batch)
    norms = norms_of(grads)
    assert_close(fn.per_sample_grads(loss, in_dims)(params, *batch, **options), grads)
    assert_close(fn.per_sample_norms(loss, in_dims)(params, *batch, **options), norms)
    limit = float(norms.median()) + 1e-9
    factors = (limit / norms).clamp(max=1)
    clipped, norms_before = fn.clipped_grads(loss, limit, in_dims)(params, *batch, **options)
    assert_close(norms_before, norms)
    assert_close(clipped, weighted_sum(grads, factors))
    weights = torch.linspace(-1, 2, len(norms), dtype=norms.dtype)
    assert_close(fn.weighted_grads(loss, in_dims)(params, weights, *batch, **options), weighted_sum(grads, weights))
    pairs = zip(tree_leaves(grads), tree_leaves(params), strict=True)
    dots = sum((grad * leaf).reshape(len(norms), -1).sum(1) for grad, leaf in pairs)
    largest = norms.max() * fn.tree.norm(params)
    assert (fn.per_sample_dots(loss, in_dims)(params, params, *batch, **options) - dots).abs().max() <= 1e-12 * largest
    assert_identical((params, batch), given)
    return fn.per_sample_rules(loss, in_dims)(params, *batch, **options)


def list_rows() -> list[Any]:
    """Each case with params, in each mode in which vmap(grad) works. Most are left to the sweep."""
    kinds: set[str] = set()
    rows = []
    for case in [*CASES, *COMPOSED_CASES]:
        net = case.net()
        for train in (False, True):
            if net.init(0)[0] and fn.supports(net, "vmap(grad)", train=train):
                is_slow = train or net.title() in kinds
                kinds.add(net.title())
                name = f"{case.name}-{'train' if train else 'eval'}"
                rows.append(pytest.param(case, train, id=name, marks=[pytest.mark.slow] if is_slow else []))
    return rows


@pytest.mark.parametrize(("case", "train"), list_rows())
def test_statistics_are_those_of_vmap_of_grad(case, train):
    net = case.net()
    params, buffers = net.init(0, dtype=torch.float64)
    batch = case.inputs(torch.float64, examples=3)
    keys = fn.random.split(fn.random.key(0), 3)

    def loss(params, key, *xs):
        return total(net.apply(params, buffers, *xs, **case.call, train=train, rng=key)[0])

    rules = check_against_vmap(loss, (None, 0, *case.in_dims), params, keys, *batch)
    assert "vmap(grad)" not in rules.values()


def draw_layers(generator: torch.Generator) -> tuple[list[Any], tuple[int, ...]]:
    """Layers with random options, and the shape of one example as a batch of one."""

    def draw(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    space, kind = draw(1, 2, 3), draw("Conv", "ConvTranspose")
    norms = [
        fn.GroupNorm(2, 4),
        getattr(fn, f"InstanceNorm{space}d")(4, affine=True),
        getattr(fn, f"BatchNorm{space}d")(4),
    ]
    layers: list[Any] = []
    for _ in range(draw(1, 2)):
        options = {name: draw(1, 2) for name in ("stride", "dilation", "groups")}
        options |= {"bias": draw(True, False), "padding": draw(0, 1)}
        options |= {"padding_mode": draw("zeros", "circular")} if kind == "Conv" else {}
        layers += [getattr(fn, f"{kind}{space}d")(4, 4, draw(1, 2, 3), **options), draw(*norms)]
        layers.append(draw(fn.ReLU(inplace=True), fn.Tanh(), fn.SiLU()))
    layers += [fn.Flatten(draw(1, -space)), fn.LazyLinear(5), draw(fn.LayerNorm(5), fn.RMSNorm(5)), fn.Linear(5, 3)]
    return layers, (1, 4, *(11,) * space)


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 60))])
def test_statistics_of_random_compositions_are_quick_and_right(seed):
    generator = torch.Generator().manual_seed(seed)
    layers, shape = draw_layers(generator)
    example = torch.ones(shape, dtype=torch.float64)
    net, params, buffers = fn.Sequential(*layers).init(seed, dtype=torch.float64, example_inputs=example)
    batch = torch.randn(4, *shape, generator=generator, dtype=torch.float64)

    def loss(params, x):
        return net.apply(params, buffers, x)[0].square().sum()

    rules = check_against_vmap(loss, (None, 0), params, batch)
    assert set(rules.values()) <= QUICK_RULES
