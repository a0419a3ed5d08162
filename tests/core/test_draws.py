"""Where random numbers come from during a call."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched

X = torch.ones(4, 50)


def mask(net, key, path):
    return net.apply(*net.init(0), X, train=True, rng=key)[0][path]


def test_draws_depend_on_key_path_and_count_and_not_on_other_layers():
    @fn.compose(first=fn.Dropout(0.5), second=fn.Dropout(0.5))
    def two(p, x):
        return {"first": p.first(x), "second": p.second(x)}

    @fn.compose(zeroth=fn.Dropout(0.5), first=fn.Dropout(0.5), second=fn.Dropout(0.5))
    def three(p, x):
        return {"zeroth": p.zeroth(x), "second": p.second(x), "first": p.first(x), "again": p.first(x)}

    key = fn.random.key(0)
    assert_identical(mask(two, key, "first"), mask(three, key, "first"))
    assert_identical(mask(two, key, "second"), mask(three, key, "second"))
    drawn = [mask(three, key, path) for path in ("zeroth", "first", "second", "again")]
    drawn.append(mask(three, fn.random.key(1), "first"))
    assert not any(torch.equal(left, right) for index, left in enumerate(drawn) for right in drawn[:index])


def test_a_seed_replays_the_sequence_of_the_module_across_all_layers():
    net = fn.Sequential(*[fn.Dropout(0.5) for _ in range(3)])
    module = fn.to_module(net, {}, {})
    with global_generator_untouched():
        y, _ = net.apply({}, {}, X, train=True, rng=11)
    torch.manual_seed(11)
    assert_identical(y, module(X))


def test_p_rng_is_a_key_for_a_key_and_a_sequence_for_a_seed():
    seen = []

    @fn.compose()
    def net(p, x):
        seen.append(p.rng)
        return x + fn.random.uniform(p.rng, x.shape) * fn.random.bernoulli(p.rng, x.shape, 0.5)

    net.apply({}, {}, X, rng=fn.random.key(0))
    assert isinstance(seen[0], torch.Tensor)
    y, _ = net.apply({}, {}, X, rng=5)
    assert isinstance(seen[1], fn.random.Stream)
    torch.manual_seed(5)
    assert_identical(y, X + torch.rand(X.shape) * torch.empty(X.shape).bernoulli_(0.5))
    torch.manual_seed(5)
    assert_identical(fn.to_module(net, {}, {})(X), y)
    with pytest.raises(fn.RandomnessError, match="net draws random numbers and rng is None"):
        net({}, X)


@fn.compose()
def by_torch(p, x):
    return {
        "dropout": F.dropout(x, 0.5, p.training),
        "dropout2d": F.dropout2d(x.view(4, 10, 5, 1), 0.5, p.training),
        "dropout3d": F.dropout3d(x.view(4, 10, 5, 1, 1), 0.5, p.training),
        "dropout1d": F.dropout1d(x.view(20, 10), 0.5, p.training),
        "rand": torch.rand(3),
        "randn_like": torch.randn_like(x),
    }


def test_torch_functions_in_a_body_draw_from_the_call():
    with global_generator_untouched():
        y, _ = by_torch.apply({}, {}, X, train=True, rng=3)
    torch.manual_seed(3)
    assert_identical(by_torch.forward(fn.to_module(by_torch, {}, {}), X), y)
    key = fn.random.key(3)
    with global_generator_untouched():
        first, second = (by_torch.apply({}, {}, X, train=True, rng=key)[0] for _ in range(2))
    assert_identical(first, second)
    with pytest.raises(fn.RandomnessError, match="by_torch draws random numbers"):
        by_torch({}, X)
    with pytest.raises(fn.RandomnessError, match="by_torch draws random numbers"):
        by_torch.apply({}, {}, X, train=True)


def test_torch_functions_in_a_body_draw_from_keys_under_vmap_and_compile():
    keys = fn.random.split(fn.random.key(0), 3)

    def one(key):
        return by_torch.apply({}, {}, X, train=True, rng=key)[0]

    mapped = torch.vmap(one)(keys)
    for index in range(3):
        assert_identical(pytree.tree_map(lambda leaf, index=index: leaf[index], mapped), one(keys[index]))


def test_torch_functions_in_a_body_draw_from_keys_in_compiled_code():
    @fn.compose()
    def net(p, x):
        return F.dropout(x, 0.5, p.training), torch.rand(3), torch.randn(2, 2), F.dropout2d(x.view(4, 10, 5, 1))

    def call(key):
        return net.apply({}, {}, X, train=True, rng=key)[0]

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        with global_generator_untouched():
            assert_identical(compiled(fn.random.key(seed)), call(fn.random.key(seed)))


def test_kernels_that_draw_inside_replay_a_seed():
    @fn.compose()
    def net(p, x):
        q = x.view(1, 4, 5, 10)
        return (
            F.scaled_dot_product_attention(q, q, q, dropout_p=0.5 if p.training else 0.0),
            F.rrelu(-x, training=p.training),
            F.alpha_dropout(x, 0.5, p.training),
            F.gumbel_softmax(x),
            torch.randperm(9),
            torch.multinomial(x, 3),
            x.new_empty(4).exponential_(),
        )

    with global_generator_untouched():
        y, _ = net.apply({}, {}, X, train=True, rng=9)
        keyed = [net.apply({}, {}, X, train=True, rng=fn.random.key(9))[0] for _ in range(2)]
    assert_identical(keyed[0], keyed[1])
    torch.manual_seed(9)
    assert_identical(net.forward(fn.to_module(net, {}, {}), X), y)


def test_a_seed_is_refused_where_a_sequence_cannot_be_kept():
    net = fn.Dropout(0.5)
    with pytest.raises(fn.RandomnessError, match=r"under vmap.*funcnet\.random\.key\(3\)"):
        torch.vmap(lambda x: net.apply({}, {}, x, train=True, rng=3)[0])(X)


@pytest.mark.parametrize(
    "rng", [True, 1.5, "0", torch.zeros(2), torch.zeros(()), fn.random.split(fn.random.key(0))], ids=repr
)
def test_what_is_neither_key_nor_seed_is_refused(rng):
    with pytest.raises(fn.RandomnessError, match="Key"):
        fn.Dropout().apply({}, {}, X, train=True, rng=rng)


def test_a_draw_that_depends_on_the_input_is_noticed_later_too():
    @fn.compose()
    def net(p, x):
        return F.dropout(x) if x.shape[0] > 4 else x

    net({}, X)
    with global_generator_untouched(), pytest.raises(fn.RandomnessError, match="net draws"):
        net({}, torch.ones(8, 3))
    net.apply({}, {}, X, rng=0)
    with global_generator_untouched():
        first, second = (net.apply({}, {}, torch.ones(8, 3), rng=0)[0] for _ in range(2))
    assert_identical(first, second)


DRAWING = {
    "randint_like": lambda x: torch.randint_like(x, 9),
    "binomial": lambda x: torch.binomial(x * 9, x / 2),
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True),
    "feature_dropout": lambda x: torch.feature_dropout(x[None], 0.5, True),
    "alpha_dropout": lambda x: torch.alpha_dropout(x, 0.5, True),
    "gamma": lambda x: torch.distributions.Gamma(x, x).sample(),
    "dirichlet": lambda x: torch.distributions.Dirichlet(x).sample(),
    "student": lambda x: torch.distributions.StudentT(x + 3).sample(),
    "normal": lambda x: torch.distributions.Normal(x, x).sample(),
    "init": lambda x: torch.nn.init.normal_(torch.empty(3)),
    "a layer made in the body": lambda x: torch.nn.Linear(50, 2)(x),
    "no generator": lambda x: torch.rand(3, generator=None) + torch.randn(3, generator=None),
    "rrelu": lambda x: torch.rrelu(-x, training=True),
}


@pytest.mark.parametrize("name", DRAWING)
def test_whatever_draws_draws_from_the_call(name):
    net = fn.compose()(lambda p, x: DRAWING[name](x))
    with global_generator_untouched():
        y, _ = net.apply({}, {}, X, rng=5)
        with pytest.raises(fn.RandomnessError):
            net({}, X)
        keyed = [net.apply({}, {}, X, rng=fn.random.key(1))[0] for _ in range(2)]
    assert_identical(keyed[0], keyed[1])
    torch.manual_seed(5)
    assert_identical(y, DRAWING[name](X))
