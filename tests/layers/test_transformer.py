"""Transformers beyond the table: options, masks and hints, fast paths, first values, modules changed after building."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched, parametrize, total

SIZE, HEADS, HIDDEN, BATCH, S, T = 8, 2, 6, 2, 4, 3
OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"norm_first": True, "activation": "gelu", "bias": False},
    {"norm_first": True, "batch_first": True, "bias": False, "layer_norm_eps": 1e-2},
    {"activation": torch.tanh},
]


def encoder_layer(make: Any, **options: Any) -> Any:
    return make.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, 0.3, **options)


def encoder(make: Any, **options: Any) -> Any:
    return make.TransformerEncoder(encoder_layer(make, **options), 2, make.LayerNorm(SIZE), False)


def decoder_layer(make: Any, **options: Any) -> Any:
    return make.TransformerDecoderLayer(SIZE, HEADS, HIDDEN, 0.3, **options)


def decoder(make: Any, **options: Any) -> Any:
    return make.TransformerDecoder(decoder_layer(make, **options), 2)


def transformer(make: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the fast path is off
        return make.Transformer(SIZE, HEADS, 1, 2, HIDDEN, 0.3, **options)


LATER, LATER_T = (nn.Transformer.generate_square_subsequent_mask(size) for size in (S, T))
PADDED = torch.tensor([[False, False, True, True], [False, False, False, True]])
PADDED_T = torch.tensor([[False, False, True], [False, False, False]])
MEMORY_SCORES = torch.randn(T, S, generator=torch.Generator().manual_seed(0))
ENCODER_CALLS: list[dict[str, Any]] = [{}, {"mask": LATER}, {"mask": LATER < 0, "is_causal": True}]
ENCODER_CALLS += [{"src_key_padding_mask": PADDED}, {"src_key_padding_mask": PADDED, "mask": LATER < 0}]
DECODER_CALLS: list[dict[str, Any]] = [{}, {"tgt_mask": LATER_T, "memory_key_padding_mask": PADDED}]
DECODER_CALLS += [{"tgt_mask": LATER_T < 0, "tgt_is_causal": True, "memory_mask": MEMORY_SCORES}]
DECODER_CALLS += [{"tgt_key_padding_mask": PADDED_T, "memory_mask": MEMORY_SCORES > 0.7, "tgt_mask": LATER_T < 0}]
TRANSFORMER_CALLS = [{**call, "src_mask": LATER} for call in DECODER_CALLS]
CALLS = {
    encoder_layer: [{{"mask": "src_mask"}.get(name, name): v for name, v in call.items()} for call in ENCODER_CALLS],
    encoder: ENCODER_CALLS,
    decoder_layer: DECODER_CALLS,
    decoder: DECODER_CALLS,
    transformer: TRANSFORMER_CALLS,
}


def inputs(make: Any, batch_first: bool, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = {transformer: (S, T), decoder: (T, S), decoder_layer: (T, S)}.get(make, (S,))
    shapes = [(BATCH, length, SIZE) if batch_first else (length, BATCH, SIZE) for length in lengths]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def pair(make: Any, requires_grad: bool = True, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    module = make(nn, **options).to(dtype).requires_grad_(requires_grad)
    net, params, buffers = fn.from_module(module)
    assert not [path for path, child in net.named_nets() if isinstance(child, fn.Wrapped)]
    assert net == make(fn, **options)
    assert buffers == {}
    return module, net, fn.tree.map(lambda leaf: leaf.requires_grad_(requires_grad), params)


@parametrize(make=list(CALLS), index=range(len(OPTIONS)), train=[False, True])
def test_outputs_and_gradients_are_those_of_the_module(make, index, train):
    options = OPTIONS[index]
    module, net, params = pair(make, **options)
    flat = fn.tree.flatten(params)
    xs = [x.requires_grad_() for x in inputs(make, options.get("batch_first", False))]
    for call in CALLS[make]:
        torch.manual_seed(5)
        expected = module.train(train)(*xs, **call)
        with global_generator_untouched():
            output, _ = net.apply(params, {}, *xs, **call, train=train, rng=5)
        assert_identical(output, expected)
        theirs = torch.autograd.grad(total(expected), [*module.parameters(), *xs])
        ours = torch.autograd.grad(total(output), [*(flat[name] for name, _ in module.named_parameters()), *xs])
        assert_identical(ours, theirs)


@parametrize(make=[encoder_layer, encoder, decoder, transformer], dtype=[torch.float64, torch.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_other_dtypes_and_unbatched_inputs_give_the_bits_of_the_module(make, dtype, train):
    module, net, params = pair(make, dtype=dtype)
    xs = inputs(make, False, dtype)
    for tensors in (xs, [x[:, 0] for x in xs]):
        torch.manual_seed(5)
        expected = module.train(train)(*tensors)
        assert_identical(net.apply(params, {}, *tensors, train=train, rng=5)[0], expected)


# --- the module's fast paths ---


@parametrize(make=[encoder_layer, encoder, transformer])
def test_without_gradients_the_bits_are_those_of_the_module_off_its_fast_path(make):
    module, net, params = pair(make, requires_grad=False, batch_first=True)
    xs = inputs(make, True)
    for call in CALLS[make]:
        output = net(params, *xs, **call)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(output, module.eval()(*xs, **call), rtol=0, atol=2e-6)
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert_identical(output, module(*xs, **call))
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_positions_are_computed_where_the_module_may_zero_them():
    layer = nn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, batch_first=True)
    module = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    net, params, _ = fn.from_module(module)
    (x,) = inputs(encoder, True)
    output, fast = net(params, x, src_key_padding_mask=PADDED), module(x, src_key_padding_mask=PADDED)
    is_visible = ~PADDED[:, :3]
    torch.testing.assert_close(output[:, :3][is_visible], fast[:, :3][is_visible], rtol=0, atol=2e-6)
    assert bool((fast[0, 2] == 0).all())
    assert bool((output[0, 2] != 0).any())


# --- first values ---


@parametrize(make=list(CALLS), index=range(len(OPTIONS)))
def test_first_values_by_seed_are_those_of_the_module(make, index):
    torch.manual_seed(3)
    module = make(nn, **OPTIONS[index])
    with global_generator_untouched():
        params, buffers = make(fn, **OPTIONS[index]).init(3)
    assert_identical(fn.to_state_dict(params, buffers), dict(module.state_dict()))


@parametrize(kind=["custom_encoder", "custom_decoder"])
def test_first_values_with_a_custom_part_are_those_of_the_module(kind):
    def build(make):
        stack = encoder(make) if kind == "custom_encoder" else decoder(make)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make.Transformer(SIZE, HEADS, 1, 1, HIDDEN, **{kind: stack})

    torch.manual_seed(3)
    module, net = build(nn), build(fn)
    assert_identical(fn.to_state_dict(*net.init(3)), dict(module.state_dict()))
    assert fn.from_module(module)[0] == net


def test_the_draws_that_follow_a_stack_are_those_of_the_module():
    def build(make):
        return make.Sequential(encoder(make), make.Linear(SIZE, 2))

    torch.manual_seed(3)
    assert_identical(fn.to_state_dict(*build(fn).init(3)), dict(build(nn).state_dict()))


def test_layers_start_equal_by_a_seed_and_different_by_a_key():
    net = encoder(fn)
    seeded, keyed = net.init(0)[0]["layers"], net.init(fn.random.key(0))[0]["layers"]
    assert_identical(seeded["0"], seeded["1"])
    assert not torch.equal(keyed["0"]["linear1"]["weight"], keyed["1"]["linear1"]["weight"])


def test_a_shared_stack_draws_once():
    def build(make):
        stack = encoder(make)
        return make.Sequential(stack, stack, make.Linear(SIZE, 2))

    torch.manual_seed(3)
    module = build(nn)
    net = fn.from_module(module)[0]
    assert_identical(fn.to_state_dict(net, *net.init(3)), dict(module.state_dict()))


# --- causal masks ---


def test_a_causal_mask_is_recognised_and_a_hint_is_not_checked():
    module, net, params = pair(decoder)
    xs = inputs(decoder, False)
    plain = net(params, *xs)
    torch.testing.assert_close(net(params, *xs, tgt_mask=LATER_T), net(params, *xs, tgt_mask=LATER_T + 0.0))
    assert not torch.equal(net(params, *xs, tgt_mask=LATER_T), plain)
    not_causal = torch.zeros(T, T)  # although the hint says that it is
    expected = module.eval()(*xs, tgt_mask=not_causal, tgt_is_causal=True)
    assert_identical(net(params, *xs, tgt_mask=not_causal, tgt_is_causal=True), expected)


def test_masks_compile_and_map_without_a_branch_on_their_values():
    _, net, params = pair(encoder, requires_grad=False)
    (x,) = inputs(encoder, False)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, mask: net(params, x, mask=mask), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, LATER), net(params, x, mask=LATER))
    masks = torch.stack([LATER, torch.zeros(S, S)])
    mapped = torch.vmap(lambda mask: net(params, x, mask=mask))(masks)
    torch.testing.assert_close(mapped, torch.stack([net(params, x, mask=mask) for mask in masks]))


def test_transformer_has_the_static_method_of_torch_for_masks():
    assert_identical(fn.Transformer.generate_square_subsequent_mask(S), LATER)


# --- activations ---


def test_an_activation_may_be_a_net_as_it_may_be_a_module():
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, activation=nn.GELU())
    net, params, _ = fn.from_module(module)
    assert net == fn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, activation=fn.GELU())
    assert repr(net) == repr(module)
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules()]
    (x,) = inputs(encoder, False)
    assert_identical(net(params, x), module.eval()(x).detach())
    with pytest.raises(TypeError, match=r"'activation' is an nn\.Module"):
        fn.TransformerEncoderLayer(SIZE, HEADS, activation=nn.GELU())


def test_draws_of_a_given_activation_come_from_rng():
    layer = fn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, 0.0, activation=F.dropout)
    params, _ = layer.init(0)
    (x,) = inputs(encoder, False)
    with global_generator_untouched():
        first, second = (layer.apply(params, {}, x, rng=fn.random.key(seed))[0] for seed in (0, 1))
        repeated = layer.apply(params, {}, x, rng=fn.random.key(0))[0]
    assert torch.equal(first, repeated)
    assert not torch.equal(first, second)


# --- nets as values, and modules changed after they were built ---


@parametrize(make=list(CALLS), composed=[False, True])
def test_nets_survive_a_pickle_and_the_way_to_a_module(make, composed):
    options = {"impl": "composed"} if composed else {}
    net = make(fn, activation="gelu", **options)
    assert pickle.loads(pickle.dumps(net)) == net
    back = fn.from_module(fn.to_module(net, *net.init(0)))[0]
    assert back == net
    assert net != make(fn, activation="relu", **options)


def test_the_composed_form_has_second_derivatives_by_autograd():
    _, fused, params = pair(encoder_layer)
    composed = encoder_layer(fn, impl="composed")
    x = inputs(encoder, False)[0].requires_grad_()
    y = composed(params, x)
    torch.testing.assert_close(y, fused(params, x))
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    assert torch.autograd.grad(grad.sum(), x)[0].isfinite().all()


def change_rate(module):
    module.layers[1].dropout1.p = 0.9


def change_part(module):
    module.layers[0].linear2 = nn.Sequential(nn.Linear(HIDDEN, 2), nn.Linear(2, SIZE))


def change_count(module):
    module.layers.append(copy.deepcopy(module.layers[0]))


def change_activation(module):
    module.layers[1].activation = F.silu


def change_norm(module):
    module.norm = nn.Identity()


@parametrize(change=[change_rate, change_part, change_count, change_activation, change_norm])
def test_a_module_changed_after_building_is_still_native_and_exact(change):
    torch.manual_seed(0)
    module = encoder(nn)
    change(module)
    net, params, _ = fn.from_module(module)
    assert not [path for path, child in net.named_nets() if isinstance(child, fn.Wrapped)]
    assert repr(net) == repr(module)
    fn.tree.map(lambda leaf: leaf.requires_grad_(), params)
    (x,) = inputs(encoder, False)
    for train in (False, True):
        torch.manual_seed(5)
        expected = module.train(train)(x)
        assert_identical(net.apply(params, {}, x, train=train, rng=5)[0], expected)
    module_back = fn.to_module(net, params)
    assert repr(module_back) == repr(module)
    assert_identical(dict(module_back.state_dict()), dict(module.state_dict()))
    assert fn.from_module(module_back)[0] == net


def test_a_foreign_part_stays_foreign_in_a_native_layer():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module = encoder_layer(nn)
    module.linear1 = Doubled(SIZE, HIDDEN)
    net, params, _ = fn.from_module(module)
    assert [path for path, child in net.named_nets() if isinstance(child, fn.Wrapped)] == ["linear1"]
    (x,) = inputs(encoder, False)
    torch.testing.assert_close(net(params, x), module.eval()(x))


def test_a_layer_of_another_kind_is_a_net_too():
    @fn.compose(self_attn=fn.MultiheadAttention(SIZE, HEADS), fc=fn.Linear(SIZE, SIZE))
    def layer(p, src, src_mask=None, is_causal=False, src_key_padding_mask=None):
        return src + p.fc(p.self_attn(src, src, src, src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal)[0])

    net = fn.TransformerEncoder(layer, 2)
    params, _ = net.init(0)
    (x,) = inputs(encoder, False)
    module = fn.to_module(net, params)
    torch.testing.assert_close(net(params, x, mask=LATER), module.eval()(x, mask=LATER))
    assert fn.from_module(module)[0] == net


def test_layers_of_an_emptied_stack_stay_foreign():
    module = encoder(nn)
    del module.layers[:]
    assert isinstance(fn.from_module(module)[0], fn.Wrapped)


# --- errors ---


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fn.TransformerEncoderLayer(7, 2), AssertionError, "divisible"),
        (lambda: fn.TransformerEncoderLayer(8, 2, -1), ValueError, "dim_feedforward is a size, got -1"),
        (lambda: fn.TransformerEncoderLayer(8, 2, 4, 2.0), ValueError, "probability"),
        (lambda: fn.TransformerEncoderLayer(8, 2, activation="tanh"), RuntimeError, "relu/gelu"),
        (lambda: fn.TransformerEncoder(encoder_layer(fn), 0), ValueError, "at least one layer, got num_layers=0"),
        (lambda: fn.TransformerEncoder(encoder_layer(nn), 2), TypeError, "'encoder_layer' is an nn.Module"),
        (lambda: fn.TransformerDecoder(None, 2), TypeError, "decoder_layer is a net, got None"),
        (lambda: fn.TransformerEncoder(encoder_layer(fn), 2, nn.LayerNorm(8)), TypeError, "'norm' is an nn.Module"),
        (lambda: fn.TransformerEncoder(fn.Linear(8, 8), 2), ValueError, "has no self_attn.batch_first"),
        (lambda: fn.Transformer(8, 2, 0), ValueError, "at least one layer"),
        (lambda: fn.Transformer(8, 2, custom_encoder=nn.Linear(8, 8)), TypeError, "'custom_encoder' is an nn.Module"),
    ],
    ids=lambda value: "",
)
def test_bad_arguments_are_refused_at_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_sources_and_targets_that_do_not_fit_are_refused():
    module, net, params = pair(transformer)
    src, tgt = inputs(transformer, False)
    for tensors, message in (((src[:, :1], tgt), "batches of one size"), ((src[..., :4], tgt), "d_model=8")):
        with pytest.raises(fn.ShapeError, match=rf"Transformer: expected src \(S, N, 8\).*(?i:{message})"):
            net(params, *tensors)
        with pytest.raises(RuntimeError):
            module(*tensors)


def test_an_error_inside_names_the_layer_and_its_path():
    net = encoder(fn)
    params, _ = net.init(0)
    with pytest.raises(fn.ShapeError, match=r"MultiheadAttention at 'layers.0.self_attn': expected .* \(L, N, 8\)"):
        net(params, torch.ones(S, BATCH, SIZE + 1))


def test_no_warning_about_fast_paths_is_given():
    net = fn.TransformerEncoder(fn.TransformerEncoderLayer(SIZE, 1), 1)  # nn.TransformerEncoder warns of this
    assert "TransformerEncoder" in repr(net)
    module = fn.to_module(net, *net.init(0))
    assert module.enable_nested_tensor and not module.use_nested_tensor
