"""How statistics of single examples are called: axes, chunks, aux, dtypes, nesting and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

import funcnet as fn
from tests.transforms.test_per_sample import assert_close, norms_of, weighted_sum

NET = fn.Sequential(fn.Linear(4, 8), fn.ReLU(inplace=True), fn.LayerNorm(8), fn.Linear(8, 3))
PARAMS, _ = NET.init(0, dtype=torch.float64)
X, Y = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4).sin(), torch.tensor([0, 1, 2, 0, 1])


def loss(params, x, y):
    return F.cross_entropy(NET(params, x), y)


def stacked_grads(params=PARAMS):
    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, X, Y)


def test_axes_and_structures_are_those_of_vmap():
    expected = norms_of(stacked_grads())

    def nested(params, batch, shift):
        return loss(params, batch["x"] + shift, batch["y"][0])

    norms = fn.per_sample_norms(nested, (None, {"x": -1, "y": [0]}, None))(
        PARAMS, {"x": X.t(), "y": [Y]}, torch.zeros(4)
    )
    assert_close(norms, expected)
    assert_close(fn.per_sample_norms(loss, (None, 0, 0))(PARAMS, X, Y), expected)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunks_change_nothing(chunk_size):
    grads = stacked_grads()
    norms = norms_of(grads)
    chunked = {"chunk_size": chunk_size}
    assert_close(fn.per_sample_norms(loss, **chunked)(PARAMS, X, Y), norms)
    assert_close(
        fn.clipped_grads(loss, 0.5, **chunked)(PARAMS, X, Y)[0], weighted_sum(grads, (0.5 / norms).clamp(max=1))
    )
    assert_close(fn.per_sample_grads(loss, **chunked)(PARAMS, X, Y), grads)
    weights = (norms > norms.median()).double()
    assert_close(fn.weighted_grads(loss, **chunked)(PARAMS, weights, X, Y), weighted_sum(grads, weights))
    by_norms = fn.weighted_grads(loss, **chunked)(PARAMS, lambda norms: (norms > norms.median()).double(), X, Y)
    assert_close(by_norms, weighted_sum(grads, weights))


def test_memory_bounds_the_examples_of_a_chunk():
    calls = []

    def count_and_lose(params, x, y):
        calls.append(params)
        return loss(params, x, y)

    expected = norms_of(stacked_grads())
    for memory, passes in ((1 << 30, 2), (1, 6)):  # one of them looks at the first example
        calls.clear()
        assert_close(fn.per_sample_norms(count_and_lose, memory=memory)(PARAMS, X, Y), expected)
        assert len(calls) == passes


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_aux_comes_last(chunk_size):
    def with_aux(params, x, y):
        logits = NET(params, x)
        return F.cross_entropy(logits, y), {"logits": logits, "one": torch.ones(())}

    expected = torch.vmap(with_aux, in_dims=(None, 0, 0))(PARAMS, X, Y)[1]
    options = {"has_aux": True, "chunk_size": chunk_size}
    results = [
        fn.per_sample_norms(with_aux, **options)(PARAMS, X, Y),
        fn.clipped_grads(with_aux, 1.0, **options)(PARAMS, X, Y),
        fn.weighted_grads(with_aux, **options)(PARAMS, torch.ones(5), X, Y),
        fn.per_sample_dots(with_aux, **options)(PARAMS, PARAMS, X, Y),
        fn.per_sample_grads(with_aux, **options)(PARAMS, X, Y),
    ]
    for *_, aux in results:
        assert_close(aux, expected)
        assert not any(leaf.requires_grad for leaf in tree_leaves(aux))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision(dtype):
    params, x = fn.tree.to(PARAMS, dtype), X.to(dtype)
    grads, norms = fn.clipped_grads(loss, 0.5)(params, x, Y)
    assert {leaf.dtype for leaf in (norms, *tree_leaves(grads))} == {dtype}
    exact = norms_of(stacked_grads())
    torch.testing.assert_close(norms.double(), exact, rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_autocast():
    params = fn.tree.to(PARAMS, torch.float32)

    def cast_loss(params, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(NET(params, x).float(), y)

    expected = norms_of(torch.vmap(torch.func.grad(cast_loss), in_dims=(None, 0, 0))(params, X.float(), Y))
    torch.testing.assert_close(fn.per_sample_norms(cast_loss)(params, X.float(), Y), expected, rtol=2e-2, atol=0)


def test_norms_can_be_differentiated():
    def sum_of_norms(params):
        return fn.per_sample_norms(loss)(params, X, Y).sum()

    expected = torch.func.grad(lambda params: norms_of(stacked_grads(params)).sum())(PARAMS)
    assert_close(torch.func.grad(sum_of_norms)(PARAMS), expected)
    assert_close(fn.value_and_grad(sum_of_norms)(PARAMS)[1], expected)
    leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), PARAMS)
    grads = torch.autograd.grad(sum_of_norms(leaves), tree_leaves(leaves))
    for one, other in zip(grads, tree_leaves(expected), strict=True):
        assert_close(one, other)
    shift = torch.zeros(
        4, dtype=torch.float64, requires_grad=True
    )  # not an argument, but somebody differentiates by it
    assert fn.per_sample_norms(lambda params, x, y: loss(params, x + shift, y))(PARAMS, X, Y).requires_grad


def test_an_ensemble_of_statistics():
    members, _ = torch.vmap(partial(NET.init, dtype=torch.float64))(fn.random.split(fn.random.key(0), 3))
    norms = torch.vmap(fn.per_sample_norms(loss), in_dims=(0, None, None))(members, X, Y)
    for row, member in zip(norms, fn.tree.unstack(members), strict=True):
        assert_close(row, norms_of(stacked_grads(member)))


def test_statistics_in_other_modes():
    expected = norms_of(stacked_grads())
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            norms = fn.per_sample_norms(loss)(PARAMS, X, Y)
        assert_close(norms, expected)
        assert not norms.requires_grad


@pytest.mark.slow
def test_statistics_are_compiled_as_one_graph():
    function = fn.clipped_grads(loss, 0.5)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(tree_leaves(compiled(PARAMS, X, Y)), tree_leaves(function(PARAMS, X, Y)), strict=True):
        assert_close(one, other)


def test_no_examples_give_zeros():
    grads, norms = fn.clipped_grads(loss, 1.0)(PARAMS, X[:0], Y[:0])
    assert norms.shape == (0,)
    assert norms.dtype == torch.float64
    assert all(not leaf.any() for leaf in tree_leaves(grads))
    assert [leaf.shape[0] for leaf in tree_leaves(fn.per_sample_grads(loss)(PARAMS, X[:0], Y[:0]))] == [0] * 6


def first_layer(params):
    return {"0": params["0"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fn.per_sample_norms(loss)(PARAMS, X, Y[:3]), r"argument 1 has 5 examples\n.*2 has 3 examples"),
        (lambda: fn.per_sample_norms(loss, (0, 0, 0))(PARAMS, X, Y), r"in_dims=\(0, 0, 0\) maps the params"),
        (lambda: fn.per_sample_norms(loss, (None, None, None))(PARAMS, X, Y), "maps nothing"),
        (lambda: fn.per_sample_norms(loss, (None, 0))(PARAMS, X, Y), "one entry for each positional argument"),
        (lambda: fn.per_sample_norms(loss, (None, {"x": 0}, 0))(PARAMS, X, Y), r"in_dims\[1\].* does not fit the"),
        (lambda: fn.per_sample_norms(loss)(PARAMS, X, 3), "argument 2 is int, which has no axis 0"),
        (
            lambda: fn.per_sample_norms(lambda p, x: NET(p, x))(PARAMS, X),
            r"for one example, needs a scalar .* got shape \(3,\)",
        ),
        (lambda: fn.per_sample_norms(lambda p, x: (x.sum(), x))(PARAMS, X), "takes has_aux=True"),
        (lambda: fn.per_sample_norms(lambda p, x: x.sum(), has_aux=True)(PARAMS, X), "needs a pair"),
        (lambda: fn.per_sample_norms(lambda p, x: x.sum())(PARAMS, X), "depends on none of the arguments"),
        (lambda: fn.per_sample_norms(lambda p, x: (x.sum() > 0).sum())(PARAMS, X), "real floats"),
        (lambda: fn.per_sample_norms(loss)({"rate": 0.1}, X, Y), r"params\['rate'\] is float"),
        (lambda: fn.per_sample_norms(loss)(), "params first"),
        (lambda: fn.per_sample_norms(loss, chunk_size=0)(PARAMS, X, Y), "at least 1, got 0"),
        (lambda: fn.per_sample_norms(loss, memory=0)(PARAMS, X, Y), "memory is a number of bytes, at least 1, got 0"),
        (lambda: fn.clipped_grads(loss, 0.0), "more than 0, got 0.0"),
        (lambda: fn.clipped_grads(loss, float("nan")), "more than 0, got nan"),
        (lambda: fn.weighted_grads(loss)(PARAMS, torch.ones(3), X, Y), r"weights of shape \(5,\).* \(3,\)"),
        (lambda: fn.weighted_grads(loss)(PARAMS, [1.0] * 5, X, Y), "or a function of the norms.* got list"),
        (
            lambda: fn.per_sample_dots(loss)(PARAMS, first_layer(PARAMS), X, Y),
            r"\['3'\]\['bias'\] is missing, expected",
        ),
        (
            lambda: fn.per_sample_dots(loss)(PARAMS, {**PARAMS, "0": {"weight": X, "bias": Y}}, X, Y),
            r"\['weight'\] is float64\[5, 4\], expected float64\[8, 4\]",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_parameters_that_are_asked_who_they_are_keep_their_rules():
    # Regression: what a parameter answers to its module, that it comes from no operator, hid where its gradient goes
    class Asks(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if self.weight.requires_grad else x

    net, params, _ = fn.from_module(Asks(4, 3))
    rules = fn.per_sample_rules(lambda params, x: net(params, x).sum())(params, torch.ones(2, 4))
    assert rules == {"weight": "linear", "bias": "linear"}
