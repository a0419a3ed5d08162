"""Look-up tables beyond the table of cases: sparse gradients, counts, norms, errors, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize

IDS = torch.tensor([[6, 6, 6, 1], [1, 2, 6, 0]])


def stack_two(tree):
    return fn.tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), tree)


@parametrize(make=[lambda m: m.Embedding(7, 3, sparse=True), lambda m: m.EmbeddingBag(7, 3, mode="sum", sparse=True)])
def test_a_sparse_gradient_is_sparse_and_dense_under_vmap(make):
    net = make(fn)
    params, buffers = net.init(0)
    module = fn.to_module(net, params, buffers)
    assert fn.from_module(module)[0] == net
    module(IDS).sum().backward()
    _, grads = fn.value_and_grad(lambda params: net(params, IDS).sum())(params)
    assert grads["weight"].is_sparse
    assert_identical(grads["weight"].to_dense(), module.weight.grad.to_dense())
    mapped = torch.vmap(lambda ids: torch.func.grad(lambda params: net(params, ids).sum())(params))(IDS[None])
    torch.testing.assert_close(mapped["weight"][0], module.weight.grad.to_dense())


@parametrize(mode=["sum", "mean"])
def test_gradients_by_frequency_are_the_kernel_s_under_vmap(mode):
    net = fn.EmbeddingBag(7, 3, mode=mode, scale_grad_by_freq=True, padding_idx=2)
    params, _ = net.init(0)

    def grad(ids):
        return torch.func.grad(lambda params: net(params, ids).square().sum())(params)["weight"]

    many = torch.randint(7, (20, 3, 5), generator=torch.Generator().manual_seed(0))
    for ids, mapped in zip(many, torch.vmap(grad)(many), strict=True):
        torch.testing.assert_close(mapped, grad(ids))


@parametrize(mode=["sum", "mean", "max"], last=[False, True], padding=[None, 1])
def test_bags_of_any_length_under_vmap_equal_those_of_the_kernel(mode, last, padding):
    net = fn.EmbeddingBag(7, 3, mode=mode, include_last_offset=last, padding_idx=padding)
    params, _ = net.init(0, dtype=torch.float64)
    ids = torch.tensor([[1, 1, 3, 5, 1, 6, 0, 2], [1, 2, 2, 1, 4, 1, 1, 1]])
    offsets = torch.tensor([0, 2, 2, 5, 8]) if last else torch.tensor([0, 2, 2, 5])
    mapped = torch.vmap(lambda ids: net(params, ids, offsets))(ids)
    for row, y in zip(ids, mapped, strict=True):
        torch.testing.assert_close(y, net(params, row, offsets))
    both = torch.vmap(lambda params: net(params, ids[0], offsets))(stack_two(params))
    torch.testing.assert_close(both[0], net(params, ids[0], offsets))


def test_bags_have_second_derivatives_that_the_kernel_lacks():
    net = fn.EmbeddingBag(7, 3, mode="sum")
    weight, factors = torch.randn(7, 3, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)

    def f(factors, weight):
        return net({"weight": weight}, IDS, None, factors).square().sum()

    mixed = torch.func.jacrev(torch.func.grad(f), argnums=1)(factors, weight)
    step = 1e-6 * torch.ones_like(weight)
    ahead, behind = (torch.func.grad(f)(factors, weight + sign * step) for sign in (1, -1))
    torch.testing.assert_close(mixed.sum((-1, -2)), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_params_keep_rows_longer_than_max_norm_while_the_module_s_are_shortened():
    for net in (fn.Embedding(7, 3, max_norm=0.5), fn.EmbeddingBag(7, 3, max_norm=0.5)):
        params, buffers = net.init(0)
        before, module = clone(params), fn.to_module(net, params, buffers)
        assert_identical(net(params, IDS), module(IDS))
        assert_identical(params, before)
        assert not torch.equal(module.weight, params["weight"])
        mapped = torch.vmap(lambda ids, net=net, params=params: net(params, ids))(IDS[None])
        torch.testing.assert_close(mapped[0], net(params, IDS))


def test_tables_from_pretrained_tensors_become_nets_of_the_same_values():
    table = torch.randn(7, 3)
    for kind in ("Embedding", "EmbeddingBag"):
        net, params, _ = fn.from_module(getattr(nn, kind).from_pretrained(table, padding_idx=2))
        assert net == getattr(fn, kind)(7, 3, padding_idx=2)
        assert_identical(params, {"weight": table})


@parametrize(dtype=[torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_give_the_bits_of_the_module(dtype):
    for make in (lambda m, **kw: m.Embedding(7, 3, **kw), lambda m, **kw: m.EmbeddingBag(7, 3, mode="max", **kw)):
        module = make(nn, dtype=dtype)
        net, params, _ = fn.from_module(module)
        assert_identical(net(params, IDS), module(IDS))
        assert_identical(net(params, IDS.int()), module(IDS.int()))


BAG, BAG_SUM = fn.EmbeddingBag(7, 3), fn.EmbeddingBag(7, 3, mode="sum")


@parametrize(
    case=[
        (fn.Embedding(7, 3), (IDS + 5,), "out of range"),
        (BAG, (IDS[0],), "Offsets has to be"),
        (BAG, (IDS, torch.tensor([0])), "offsets has to be None"),
        (BAG, (IDS[0], torch.tensor([[0]])), "1D Tensor"),
        (BAG, (IDS[None],), "1D or 2D"),
        (BAG, (IDS, None, torch.ones(2, 4)), "mode 'sum'"),
        (BAG_SUM, (IDS, None, torch.ones(2, 3)), "same shape"),
    ]
)
def test_an_input_that_does_not_fit_is_refused_by_module_and_net(case):
    net, inputs, words = case
    params, buffers = net.init(0)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        fn.to_module(net, params, buffers)(*inputs)
    with pytest.raises(fn.ShapeError, match=words):
        net(params, *inputs)


def test_empty_offsets_with_which_torch_s_kernel_crashes_are_refused():
    with pytest.raises(fn.ShapeError, match="Offsets say where bags begin"):
        BAG(BAG.init(0)[0], IDS[0], torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: fn.EmbeddingBag(7, 3, mode="min"),
        lambda: fn.EmbeddingBag(7, 3, mode="max", sparse=True),
        lambda: fn.EmbeddingBag(7, 3, mode="max", scale_grad_by_freq=True),
        lambda: fn.EmbeddingBag(7, 3, padding_idx=7),
        lambda: fn.Embedding(7, 3, padding_idx=-8),
    ],
)
def test_arguments_that_no_call_could_use_are_refused(make):
    with pytest.raises((ValueError, AssertionError), match=r"mode|adding_idx"):
        make()
