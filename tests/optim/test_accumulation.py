"""Gradients accumulated over parts of a batch: torch's recipe, in one call."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet import optim
from funcnet.tree import ABSENT
from tests.helpers import assert_identical, clone

NET = fn.Sequential(fn.Linear(5, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Dropout(0.4), fn.Linear(16, 3))


def loss(params, buffers, x, y, rng=None):
    output, buffers = NET.apply(params, buffers, x, train=True, rng=rng)
    return F.cross_entropy(output, y), buffers


def draw_batch(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator)


def run_torch(module, x, y, parts: list[int]) -> tuple[float, dict]:
    """The recipe: the loss of each part, divided, goes backward; gradients add up."""
    total = 0.0
    for x_part, y_part in zip(x.split(parts), y.split(parts), strict=True):
        value = F.cross_entropy(module(x_part), y_part)
        value = value / len(parts) if len(set(parts)) == 1 else value * (len(x_part) / len(x))
        value.backward()
        total = total + value.detach()
    return total, {path: param.grad for path, param in module.named_parameters()}


@pytest.mark.parametrize(("size", "parts"), [(12, [4, 4, 4]), (12, [12]), (10, [4, 3, 3]), (12, [2] * 6)], ids=str)
def test_it_has_the_bits_of_torchs_recipe(size, parts):
    params, buffers = NET.init(0)
    module = fn.to_module(NET, params, buffers).train()
    x, y = draw_batch(size)
    given = clone((params, buffers, x, y))
    torch.manual_seed(7)
    expected, expected_grads = run_torch(module, x, y, parts)
    (value, new_buffers), grads = optim.accumulate(loss, len(parts), has_buffers=True)(params, buffers, x, y, rng=7)
    assert_identical(value, expected)
    assert_identical(fn.tree.flatten(grads), expected_grads)
    assert_identical(fn.tree.flatten(new_buffers), dict(module.named_buffers()))
    assert_identical((params, buffers, x, y), given)
    assert new_buffers["1"]["num_batches_tracked"] == len(parts)


def test_parts_draw_by_key_and_part():
    params, buffers = NET.init(0)
    x, y = draw_batch()
    key = fn.random.key(3)
    (value, new_buffers), grads = optim.accumulate(loss, 3, has_buffers=True)(params, buffers, x, y, rng=key)
    state, total, total_grads = buffers, torch.zeros(()), fn.tree.zeros_like(params)
    for index in range(3):
        part = slice(4 * index, 4 * index + 4)

        def part_loss(params, state, x, y, index=index):
            value, state = loss(params, state, x, y, rng=fn.random.fold_in(key, index))
            return value / 3, state

        (part_value, state), part_grads = fn.value_and_grad(part_loss, has_aux=True)(params, state, x[part], y[part])
        total, total_grads = total + part_value, fn.tree.add(total_grads, part_grads)
    assert_identical((value, new_buffers, grads), (total, state, total_grads))
    (one, _), _ = optim.accumulate(loss, 1, has_buffers=True)(params, buffers, x, y, rng=key)
    (same, _), _ = fn.value_and_grad(loss, has_aux=True)(params, buffers, x, y, rng=fn.random.fold_in(key, 0))
    assert_identical(one, same)


def linear_loss(params, x, scale=1.0):
    return (params["w"] * x).mean() * scale


def test_mean_and_sum_are_those_of_the_batch():
    params, x = {"w": torch.tensor(2.0, dtype=torch.float64)}, torch.randn(11, dtype=torch.float64)
    for parts in (1, 2, 3, 11):
        torch.testing.assert_close(
            optim.accumulate(linear_loss, parts)(params, x), fn.value_and_grad(linear_loss)(params, x)
        )
        summed = lambda params, x: (params["w"] * x).sum()  # noqa: E731
        torch.testing.assert_close(
            optim.accumulate(summed, parts, reduction="sum")(params, x), fn.value_and_grad(summed)(params, x)
        )
    scaled = optim.accumulate(linear_loss, 3)(params, x, scale=torch.tensor(3.0))
    torch.testing.assert_close(scaled[0], 3 * linear_loss(params, x))


def test_aux_is_a_list_with_an_item_for_each_part():
    params, x = {"w": torch.tensor(2.0)}, torch.arange(6.0)
    with_aux = lambda params, x: (linear_loss(params, x), {"seen": x})  # noqa: E731
    (_, auxes), _ = optim.accumulate(with_aux, 3, has_aux=True)(params, x)
    assert_identical(auxes, [{"seen": x[:2]}, {"seen": x[2:4]}, {"seen": x[4:]}])
    counted = lambda params, buffers, x: (linear_loss(params, x), ({"n": buffers["n"] + 1}, x.sum()))  # noqa: E731
    (value, (buffers, auxes)), _ = optim.accumulate(counted, 3, has_aux=True, has_buffers=True)(params, {"n": 0}, x)
    assert buffers == {"n": 3} and auxes == [1.0, 5.0, 9.0] and value == 5.0


def test_batches_may_be_nested_and_trees_may_have_gaps():
    batch = {"x": torch.randn(6, 2), "more": [torch.randn(6), (torch.randn(6), torch.tensor(2.0), None, "text")]}
    shapes = []

    def function(params, batch):
        x, (first, (second, factor, none, text)) = batch["x"], batch["more"]
        assert none is None and text == "text"
        shapes.append((x.shape, first.shape, second.shape, factor.shape))
        return ((x * params["w"]).sum(1) * first * second * factor).mean()

    params = {"w": torch.ones(2), "gone": ABSENT}
    value, grads = optim.accumulate(function, 3)(params, batch)
    assert shapes == [((2, 2), (2,), (2,), ())] * 3
    assert grads["gone"] is ABSENT
    torch.testing.assert_close(
        (value, grads["w"]), (lambda pair: (pair[0], pair[1]["w"]))(fn.value_and_grad(function)(params, batch))
    )


def test_it_names_what_does_not_fit():
    params = {"w": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"sizes differ: input 0\['a'\] has 4, input 0\['b'\]\[0\] has 5\. Pass what"):
        optim.accumulate(linear_loss, 2)(params, {"a": torch.ones(4), "b": [torch.ones(5)]})
    with pytest.raises(ValueError, match="a batch of 2 cannot be divided into 3 parts"):
        optim.accumulate(linear_loss, 3)(params, torch.ones(2))
    with pytest.raises(ValueError, match="1 part or more, got microbatches=0"):
        optim.accumulate(linear_loss, 0)
    with pytest.raises(ValueError, match="'mean' or 'sum', got 'max'"):
        optim.accumulate(linear_loss, 2, reduction="max")
    with pytest.raises(fn.RandomnessError, match="rng is a Key"):
        optim.accumulate(linear_loss, 2)(params, torch.ones(2), rng="seed")


def test_it_is_differentiated_mapped_and_compiled():
    params = {"w": torch.tensor(2.0, dtype=torch.float64)}
    x = torch.randn(6, dtype=torch.float64)
    cubic = lambda params, x: (params["w"] ** 3 * x).mean()  # noqa: E731
    accumulated = optim.accumulate(cubic, 3)
    second = torch.func.grad(lambda params: accumulated(params, x)[1]["w"])(params)
    torch.testing.assert_close(second["w"], 6 * params["w"] * x.mean())
    members = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    _, grads = torch.vmap(accumulated, in_dims=(0, None))(members, x)
    torch.testing.assert_close(grads["w"], 3 * members["w"] ** 2 * x.mean())
    torch._dynamo.reset()
    compiled = torch.compile(accumulated, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, x), accumulated(params, x))


def test_only_one_parts_activations_are_held():
    """The tensors that live at once, counted by what a hook of a part still sees of the parts before it."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    def function(params, x):
        nonlocal most
        hidden = params["w"] * x
        alive.append(weakref.ref(hidden))
        most = max(most, sum(ref() is not None for ref in alive))
        return (hidden * hidden).mean()

    optim.accumulate(function, 6)({"w": torch.ones(3)}, torch.ones(12, 3))
    assert most == 1
