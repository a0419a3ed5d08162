"""Keys and draws by themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet.random._keys import mix_int, mix_tensor, to_signed
from tests.helpers import assert_identical, global_generator_untouched, parametrize

key, split, fold_in = fn.random.key, fn.random.split, fn.random.fold_in


def test_mixing_is_the_same_on_ints_and_tensors_and_loses_nothing():
    values = [0, 1, -1, 2**63 - 1, -(2**63), *range(1000)]
    mixed = mix_tensor(torch.tensor(values))
    assert mixed.tolist() == [mix_int(value) for value in values]
    assert len(set(mixed.tolist())) == len(set(values))
    assert all(-(2**63) <= value < 2**63 for value in map(to_signed, (2**64, 2**63, -1)))


def test_keys_made_in_different_ways_differ():
    root = key(0)
    keys = torch.stack(
        [root, key(1), key(-1), *split(root, 50), *split(key(1), 50), *(fold_in(root, n) for n in range(50))]
    )
    assert len(set(keys.tolist())) == len(keys)
    assert_identical(split(root, 3), split(root, 5)[:3])
    assert_identical(fold_in(root, 2**62), fold_in(root, torch.tensor(2**62)))


def test_keys_are_the_same_under_vmap_and_compile():
    keys = split(key(0), 4)
    assert_identical(torch.vmap(lambda k: split(k, 3))(keys), torch.stack([split(k, 3) for k in keys]))
    numbers = torch.arange(5)
    assert_identical(
        torch.vmap(lambda n: fold_in(key(0), n))(numbers), torch.stack([fold_in(key(0), n) for n in numbers])
    )
    torch._dynamo.reset()
    for made in (lambda k: split(k, 7), lambda k: fold_in(k, 3)):
        assert_identical(torch.compile(made, fullgraph=True)(keys[0]), made(keys[0]))


@pytest.mark.parametrize("wrong", [0, torch.zeros(()), torch.zeros(2, dtype=torch.int64), None], ids=repr)
def test_what_is_not_a_key_is_refused(wrong):
    for use in (split, lambda k: fold_in(k, 0), lambda k: fn.random.uniform(k, (2,))):
        with pytest.raises(fn.RandomnessError, match=r"expected (one|a) Key"):
            use(wrong)


DRAWS = {
    "uniform": lambda k: fn.random.uniform(k, (2000,), -1.0, 3.0),
    "normal": lambda k: fn.random.normal(k, (2000,), 1.0, 2.0),
    "bernoulli": lambda k: fn.random.bernoulli(k, (2000,), 0.25),
    "dropout": lambda k: fn.random.dropout(torch.ones(2000), 0.25, rng=k),
}
MOMENTS = {"uniform": (1.0, 4 / 12**0.5), "normal": (1.0, 2.0), "bernoulli": (0.25, 0.433), "dropout": (1.0, 0.577)}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_functions_of_the_key_with_the_moments_they_name(name):
    draw = DRAWS[name]
    with global_generator_untouched():
        y = draw(key(1))
        assert_identical(draw(key(1)), y)
    assert not torch.equal(draw(key(2)), y)
    mean, std = MOMENTS[name]
    assert abs(float(y.mean()) - mean) < 5 * std / 2000**0.5
    assert abs(float(y.std()) - std) < 0.1 * std
    keys = split(key(0), 3)
    assert_identical(torch.vmap(draw)(keys), torch.stack([draw(k) for k in keys]))
    torch._dynamo.reset()
    assert_identical(torch.compile(draw, fullgraph=True, backend="aot_eager")(keys[0]), draw(keys[0]))


@parametrize(
    dtype=[torch.float16, torch.bfloat16, torch.float32, torch.float64], layout=["contiguous", "last", "transposed"]
)
def test_dropout_from_a_seed_is_that_of_torch(dtype, layout):
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5).to(dtype)
    if layout == "last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(1, 3)
    for ours, theirs in ((fn.random.dropout, F.dropout), (fn.random.feature_dropout, F.feature_alpha_dropout)):
        if ours is fn.random.feature_dropout:
            theirs = F.dropout2d
        y = ours(x, 0.4, rng=fn.random.Stream(8))
        torch.manual_seed(8)
        expected = theirs(x, 0.4)
        assert_identical(y, expected)
        assert y.stride() == expected.stride()


def test_dropout_has_the_gradient_of_its_mask():
    x = torch.ones(50, dtype=torch.float64)
    y = fn.random.dropout(x, 0.5, rng=key(0))
    assert_identical(torch.func.grad(lambda x: fn.random.dropout(x, 0.5, rng=key(0)).sum())(x), y)
    hessian = torch.func.hessian(lambda x: fn.random.dropout(x**2, 0.5, rng=key(0)).sum())(x)
    assert_identical(hessian, torch.diag(2 * y))


def test_dropout_refuses_what_is_no_probability_and_a_missing_rng():
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fn.random.dropout(torch.ones(2), p, rng=key(0))
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        fn.random.dropout(torch.ones(2), rng=None)
    x = torch.ones(2)
    assert fn.random.dropout(x, 0.5, training=False, rng=None) is x


def test_draws_go_through_export():
    class Noisy(torch.nn.Module):
        def forward(self, k, x):
            return fn.random.dropout(x, 0.5, rng=k)

    x = torch.ones(20)
    exported = torch.export.export(Noisy(), (key(0), x)).module()
    for seed in range(2):
        assert_identical(exported(key(seed), x), fn.random.dropout(x, 0.5, rng=key(seed)))


@pytest.mark.gpu
def test_draws_on_a_gpu():
    k = key(0, device="cuda")
    x = torch.ones(1000, device="cuda")
    assert_identical(fn.random.dropout(x, 0.5, rng=k), fn.random.dropout(x, 0.5, rng=key(0)))
    assert fn.random.normal(k, (3,)).device.type == "cuda"


def test_dropout_of_an_expanded_input_is_that_of_torch():
    x = torch.ones(1, 64).expand(8, 64)
    y = fn.random.dropout(x, 0.5, rng=fn.random.Stream(1))
    torch.manual_seed(1)
    assert_identical(y, F.dropout(x, 0.5))
    assert fn.random.dropout(x, 0.5, rng=key(0)).shape == x.shape


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_torch_refuses_is_refused_as_a_seed(seed):
    message = rf"a seed is from -2\*\*63 to 2\*\*64 - 1, as for torch.manual_seed, not {seed}\."
    dropout = fn.Dropout()
    for call in (
        lambda: fn.random.key(seed),
        lambda: fn.Linear(1, 1).init(seed),
        lambda: dropout.apply({}, {}, torch.ones(2), train=True, rng=seed),
    ):
        with pytest.raises(fn.RandomnessError, match=message):
            call()


@pytest.mark.parametrize("seed", [2**64 - 1, -(2**63)])
def test_the_first_and_the_last_seed_of_torch_draw_what_torch_draws(seed):
    y, _ = fn.Dropout().apply({}, {}, torch.ones(9), train=True, rng=seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        assert torch.equal(y, torch.nn.Dropout()(torch.ones(9)))
    assert fn.random.key(seed).dtype == torch.int64
