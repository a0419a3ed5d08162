"""Texts continued: the tokens of transformers, draws by rng, transforms, and what does not fit."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn
from funcnet.checkpoint import convert, load
from tests.helpers import global_generator_untouched
from tests.models.published import PUBLISHED

NEW_TOKENS = 20
TOKENS = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
DECODERS = [
    row for row in PUBLISHED if row.name in ("GPT-2", "GPT-2, untied", "Llama, grouped", "Llama, one group", "Llama 3")
]
PUBLISHED_DECODER = pytest.mark.parametrize("published", DECODERS, ids=[row.name for row in DECODERS])
SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
NETS = {
    "gpt2": fn.models.GPT2(**SMALL, max_position_embeddings=64),
    "llama": fn.models.Llama(**SMALL, num_key_value_heads=2, intermediate_size=12, stacked=True),
}
NET = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each model once: the module of transformers, the net and its params."""
    pytest.importorskip("transformers")
    made = {}

    def make_once(published, **form):
        key = (published.name, *form.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("published")
            module = published.module()
            module.save_pretrained(folder)
            rules = fn.models.rules(folder, **form, source=load(folder))
            convert(folder, folder / "plain.safetensors", rules)
            net = fn.models.from_config(folder, **form)
            made[key] = (module, net, fn.from_state_dict(net, load(folder / "plain.safetensors"))[0])
        return made[key]

    return make_once


def continue_by_transformers(module, tokens, mask=None, **options):
    defaults = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "top_k": 0}
    mask = torch.ones_like(tokens) if mask is None else mask
    return module.generate(tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, **{**defaults, **options})


def make_params(net):
    params, _ = net.init(0)
    return fn.tree.map(lambda noise: noise * 0.4, fn.random.normal_like(fn.random.key(0), params))


@PUBLISHED_DECODER
@pytest.mark.parametrize("form", [{}, {"fused_qkv": False, "stacked": True}], ids=["fused", "split-stacked"])
@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_the_likeliest_tokens_are_those_of_transformers(published, form, mask, models):
    module, net, params = models(published, **form)
    expected = continue_by_transformers(module, TOKENS, mask)
    assert torch.equal(fn.models.generate(net, params, TOKENS, NEW_TOKENS, attention_mask=mask), expected)
    assert torch.equal(fn.models.generate(net, params, TOKENS, NEW_TOKENS, attention_mask=mask, step=net), expected)


@PUBLISHED_DECODER
def test_texts_end_as_those_of_transformers(published, models):
    module, net, params = models(published)
    endless = continue_by_transformers(module, TOKENS, PADDED)
    for columns in ((9, 13, 11), (9, -1, -1)):  # all texts end before the last step, and one does
        stops = [int(endless[row, column]) for row, column in enumerate(columns)]
        expected = continue_by_transformers(module, TOKENS, PADDED, eos_token_id=stops, pad_token_id=7)
        options = {"attention_mask": PADDED, "stop_tokens": stops}
        assert torch.equal(fn.models.generate(net, params, TOKENS, NEW_TOKENS, pad_token=7, **options), expected)
        by_default = continue_by_transformers(module, TOKENS, PADDED, eos_token_id=stops, pad_token_id=stops[0])
        assert torch.equal(fn.models.generate(net, params, TOKENS, NEW_TOKENS, **options), by_default)


SAMPLING = [{}, {"temperature": 0.7, "top_k": 10}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 30, "top_p": 0.6}]


@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_draws_of_a_seed_are_those_of_transformers(options, models):
    module, net, params = models(DECODERS[2])
    torch.manual_seed(3)
    expected = continue_by_transformers(module, TOKENS, PADDED, **{"do_sample": True, "top_k": 0, **options})
    with global_generator_untouched():
        written = fn.models.generate(net, params, TOKENS, NEW_TOKENS, attention_mask=PADDED, rng=3, **options)
    assert torch.equal(written, expected)


