"""MultiheadAttention beyond the table: every mix of options and masks, its fast path, its first values, its errors."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched, parametrize, total

OPTIONS = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True},
    {"kdim": 3, "vdim": 5},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "bias": False, "kdim": 5},
]
LENGTH, SOURCE, BATCH, SIZE, HEADS = 3, 4, 2, 8, 2


def inputs(options, kind, dtype, requires_grad=True):
    """Query, key and value: three tensors, one and two, or one for all."""
    if kind != "three" and (options.keys() & {"kdim", "vdim"}):
        pytest.skip("keys and values have other sizes")
    generator = torch.Generator().manual_seed(0)

    def make(length, size):
        shape = (BATCH, length, size) if options.get("batch_first") else (length, BATCH, size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)

    query = make(LENGTH if kind != "self" else SOURCE, SIZE)
    if kind == "self":
        return query, query, query
    key = make(SOURCE, options.get("kdim", SIZE))
    return query, key, key if kind == "memory" else make(SOURCE, options.get("vdim", SIZE))


def masks(length, dtype):
    """Keyword arguments: no mask, each alone and both, bools and floats, two axes and three, and the causal hint."""
    later = torch.ones(length, SOURCE).triu(1).bool()
    hidden = torch.tensor([[False, False, True, False], [False, True, False, False]])
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(BATCH * HEADS, length, SOURCE, generator=generator).to(dtype)
    yield {}
    yield {"attn_mask": later}
    yield {"attn_mask": scores}
    yield {"key_padding_mask": hidden}
    yield {"key_padding_mask": hidden.to(dtype), "attn_mask": scores[0]}
    yield {"key_padding_mask": hidden, "attn_mask": later, "is_causal": True}
    yield {"attn_mask": later, "is_causal": True}


def pair(options, dtype, requires_grad=True, dropout=0.3, size=SIZE, heads=HEADS):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(size, heads, dropout, **options).to(dtype).requires_grad_(requires_grad)
    net, params, _ = fn.from_module(module)
    return module, net, fn.tree.map(lambda leaf: leaf.requires_grad_(requires_grad), params)


def run_both(module, net, params, qkv, train, **call):
    """The pairs (output, weights) of the module and of the net, with the same seed."""
    torch.manual_seed(5)
    expected = module.train(train)(*qkv, **call)
    with global_generator_untouched():
        result, _ = net.apply(params, {}, *qkv, **call, train=train, rng=5)
    return expected, result


def distinct(tensors):
    return list({id(x): x for x in tensors}.values())


@parametrize(index=range(len(OPTIONS)), kind=["three", "memory", "self"], dtype=[torch.float32, torch.float64])
@pytest.mark.parametrize("train", [False, True])
def test_outputs_weights_and_gradients_are_those_of_the_module(index, kind, dtype, train):
    module, net, params = pair(OPTIONS[index], dtype)
    qkv = inputs(OPTIONS[index], kind, dtype)
    flat = fn.tree.flatten(params)
    for call in masks(SOURCE if kind == "self" else LENGTH, dtype):
        for request in ({}, {"average_attn_weights": False}, {"need_weights": False}):
            expected, result = run_both(module, net, params, qkv, train, **call, **request)
            assert_identical(result, expected)
            theirs = torch.autograd.grad(total(expected), [*module.parameters(), *distinct(qkv)])
            ours = torch.autograd.grad(
                total(result), [*(flat[n] for n, _ in module.named_parameters()), *distinct(qkv)]
            )
            assert_identical(ours, theirs)


@parametrize(need_weights=[False, True], kind=["self", "three"])
def test_without_gradients_the_bits_are_those_of_the_module_off_its_fast_path(need_weights, kind):
    options = {"batch_first": True}
    module, net, params = pair(options, torch.float32, requires_grad=False)
    qkv = inputs(options, kind, torch.float32, requires_grad=False)
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected, result = run_both(module, net, params, qkv, False, need_weights=need_weights)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
    assert_identical(result, expected)
    expected, result = run_both(module, net, params, qkv, False, need_weights=need_weights)
    torch.testing.assert_close(result, expected, rtol=0, atol=4e-7)


@parametrize(need_weights=[False, True], dtype=[torch.float16, torch.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_half_precision_gives_the_bits_of_the_module(need_weights, dtype, train):
    module, net, params = pair({}, dtype)
    qkv = inputs({}, "self", dtype)
    for call in masks(SOURCE, dtype):
        expected, result = run_both(module, net, params, qkv, train, **call, need_weights=need_weights)
        assert_identical(result, expected)


@parametrize(need_weights=[False, True])
@pytest.mark.parametrize("train", [False, True])
def test_unbatched_and_empty_inputs_give_what_the_module_gives(need_weights, train):
    for options in ({}, {"batch_first": True, "add_zero_attn": True}):
        module, net, params = pair(options, torch.float32)
        x, heads_mask = torch.randn(SOURCE, SIZE), torch.randn(HEADS, SOURCE, SOURCE)
        for call in ({}, {"attn_mask": heads_mask}, {"key_padding_mask": torch.tensor([0, 1, 0, 0]).bool()}):
            assert_identical(*run_both(module, net, params, (x, x, x), train, need_weights=need_weights, **call))
        empty = torch.randn(0, SOURCE, SIZE) if options else torch.randn(SOURCE, 0, SIZE)
        assert_identical(*run_both(module, net, params, (empty, empty, empty), train, need_weights=need_weights))


def test_a_query_whose_keys_are_all_hidden_gets_what_the_module_gives():
    module, net, params = pair({}, torch.float32)
    x, hidden = torch.randn(SOURCE, BATCH, SIZE), torch.zeros(SOURCE, SOURCE).bool()
    hidden[1] = True
    for train, need_weights in itertools.product([False, True], repeat=2):
        assert_identical(*run_both(module, net, params, (x, x, x), train, need_weights=need_weights, attn_mask=hidden))


# --- impl ---


@parametrize(need_weights=[False, True])
def test_the_composed_form_is_close_and_has_second_derivatives(need_weights):
    _, net, params = pair({}, torch.float64)
    composed = fn.MultiheadAttention(SIZE, HEADS, 0.3, impl="composed")
    qkv = inputs({}, "self", torch.float64)
    y = composed(params, *qkv, need_weights=need_weights)[0]
    torch.testing.assert_close(y, net(params, *qkv, need_weights=need_weights)[0])
    (grad,) = torch.autograd.grad(y.square().sum(), qkv[:1], create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), qkv[:1])
    assert second.isfinite().all()


def test_impl_survives_the_way_to_a_module_and_back():
    net = fn.MultiheadAttention(SIZE, HEADS, impl="composed")
    assert fn.from_module(fn.to_module(net, *net.init(0)))[0] == net
    assert net != fn.MultiheadAttention(SIZE, HEADS)
    with pytest.raises(ValueError, match="impl is 'fused' or 'composed'"):
        fn.MultiheadAttention(SIZE, HEADS, impl="flash")


@parametrize(train=[False, True])
def test_without_weights_every_transform_works_in_the_fused_form(train):
    _, net, params = pair({}, torch.float64, requires_grad=False)
    x = torch.randn(3, SOURCE, BATCH, SIZE, dtype=torch.float64)
    key = fn.random.key(0)

    def f(x, params=params, key=key):
        return net.apply(params, {}, x, x, x, need_weights=False, train=train, rng=key)[0][0]

    def loss(x):
        return f(x).square().sum()

    keys = fn.random.split(key, 3)
    mapped = torch.vmap(lambda x, key: f(x, key=key))(x, keys)
    torch.testing.assert_close(mapped, torch.stack([f(example, key=k) for example, k in zip(x, keys, strict=True)]))
    grads = torch.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(grads, torch.stack([torch.func.grad(loss)(example) for example in x]))
    tangent = torch.func.jvp(loss, (x[0],), (x[1],))[1]
    torch.testing.assert_close(tangent, (torch.func.grad(loss)(x[0]) * x[1]).sum())
    small = x[0, :2, :1, :]
    hessian = torch.func.hessian(loss)(small)
    step = 1e-6 * torch.randn_like(small)
    change = torch.func.grad(loss)(small + step) - torch.func.grad(loss)(small - step)
    torch.testing.assert_close((hessian * step).sum((-3, -2, -1)) * 2, change, rtol=1e-4, atol=1e-12)
    compiled = torch.compile(lambda x: torch.vmap(f)(x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), torch.vmap(f)(x))


def test_a_mask_for_each_example_maps():
    _, net, params = pair({}, torch.float32, requires_grad=False)
    x, hidden = torch.randn(SOURCE, BATCH, SIZE), torch.rand(3, SOURCE, SOURCE) > 0.7

    def f(mask):
        return net(params, x, x, x, attn_mask=mask, need_weights=False)[0]

    torch.testing.assert_close(torch.vmap(f)(hidden), torch.stack([f(mask) for mask in hidden]))


# --- draws by a foreign forward ---


class Foreign(nn.Module):
    """Hand-written attention, with dropout inside torch's function."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(SIZE, 3 * SIZE)

    def forward(self, x):
        q, k, v = self.proj(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.4 if self.training else 0.0, is_causal=True)


