"""Each case under each transform, in both modes: what a loop gives, or the error that ``supports`` foretold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

import funcnet as fn
from tests.cases import CASES, COMPOSED_CASES
from tests.helpers import assert_identical, parametrize, total

MODES = [False, True]


def run(case, transform: str, train: bool, work: Any) -> Any:
    """The result of ``work()``; or, if the net says it does not support this, None, once the refusal is checked."""
    net = case.net()
    if fn.supports(net, transform, train=train):
        return work()
    with pytest.raises(Exception, match="cannot run under") as caught:
        work()
    refused = [path for path, below in net.named_nets() if transform in below.limits(train)]
    assert transform in str(caught.value)
    assert any((repr(path) if path else type(net).__name__) in str(caught.value) for path in refused)
    return None


def at(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, tree)


def example(case, xs: Any, index: int) -> list[Any]:
    return [x if dim is None else at(x, index) for x, dim in zip(xs, case.in_dims, strict=True)]


def first_of_each_kind(cases: Any) -> set[str]:
    """Names of cases: the first for each class of net, and for each set of transforms that the class refuses."""
    firsts: dict[Any, str] = {}
    for case in cases:
        net = case.net()
        refused = tuple(frozenset(t for t in fn.core.TRANSFORMS if not fn.supports(net, t, train=m)) for m in MODES)
        firsts.setdefault((net.title(), refused), case.name)
    return set(firsts.values())


FIRSTS = first_of_each_kind([*CASES, *COMPOSED_CASES])


def is_further_case(case, train: bool) -> bool:
    """Whether a case adds options to a kind of net that another case stands for: compiling it is left to the sweep."""
    return case.name not in FIRSTS


def differentiable(xs: Any) -> tuple[list[Tensor], Any]:
    """The floating tensors in inputs, and the function that puts others in their place."""
    leaves, spec = tree_flatten(xs)
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def rebuilt(tensors: Any) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return spec.unflatten(filled)

    return [leaves[place] for place in places], rebuilt


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES)
def test_vmap_over_inputs_is_a_loop(case, train):
    net = case.net()
    params, buffers = net.init(0)
    keys = fn.random.split(fn.random.key(0), 3)
    xs = case.inputs(examples=3)

    def one(key, *xs):
        return net.apply(params, buffers, *xs, **case.call, train=train, rng=key)

    mapped = run(case, "vmap", train, lambda: torch.vmap(one, in_dims=(0, *case.in_dims))(keys, *xs))
    for index in range(3 if mapped is not None else 0):
        torch.testing.assert_close(at(mapped, index), one(keys[index], *example(case, xs, index)))


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES)
def test_per_sample_gradients_are_a_loop(case, train):
    net = case.net()
    params, buffers = net.init(0)
    keys = fn.random.split(fn.random.key(0), 2)
    xs = case.inputs(examples=2)
    if not params and not any(x.is_floating_point() for x in tree_leaves(xs) if isinstance(x, Tensor)):
        pytest.skip("nothing to differentiate")

    def grads(key, *xs):
        tensors, rebuilt = differentiable(xs)

        def loss(params, tensors):
            inputs = rebuilt(tensors)
            return total(net.apply(params, buffers, *inputs, **case.call, train=train, rng=key)[0])

        return torch.func.grad(loss, argnums=0 if params else 1)(params, tensors)

    mapped = run(case, "vmap(grad)", train, lambda: torch.vmap(grads, in_dims=(0, *case.in_dims))(keys, *xs))
    for index in range(2 if mapped is not None else 0):
        alone = grads(keys[index], *example(case, xs, index))
        torch.testing.assert_close(at(mapped, index), alone, rtol=2e-4, atol=2e-5)


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES)
def test_an_ensemble_is_a_vmap_over_init_and_params(case, train):
    net = case.net()
    keys = fn.random.split(fn.random.key(0), 3)
    xs = case.inputs(torch.float64)
    if net.init(0) == ({}, {}):
        assert net.init(keys[0]) == ({}, {})
        return

    def init(key):
        return net.init(key, dtype=torch.float64)

    params, buffers = torch.vmap(init)(keys)

    def one(params, buffers, key):
        return net.apply(params, buffers, *xs, **case.call, train=train, rng=key)

    for index in range(3):
        assert_identical(fn.tree.map(lambda leaf, index=index: leaf[index], params), init(keys[index])[0])
    results = run(case, "ensemble", train, lambda: torch.vmap(one)(params, buffers, keys))
    for index in range(3 if results is not None else 0):
        torch.testing.assert_close(at(results, index), one(*init(keys[index]), keys[index]))


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES)
def test_jvp_is_the_directional_derivative(case, train):
    net = case.net()
    params, buffers = net.init(0, dtype=torch.float64)
    # torch's own rule for group_norm fails on channels_last, with the module too
    xs = tree_map(lambda x: x.contiguous() if isinstance(x, Tensor) else x, case.inputs(torch.float64))
    tensors, rebuilt = differentiable(xs)
    tangents, _ = differentiable(case.inputs(torch.float64, seed=1))
    if not tensors:
        pytest.skip("nothing to differentiate")

    def f(*tensors):
        inputs = rebuilt(tensors)
        return total(net.apply(params, buffers, *inputs, **case.call, train=train, rng=fn.random.key(0))[0])

    result = run(case, "jvp", train, lambda: torch.func.jvp(f, tuple(tensors), tuple(tangents)))
    if result is not None:
        grads = torch.func.grad(f, argnums=tuple(range(len(tensors))))(*tensors)
        backward = sum((grad * tangent).sum() for grad, tangent in zip(grads, tangents, strict=True))
        torch.testing.assert_close(result[1], backward)


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES)
def test_a_gradient_has_a_gradient(case, train):
    net = case.net()
    params, buffers = net.init(0, dtype=torch.float64)
    tensors, rebuilt = differentiable(case.inputs(torch.float64))
    tangents, _ = differentiable(case.inputs(torch.float64, seed=1))
    if not tensors:
        pytest.skip("nothing to differentiate")

    def f(tensors):
        inputs = rebuilt(tensors)
        return total(net.apply(params, buffers, *inputs, **case.call, train=train, rng=fn.random.key(0))[0])

    def along(tensors):
        grads = torch.func.grad(f)(tensors)
        return sum((grad * tangent).sum() for grad, tangent in zip(grads, tangents, strict=True))

    def products():
        # by two gradients; and forward over reverse for many tangents at once, which is what torch.func.hessian does
        many = [torch.stack([tangent, -tangent]) for tangent in tangents]
        ahead = torch.vmap(lambda *each: torch.func.jvp(torch.func.grad(f), (tensors,), (list(each),))[1])(*many)
        return torch.func.grad(along)(tensors), [both[0] for both in ahead]

    results = run(case, "hessian", train, products)
    if results is not None:
        # the same product by finite differences of the gradient
        step = 1e-6
        ahead = torch.func.grad(f)([x + step * t for x, t in zip(tensors, tangents, strict=True)])
        behind = torch.func.grad(f)([x - step * t for x, t in zip(tensors, tangents, strict=True)])
        numeric = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        torch.testing.assert_close(results[0], numeric, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[1], results[0])


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES, is_slow=is_further_case)
def test_compiles_without_a_break_and_once_for_other_values(case, train):
    net = case.net()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda params, buffers, key, *xs: net.apply(params, buffers, *xs, **case.call, train=train, rng=key),
        fullgraph=True,
        backend="aot_eager",
    )
    torch._dynamo.utils.counters.clear()

    def work():
        for seed in range(3):
            params, buffers = net.init(seed)
            key, xs = fn.random.key(seed), case.inputs(seed=seed)
            expected = net.apply(params, buffers, *xs, **case.call, train=train, rng=key)
            torch.testing.assert_close(compiled(params, buffers, key, *xs), expected)
        return True

    if run(case, "compile", train, work):
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1  # none where nothing is computed


@parametrize(case=[*CASES, *COMPOSED_CASES], train=MODES, is_slow=is_further_case)
def test_exports(case, train):
    net = case.net()
    params, buffers = net.init(0)

    class Exported(torch.nn.Module):
        def forward(self, params, buffers, key, xs):
            return net.apply(params, buffers, *xs, **case.call, train=train, rng=key)

    arguments = (params, buffers, fn.random.key(0), tuple(case.inputs()))
    program = run(case, "export", train, lambda: torch.export.export(Exported(), arguments))
    if program is not None:
        others = (*net.init(1), fn.random.key(1), tuple(case.inputs(seed=1)))
        torch.testing.assert_close(program.module()(*others), Exported()(*others))


def test_a_transform_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'pmap' is no transform"):
        fn.supports(fn.Linear(2, 3), "pmap")