@pytest.mark.parametrize("options", SAMPLING[1:], ids=str)
def test_filters_have_the_bits_of_transformers(options):
    transformers = pytest.importorskip("transformers")
    processors = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
    }
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 20.0):
        logits = scale * torch.randn(5, 60, generator=generator)
        logits[:, 7] = logits[:, 3]  # equal ones stay or go together
        expected = logits
        for name, number in options.items():
            expected = processors[name](number)(None, expected)
        assert torch.equal(fn.models.filter_logits(logits, **options), expected)
        assert torch.equal(fn.models.filter_logits(logits[0], **options), expected[0])


def test_draws_of_a_key_have_the_distribution():
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])

    def net(params, tokens, cache):
        return logits.expand(1, 1, 4), cache

    def draw(key):
        return fn.models.generate(net, {}, torch.zeros(1, 1, dtype=torch.int64), 1, cache={}, rng=key, top_k=3)[0][0, 1]

    drawn = torch.vmap(draw)(fn.random.split(fn.random.key(0), 20_000))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, fn.models.filter_logits(logits, top_k=3).softmax(0), atol=0.01, rtol=0.0)


@NET
def test_a_key_decides_the_draws(net):
    params = make_params(net)
    with global_generator_untouched():
        texts = [fn.models.generate(net, params, TOKENS, 8, rng=fn.random.key(seed)) for seed in (0, 0, 1)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    keys = fn.random.split(fn.random.key(0), 3)
    mapped = torch.vmap(lambda key: fn.models.generate(net, params, TOKENS, 8, rng=key))(keys)
    assert torch.equal(mapped[1], fn.models.generate(net, params, TOKENS, 8, rng=keys[1]))


@NET
@pytest.mark.parametrize("step", [None, "net"], ids=["growing", "static"])
def test_an_ensemble_writes_what_its_members_write(net, step):
    step = net if step else None
    params = make_params(net)
    members = fn.tree.stack([params, fn.tree.scale(params, 1.2)])

    def write(params):
        return fn.models.generate(net, params, TOKENS, 10, attention_mask=PADDED, step=step, stop_tokens=2, pad_token=0)

    written = torch.vmap(write)(members)
    assert written.shape == (2, 3, 17)
    for index in range(2):
        alone = write(fn.tree.map(lambda leaf, index=index: leaf[index], members))
        assert torch.equal(written[index][:, : alone.shape[1]], alone)
        assert not written[index][:, alone.shape[1] :].any()


def test_compiled_steps_are_compiled_once():
    net = NETS["llama"]
    params = make_params(net)
    torch.compiler.reset()
    graphs = []
    step = torch.compile(net, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for tokens, mask in ((TOKENS, PADDED), (TOKENS[:, :5], PADDED[:, 2:])):
            cache = fn.models.static_cache(net, params, 3, 24)
            written, _ = fn.models.generate(net, params, tokens, 9, attention_mask=mask, cache=cache, step=step)
            assert torch.equal(written, fn.models.generate(net, params, tokens, 9, attention_mask=mask))
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "whole loop"),
        pytest.param("llama", "whole loop", marks=pytest.mark.slow),
        pytest.param("gpt2", "growing cache", marks=pytest.mark.slow),
        pytest.param("llama", "growing cache", marks=pytest.mark.slow),
    ],
)
def test_other_things_to_compile(name, kind):
    net = NETS[name]
    params = make_params(net)
    torch.compiler.reset()
    graphs = []
    options = {"fullgraph": True, "backend": lambda graph, _: graphs.append(graph) or graph.forward}
    if kind == "whole loop":

        def write(params, key):
            return fn.models.generate(net, params, TOKENS, 3, rng=key, top_k=5, stop_tokens=2)

        key = fn.random.key(1)
        assert torch.equal(torch.compile(write, **options)(params, key), write(params, key))
        assert len(graphs) == 1
    else:
        cache, step = fn.models.growing_cache(net, params, 3), torch.compile(net, **options)
        written, _ = fn.models.generate(net, params, TOKENS, 9, cache=cache, step=step)
        assert torch.equal(written, fn.models.generate(net, params, TOKENS, 9))
        assert len(graphs) == 2  # one for the first length, and one for all


