"""Objects that a foreign forward writes to, such as caches: an input stays as it was, a written copy is returned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical


class Layer:
    """Keys of one layer, written to in place of attributes, or into a tensor."""

    def __init__(self, slots=None):
        self.keys = None if slots is None else torch.zeros(2, slots)
        self.length = 0

    def update(self, keys):
        if self.length == 0 and self.keys is None:
            self.keys = keys
        elif self.keys.shape[1] == self.length:
            self.keys = torch.cat([self.keys, keys], 1)
        else:
            self.keys[:, self.length : self.length + keys.shape[1]] = keys
        self.length += keys.shape[1]
        return self.keys


class Cache:
    def __init__(self, slots=None):
        self.layers = [Layer(slots), Layer(slots)]
        self.first = self.layers[0]
        self.on_update = None


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9)

    def forward(self, tokens, cache):
        x = self.embed(tokens)
        for layer in cache.layers:
            x = x + layer.update(x.sum(-1)).sum(1)[:, None, None]
        return self.head(x), cache


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
SLOTS = pytest.mark.parametrize("slots", [None, 5], ids=["growing", "static"])


def parts_of(cache):
    return [(layer.keys, layer.length) for layer in cache.layers]


@SLOTS
def test_a_cache_is_not_written_to(slots):
    module = Decoder()
    net, params, buffers = fn.from_module(module)
    empty = Cache(slots)
    (logits, cache), _ = net.apply(params, buffers, TOKENS, empty)
    assert [layer.length for layer in empty.layers] == [0, 0]
    assert slots is None or not empty.layers[0].keys.any()
    before = [(layer.keys.clone(), layer.length) for layer in cache.layers]
    results = [net.apply(params, buffers, TOKENS[:, :1], cache)[0] for _ in range(2)]
    assert_identical(parts_of(cache), before)
    written = Cache(slots)
    assert_identical(logits, module(TOKENS, written)[0].detach())
    expected = module(TOKENS[:, :1], written)[0].detach()
    for logits, next_cache in results:
        assert_identical(logits, expected)
        assert_identical([keys for keys, _ in parts_of(next_cache)], [keys.detach() for keys, _ in parts_of(written)])


@SLOTS
def test_a_compiled_step_takes_and_returns_a_cache(slots):
    net, params, buffers = fn.from_module(Decoder())
    (_, cache), _ = net.apply(params, buffers, TOKENS, Cache(slots))
    torch.compiler.reset()
    step = torch.compile(
        lambda tokens, cache: net.apply(params, buffers, tokens, cache)[0], fullgraph=True, backend="eager"
    )
    for _ in range(2):
        before = [(layer.keys.clone(), layer.length) for layer in cache.layers]
        expected, expected_cache = net.apply(params, buffers, TOKENS[:, :1], cache)[0]
        logits, next_cache = step(TOKENS[:, :1], cache)
        assert_identical(parts_of(cache), before)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(parts_of(next_cache), parts_of(expected_cache))
        assert next_cache.first is next_cache.layers[0]
        cache = next_cache


def test_a_cache_of_a_container_class_is_refused_while_compiling():
    class ListCache(list):
        pass

    class Appends(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x, cache):
            cache.append(self.fc(x))
            return sum(cache)

    net, params, buffers = fn.from_module(Appends())
    cache = ListCache([torch.ones(2)])
    net.apply(params, buffers, torch.ones(2), cache)
    assert len(cache) == 1
    torch.compiler.reset()
    step = torch.compile(lambda x, cache: net.apply(params, buffers, x, cache)[0], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="an input is a ListCache, which cannot be copied while"):
        step(torch.ones(2), cache)


def test_what_vmap_cannot_write_to_is_explained():
    net, params, buffers = fn.from_module(Decoder())
    members = fn.tree.stack([params, params])
    grown = torch.vmap(lambda params: net.apply(params, buffers, TOKENS, Cache())[0][0])(members)
    torch.testing.assert_close(grown[1], net.apply(params, buffers, TOKENS, Cache())[0][0])
    with pytest.raises(fn.TransformError, match=r"Decoder.*in place, .* one for all examples.*\(a cache that grows by"):
        torch.vmap(lambda params: net.apply(params, buffers, TOKENS, Cache(5))[0][0])(members)


def make_model(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=30, n_positions=64)
        return transformers.GPT2LMHeadModel(config).eval()
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    if name == "mistral":  # whose caches forget what is outside of a window
        config = transformers.MistralConfig(**sizes, intermediate_size=24, vocab_size=30, sliding_window=3)
        return transformers.MistralForCausalLM(config).eval()
    config = transformers.LlamaConfig(**sizes, intermediate_size=24, vocab_size=30)
    return transformers.LlamaForCausalLM(config).eval()


def make_transformers_cache(model, kind):
    transformers = pytest.importorskip("transformers")
    if kind == "DynamicCache":
        return transformers.DynamicCache(config=model.config)
    return transformers.StaticCache(config=model.config, max_cache_len=20)


def make_decoder(model):
    """A function that decodes by a model of transformers, and its params."""
    net, params, buffers = fn.from_module(model)

    def decode(params, tokens, cache):
        output, _ = net.apply(params, buffers, tokens, past_key_values=cache, use_cache=True)
        return output.logits, output.past_key_values

    return decode, params


IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def continue_ids(model):
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(IDS, attention_mask=torch.ones_like(IDS), **options)


@pytest.mark.parametrize("kind", ["DynamicCache", "StaticCache"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_caches_of_transformers_are_values(name, kind):
    model = make_model(name)
    decode, params = make_decoder(model)
    empty = make_transformers_cache(model, kind)
    written, cache = fn.models.generate(decode, params, IDS, 8, cache=empty)
    assert torch.equal(written, continue_ids(model))
    assert (int(empty.get_seq_length()), int(cache.get_seq_length())) == (0, 11)
    keys = cache.layers[0].keys.clone()
    assert_identical(decode(params, IDS[:, :1], cache)[0], decode(params, IDS[:, :1], cache)[0])
    assert_identical(cache.layers[0].keys, keys)


@pytest.mark.parametrize(
    ("name", "kind", "graph_count"),
    [
        ("gpt2", "StaticCache", 1),
        pytest.param("llama", "StaticCache", 1, marks=pytest.mark.slow),
        pytest.param("gpt2", "DynamicCache", 2, marks=pytest.mark.slow),  # for one length, then for any
        pytest.param("llama", "DynamicCache", 2, marks=pytest.mark.slow),
    ],
)
def test_compiled_steps_take_caches_of_transformers(name, kind, graph_count):
    model = make_model(name)
    decode, params = make_decoder(model)
    torch.compiler.reset()
    graphs = []
    step = torch.compile(decode, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    expected = continue_ids(model)
    for _ in range(2):
        cache = make_transformers_cache(model, kind)
        assert torch.equal(fn.models.generate(decode, params, IDS, 8, cache=cache, step=step)[0], expected)
    assert len(graphs) == graph_count


def test_an_ensemble_of_modules_of_transformers_decodes():
    model = make_model("llama")
    decode, params = make_decoder(model)
    empty = make_transformers_cache(model, "DynamicCache")
    members = fn.tree.stack([params, fn.tree.scale(params, 1.2)])
    written = torch.vmap(lambda params: fn.models.generate(decode, params, IDS, 8, cache=empty)[0])(members)
    for index in range(2):
        member = fn.tree.map(lambda leaf, index=index: leaf[index], members)
        assert torch.equal(written[index], fn.models.generate(decode, member, IDS, 8, cache=empty)[0])