def test_attention_in_a_foreign_forward_draws_from_rng_under_every_transform():
    module = Foreign()
    net, params, buffers = fn.from_module(module)
    x = torch.randn(3, 2, SOURCE, SIZE)
    for train in (False, True):
        torch.manual_seed(5)
        expected = module.train(train)(x)
        assert_identical(net.apply(params, buffers, x, train=train, rng=5)[0], expected)
    keys = fn.random.split(fn.random.key(0), 3)

    def train_call(x, key):
        return net.apply(params, buffers, x, train=True, rng=key)[0]

    alone = torch.stack([train_call(*pair) for pair in zip(x, keys, strict=True)])
    torch.testing.assert_close(torch.vmap(train_call)(x, keys), alone)
    torch.testing.assert_close(torch.compile(train_call, fullgraph=True, backend="aot_eager")(x[0], keys[0]), alone[0])


class Enclosed(nn.Module):
    """A module whose foreign forward calls torch's own layer."""

    def __init__(self, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, 0.4)
        self.need_weights = need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@parametrize(need_weights=[False, True])
def test_the_module_in_a_foreign_forward_draws_from_rng_under_vmap_and_grad(need_weights):
    module = Enclosed(need_weights)
    net, params, buffers = fn.from_module(module)
    x, keys = torch.randn(3, SOURCE, BATCH, SIZE), fn.random.split(fn.random.key(0), 3)
    torch.manual_seed(5)
    expected = module(x[0])
    tracked = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), params)
    with global_generator_untouched():
        assert_identical(net.apply(tracked, buffers, x[0], train=True, rng=5)[0], expected)

    for train in (False, True):

        def loss(x, key, train=train):
            return net.apply(params, buffers, x, train=train, rng=key)[0].square().sum()

        grads = torch.vmap(torch.func.grad(loss))(x, keys)
        alone = torch.stack([torch.func.grad(loss)(example, key) for example, key in zip(x, keys, strict=True)])
        torch.testing.assert_close(grads, alone)
    compiled = torch.compile(lambda x: net(params, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[0]), net(params, x[0]))