@pytest.mark.parametrize(
    ("net", "selector"),
    [(NETS["gpt2"], "**.mlp.*"), (fn.models.Llama(**SMALL, intermediate_size=12, fused_qkv=False), "**.attn.q")],
    ids=NETS,
)
def test_adapted_nets_write_too(net, selector):
    params = make_params(net)
    adapted, adapters = fn.lora(net, selector, rank=2, rng=fn.random.key(0))
    tree = fn.tree.combine(params, fn.tree.map(lambda leaf: leaf + 0.1, adapters))
    expected = TOKENS
    for _ in range(8):
        expected = torch.cat([expected, adapted(tree, expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(fn.models.generate(adapted, tree, TOKENS, 8), expected)


@NET
def test_a_text_goes_on_from_its_cache(net):
    params = make_params(net)
    expected = fn.models.generate(net, params, TOKENS, 9)
    for cache in (fn.models.growing_cache(net, params, 3), fn.models.static_cache(net, params, 3, 16)):
        first, next_cache = fn.models.generate(net, params, TOKENS, 4, cache=cache)
        rest, _ = fn.models.generate(net, params, first[:, -1:], 5, cache=next_cache)
        assert torch.equal(torch.cat([first[:, :-1], rest], 1), expected)


def test_a_body_of_ones_own_is_continued():
    @fn.compose(embed=fn.Embedding(11, 4), head=fn.Linear(4, 11))
    def sums(p, tokens, cache):
        total = cache["total"][:, None] + p.embed(tokens).cumsum(1)
        return p.head(total), {"total": total[:, -1]}

    params, _ = sums.init(0)
    tokens = torch.tensor([[1, 2], [3, 4]])
    written, cache = fn.models.generate(sums, params, tokens, 5, cache={"total": torch.zeros(2, 4)})
    for _ in range(5):
        logits, _ = sums(params, tokens, {"total": torch.zeros(2, 4)})
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, tokens)
    torch.testing.assert_close(cache["total"], params["embed"]["weight"][tokens[:, :-1]].sum(1))


def test_what_cannot_be_continued_is_refused():
    net = NETS["gpt2"]
    params = make_params(net)
    with pytest.raises(
        ValueError, match=r"tokens is \(N, L\) of ints, got \(7,\) torch.int64; one text is tokens.None"
    ):
        fn.models.generate(net, params, TOKENS[0], 5)
    with pytest.raises(ValueError, match=r"max_new_tokens is 1 or more, got 0"):
        fn.models.generate(net, params, TOKENS, 0)
    with pytest.raises(ValueError, match=r"attention_mask has the shape of tokens, \(3, 7\), got \(3, 3\)"):
        fn.models.generate(net, params, TOKENS, 5, attention_mask=PADDED[:, :3])
    with pytest.raises(ValueError, match=r"padding stands on the left"):
        fn.models.generate(net, params, TOKENS, 5, attention_mask=PADDED.flip(1))
    with pytest.raises(ValueError, match="has no token"):
        fn.models.generate(net, params, TOKENS[:, :0], 5)
    with pytest.raises(ValueError, match="7 tokens and 59 more need 65 places, and the model has 64 positions"):
        fn.models.generate(net, params, TOKENS, 59)
    cache = fn.models.static_cache(net, params, 3, 16)
    _, cache = fn.models.generate(net, params, TOKENS, 3, cache=cache)
    with pytest.raises(ValueError, match="9 tokens in the cache, 7 tokens and 2 more need 17 places, and"):
        fn.models.generate(net, params, TOKENS, 2, cache=cache)
    assert fn.models.generate(net, params, TOKENS[:1], 58).shape == (1, 65)
    with pytest.raises(ValueError, match="temperature, top_p says how to draw, and there is no rng"):
        fn.models.generate(net, params, TOKENS, 5, temperature=0.5, top_p=0.9)
    with pytest.raises(ValueError, match=r"temperature is above 0, got 0.*top_k is an int .*got 0; top_p is in"):
        fn.models.generate(net, params, TOKENS, 5, rng=0, temperature=0, top_k=0, top_p=0.0)
    with pytest.raises(TypeError, match=r"generate without a cache is for the decoders .*, got function"):
        fn.models.generate(lambda params, tokens, cache: None, params, TOKENS, 5)
    headless = fn.models.GPT2(**SMALL, max_position_embeddings=64, head=False)
    with pytest.raises(ValueError, match="has no head"):
        fn.models.generate(headless, headless.init(0)[0], TOKENS, 5)
