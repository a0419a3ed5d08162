"""Caches as arguments and results: the same function in pieces, nothing written to, and what does not fit."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
NETS = {
    "gpt2": fn.models.GPT2(**SMALL, max_position_embeddings=32),
    "gpt2, split, stacked": fn.models.GPT2(**SMALL, max_position_embeddings=32, fused_qkv=False, stacked=True),
    "llama": fn.models.Llama(**SMALL, num_key_value_heads=2, intermediate_size=12),
    "llama, split, stacked": fn.models.Llama(
        **SMALL, num_key_value_heads=1, intermediate_size=12, fused_qkv=False, stacked=True
    ),
}
NET = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
KIND = pytest.mark.parametrize("slots", [None, 9], ids=["growing", "static"])
IDS = torch.tensor([[5, 9, 1, 30, 7, 2], [8, 8, 40, 3, 59, 2]])
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def make_cache(net, params, slots, batch_size=2, **options):
    if slots is None:
        return fn.models.growing_cache(net, params, batch_size, **options)
    return fn.models.static_cache(net, params, batch_size, slots, **options)


def make_params(net):
    params, _ = net.init(0)
    return fn.tree.map(lambda noise: noise * 0.3, fn.random.normal_like(fn.random.key(0), params))


def run_in_pieces(net, params, cache, lengths, mask=None):
    pieces, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        logits, cache = net(params, IDS[:, part], None if mask is None else mask[:, part], cache=cache)
        pieces.append(logits)
        start += length
    return torch.cat(pieces, 1), cache


@NET
@KIND
@pytest.mark.parametrize("lengths", [(6,), (4, 1, 1), (2, 1, 3), (1, 1, 1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_a_text_in_pieces_is_the_text(net, slots, lengths, mask):
    params = make_params(net)
    positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
    expected = net(params, IDS, mask, position_ids=positions)
    logits, cache = run_in_pieces(net, params, make_cache(net, params, slots), lengths, mask)
    visible = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(logits[visible], expected[visible])
    assert ("mask" in cache) == (mask is not None)
    assert cache["layers"]["1"]["keys"].shape[2] == (slots or 6)


@NET
@KIND
def test_padding_on_the_left_changes_nothing(net, slots):
    params = make_params(net)
    alone, _ = net(params, IDS[:1, 2:], cache=make_cache(net, params, slots, 1))
    padded, _ = net(params, IDS[:1], PADDED[:1], cache=make_cache(net, params, slots, 1))
    torch.testing.assert_close(padded[:, 2:], alone)


@NET
@KIND
def test_no_call_writes_to_its_cache(net, slots):
    params = make_params(net)
    _, cache = net(params, IDS, PADDED, cache=make_cache(net, params, slots))
    copy = fn.tree.map(torch.clone, cache)
    first = net(params, IDS[:, :1], cache=cache)
    assert_identical(cache, copy)
    assert_identical(net(params, IDS[:, :1], cache=cache), first)
    assert fn.tree.paths(first[1]) == fn.tree.paths(cache)


@NET
def test_a_mask_that_comes_later_hides_nothing_of_what_was_before(net):
    params = make_params(net)
    for slots in (None, 9):
        mask = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
        expected, expected_cache = run_in_pieces(net, params, make_cache(net, params, slots), (3, 3), mask)
        cache = make_cache(net, params, slots)
        _, cache = net(params, IDS[:, :3], cache=cache)
        logits, cache = net(params, IDS[:, 3:], mask[:, 3:], cache=cache)
        torch.testing.assert_close(logits, expected[:, 3:])
        assert torch.equal(cache["mask"], expected_cache["mask"])


@NET
@KIND
def test_a_cache_is_differentiated_through(net, slots):
    params = make_params(net)

    def loss(params):
        cache = make_cache(net, params, slots)
        return run_in_pieces(net, params, cache, (4, 1, 1))[0].square().mean()

    def loss_at_once(params):
        return net(params, IDS).square().mean()

    expected = fn.tree.flatten(fn.grad(loss_at_once)(params))
    for gradient in (fn.grad(loss)(params), torch.func.grad(loss)(params)):
        for path, value in fn.tree.flatten(gradient).items():
            torch.testing.assert_close(value, expected[path], msg=path)


@NET
@KIND
def test_an_ensemble_has_a_cache_for_each_member(net, slots):
    params = make_params(net)
    members = fn.tree.stack([params, fn.tree.scale(params, 1.1)])

    def run(params):
        return run_in_pieces(net, params, make_cache(net, params, slots), (4, 1, 1), PADDED)

    logits, caches = torch.vmap(run)(members)
    visible = PADDED.bool()
    for index in range(2):
        expected, cache = run(fn.tree.map(lambda leaf, index=index: leaf[index], members))
        torch.testing.assert_close(logits[index][visible], expected[visible])
        torch.testing.assert_close(caches["layers"]["1"]["values"][index], cache["layers"]["1"]["values"])


@pytest.mark.parametrize("name", ["gpt2", "llama, split, stacked"])
def test_one_compiled_step_serves_all_lengths(name):
    net = NETS[name]
    params = fn.models.decoding_params(net, make_params(net))
    torch.compiler.reset()
    graphs = []
    step = torch.compile(net, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (2, 4):
            cache = fn.models.static_cache(net, params, 2, 12)
            _, cache = net(params, IDS[:, :length], PADDED[:, :length], cache=cache)
            for _ in range(4):
                expected = net(params, IDS[:, :1], cache=cache)
                logits, cache = step(params, IDS[:, :1], cache=cache)
                assert_identical((logits, cache), expected)
    assert len(graphs) == 1


@NET
@KIND
def test_modules_take_caches_too(net, slots):
    params = make_params(net)
    module = fn.to_module(net, params, {}).eval()
    cache = make_cache(net, params, slots)
    assert_identical(module(IDS, cache=cache), net(params, IDS, cache=cache))


def test_the_last_logits_alone():
    for net in NETS.values():
        params = make_params(net)
        torch.testing.assert_close(net(params, IDS, logits_to_keep=2), net(params, IDS)[:, -2:])


def test_caches_are_of_the_dtype_of_the_params_or_another():
    net = NETS["llama"]
    params = fn.tree.map(lambda leaf: leaf.bfloat16(), make_params(net))
    for slots in (None, 9):
        logits, cache = net(params, IDS, cache=make_cache(net, params, slots))
        assert logits.dtype == cache["layers"]["0"]["keys"].dtype == torch.bfloat16
        with pytest.raises(fn.ShapeError, match=r"holds torch.float32 .* make the cache with dtype=torch.bfloat16"):
            net(params, IDS, cache=make_cache(net, params, slots, dtype=torch.float32))


def test_decoding_params_are_the_same_numbers():
    for net in NETS.values():
        params = make_params(net)
        laid_out = fn.models.decoding_params(net, params)
        assert_identical(laid_out, params)
        assert_identical(net(laid_out, IDS), net(params, IDS))
    weight = fn.models.decoding_params(NETS["gpt2"], make_params(NETS["gpt2"]))["layers"]["0"]["attn"]["qkv"]["weight"]
    assert weight.t().is_contiguous()


def without(tree, path):
    flat = fn.tree.flatten(tree)
    return fn.tree.unflatten({key: value for key, value in flat.items() if not key.startswith(path)})


def test_caches_that_do_not_fit_are_refused():
    net = NETS["llama"]
    params = make_params(net)
    cache = fn.models.static_cache(net, params, 2, 8)
    _, cache = net(params, IDS, PADDED, cache=cache)
    with pytest.raises(fn.ShapeError, match=r"full: it has 8 slots, 6 are filled, and 3 more tokens.*growing_cache"):
        net(params, IDS[:, :3], cache=cache)
    with pytest.raises(fn.ShapeError, match=r"(?s)layers.0.keys: expected \(1, 2, 8, 4\).*layers.1.*mask: expected"):
        net(params, IDS[:1, :1], cache=cache)
    with pytest.raises(fn.ShapeError, match=r"attention_mask: expected \(2, 1\), for the new tokens alone"):
        net(params, IDS[:, :1], torch.ones(2, 7), cache=cache)
    with pytest.raises(fn.ShapeError, match=r"2 layers, and the cache has \['0'\]"):
        net(params, IDS[:, :1], cache=without(cache, "layers.1"))
    with pytest.raises(fn.ShapeError, match=r"layers.1.keys: expected .*, got nothing"):
        net(params, IDS[:, :1], cache=without(cache, "layers.1.keys"))
    with pytest.raises(TypeError, match=r"attention_mask is a tensor \(N, L\), got dict; a cache is passed by"):
        net(params, IDS[:, :1], cache)
    with pytest.raises(fn.ShapeError, match=r"with 'layers', got tuple"):
        net(params, IDS[:, :1], cache=())
    with pytest.raises(fn.ShapeError, match=r"cache a dict with 'layers', 'length', 'mask'"):
        net(params, IDS[:, :1], cache={**cache, "layers": {}})


def test_nets_that_decode_nothing_are_refused():
    bert = fn.models.Bert(**SMALL, max_position_embeddings=16, intermediate_size=12)
    params, _ = bert.init(0)
    for use in (fn.models.growing_cache, fn.models.static_cache, fn.models.decoding_params):
        arguments = {fn.models.growing_cache: (2,), fn.models.static_cache: (2, 8)}.get(use, ())
        with pytest.raises(TypeError, match=r"for the decoders of funcnet.models \(GPT2, Llama\), got Bert"):
            use(bert, params, *arguments)