@parametrize(heads=[(2, 2), (4, 2)], dtype=[torch.float32, torch.bfloat16])
def test_attention_with_explicit_draws_has_the_bits_of_the_kernel_with_dropout(heads, dtype):
    q = torch.randn(2, heads[0], 3, 4, dtype=dtype)
    k, v = torch.randn(2, 2, heads[1], 5, 4, dtype=dtype).unbind()
    for mask, causal, scale in ((None, True, None), (torch.rand(3, 5) > 0.4, False, 0.3), (None, False, -0.5)):
        options = {"scale": scale, "enable_gqa": heads[0] != heads[1]}
        torch.manual_seed(3)
        expected = F.scaled_dot_product_attention(q, k, v, mask, 0.3, causal, **options)
        rng = fn.random.Stream(3)
        result = fn.random.scaled_dot_product_attention(q, k, v, mask, 0.3, causal, **options, rng=rng)
        assert_identical(result, expected)


# --- conversion and errors ---


def test_an_out_proj_of_another_kind_keeps_the_module_foreign():
    class Doubled(nn.modules.linear.NonDynamicallyQuantizableLinear):
        pass

    module = nn.MultiheadAttention(SIZE, HEADS)
    module.out_proj = Doubled(SIZE, SIZE)
    net, params, _ = fn.from_module(module)
    assert isinstance(net, fn.Wrapped)
    x = torch.randn(3, 1, SIZE)
    torch.testing.assert_close(net(params, x, x, x)[0], module(x, x, x)[0])


def test_one_name_for_two_layers_of_a_net_has_one_first_value():
    shared = fn.Sequential(fn.Linear(2, 2), fn.Linear(2, 2)).tie({"1.weight": "0.weight", "1.bias": "0.bias"})
    torch.manual_seed(0)
    assert torch.equal(shared.init(0)[0]["0"]["weight"], nn.Linear(2, 2).weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 7}, "divisible"),
        ({"num_heads": 0}, "greater than 0"),
        ({"dropout": 1.5}, r"dropout is a probability in \[0, 1\], got 1.5"),
        ({"dropout": -0.1}, r"dropout is a probability"),
    ],
    ids=lambda value: "",
)
def test_bad_arguments_are_refused_at_construction(options, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        fn.MultiheadAttention(**{"embed_dim": SIZE, "num_heads": HEADS, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"is_causal": True}, "is_causal is a hint about attn_mask, which is missing"),
        ({"attn_mask": torch.zeros(2, 2)}, r"attn_mask of 2 axes has shape \(4, 4\) here, got \(2, 2\)"),
        ({"attn_mask": torch.zeros(3, 4, 4)}, r"attn_mask of 3 axes has shape \(4, 4, 4\) here, got \(3, 4, 4\)"),
        ({"attn_mask": torch.zeros(4, 4).long()}, "only bool and floating types of attn_mask"),
        ({"key_padding_mask": torch.zeros(4, 2)}, r"key_padding_mask has shape \(2, 4\) here, got \(4, 2\)"),
    ],
    ids=lambda value: "",
)
def test_masks_that_do_not_fit_are_refused(call, message):
    module, net, params = pair({}, torch.float32)
    x = torch.randn(SOURCE, BATCH, SIZE)
    with pytest.raises(fn.ShapeError, match=f"(?i){message}"):
        net(params, x, x, x, **call)
    with pytest.raises((RuntimeError, AssertionError)):
        module(x, x, x, **call)


def test_masks_of_two_kinds_warn_as_the_module_does():
    module, net, params = pair({}, torch.float32)
    x = torch.randn(SOURCE, BATCH, SIZE)
    call = {"attn_mask": torch.zeros(SOURCE, SOURCE), "key_padding_mask": torch.zeros(BATCH, SOURCE).bool()}
    for run in (lambda: module(x, x, x, **call), lambda: net(params, x, x, x, **call)):
        with pytest.warns(UserWarning, match="mismatched key_padding_mask and attn_mask"):
            run()
