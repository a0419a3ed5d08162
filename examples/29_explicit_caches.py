"""Explicit caches: decoding as a pure function.

A model that writes text keeps the keys and values of what it read. In an object that every call changes, a text cannot
be gone on from twice; as an argument and a result it can, and also be compiled, mapped over and differentiated. Three
times the same recipe: a body of your own, GPT-2 of ``fn.models``, and a model of the transformers library.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

import funcnet as fn

TEXT = "the cat sat on the mat. the dog sat on the log. the cat saw the dog. the dog saw the cat. "
LETTERS = sorted(set(TEXT))
WIDTH = 32


def encode(text):
    return torch.tensor([[LETTERS.index(letter) for letter in text]])


def decode(tokens):
    return "".join(LETTERS[token] for token in tokens.flatten())


@fn.compose(
    embed=fn.Embedding(len(LETTERS), WIDTH),
    position=fn.Embedding(64, WIDTH),
    qkv=fn.Linear(WIDTH, 3 * WIDTH),
    mlp=fn.Sequential(fn.Linear(WIDTH, 4 * WIDTH), fn.GELU(), fn.Linear(4 * WIDTH, WIDTH)),
    head=fn.Linear(WIDTH, len(LETTERS)),
)
def writer(p, tokens, cache):
    past, length = cache["keys"].shape[1], tokens.shape[1]
    x = p.embed(tokens) + p.position(torch.arange(past, past + length))
    q, keys, values = p.qkv(x).chunk(3, -1)
    cache = {"keys": torch.cat([cache["keys"], keys], 1), "values": torch.cat([cache["values"], values], 1)}
    visible = torch.ones(length, past + length, dtype=torch.bool).tril(past)
    x = x + F.scaled_dot_product_attention(q, cache["keys"], cache["values"], visible)
    return p.head(x + p.mlp(x)), cache


def train(logits_of, params, steps, lr):
    windows = encode(TEXT * 2)[0].unfold(0, 32, 4)  # (37, 32): overlapping pieces of the text

    def loss(params):
        return F.cross_entropy(logits_of(params, windows)[:, :-1].flatten(0, 1), windows[:, 1:].flatten())

    optimizer = fn.optim.Adam(lr=lr)
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.step(params, fn.value_and_grad(loss)(params)[1], state)
    return params


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two

    # Stateful: each call of a module changes the cache, so asking twice is not asking once.
    config = GPT2Config(n_layer=2, n_head=2, n_embd=WIDTH, vocab_size=len(LETTERS), n_positions=64)
    torch.manual_seed(0)
    module = GPT2LMHeadModel(config).eval()
    assert isinstance(module, nn.Module)
    text, cache = encode("the dog s"), DynamicCache(config=config)
    lengths = [module(text, past_key_values=cache).past_key_values.get_seq_length() for _ in range(2)]
    print("nn: two calls with one cache leave it at", *lengths)

    # Stateless: what came before goes in, and comes out with the new tokens behind it. First a body of your own.
    def empty(count):
        return {"keys": torch.zeros(count, 0, WIDTH), "values": torch.zeros(count, 0, WIDTH)}

    params = train(lambda params, ids: writer(params, ids, empty(len(ids)))[0], writer.init(0)[0], 200, 0.01)
    _, cache = writer(params, text, empty(1))
    in_two_pieces, _ = writer(params, encode("a"), cache)
    torch.testing.assert_close(in_two_pieces[:, -1], writer(params, encode("the dog sa"), empty(1))[0][:, -1])

    # The cache did not change, so one beginning has many ends.
    for letters in ("at", "aw"):
        end, _ = fn.models.generate(writer, params, encode(letters), 16, cache=cache)
        print(f"own body: {decode(text)}|{decode(end)}")

    # And it is an argument like any other: which letters of the past decide what comes next?
    slopes = fn.grad(lambda cache: writer(params, encode("a"), cache)[0].max())(cache)
    pull = slopes["values"].norm(dim=-1)[0].tolist()
    print("pulled by", *[f"{letter}:{value:.1f}" for letter, value in zip(decode(text), pull, strict=True)])

    # GPT-2: caches that grow, or of fixed size, for which one compiled step serves all lengths.
    net = fn.models.GPT2(len(LETTERS), 64, WIDTH, 2, 2, embedding_dropout=0.0)
    params = train(net, net.init(0)[0], 80, 0.01)
    prompts = torch.cat([encode("the dog "), encode("  cat sa")])  # what is shorter has padding on the left
    padding = torch.tensor([[1] * 8, [0] * 2 + [1] * 6])
    graphs = []
    step = torch.compile(net, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    written = fn.models.generate(net, params, prompts, 30, attention_mask=padding)
    assert torch.equal(fn.models.generate(net, params, prompts, 30, attention_mask=padding, step=step), written)
    print(f"\nGPT-2: {decode(written[0])}\n       {decode(written[1, 2:])}   ({len(graphs)} graph for 29 steps)")
    keys = fn.random.split(fn.random.key(0), 3)
    texts = torch.vmap(lambda key: fn.models.generate(net, params, prompts[:1], 30, rng=key, temperature=1.5))(keys)
    print("three keys, one call:", *[decode(text) for text in texts], sep="\n       ")

    # The module from above: its own class of cache goes in and comes out, and what went in stays as it was.
    net, params, buffers = fn.from_module(module)

    def step_of_module(params, tokens, cache):
        output, _ = net.apply(params, buffers, tokens, past_key_values=cache)
        return output.logits, output.past_key_values

    cache = DynamicCache(config=config)
    lengths = [step_of_module(params, text, cache)[1].get_seq_length() for _ in range(2)]
    print("\nfn: two calls with one cache return", *lengths, "and leave it at", cache.get_seq_length())
    written, _ = fn.models.generate(step_of_module, params, text, 20, cache=cache)
    options = {"attention_mask": torch.ones_like(text), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(written, module.generate(text, max_new_tokens=20, **options))


if __name__ == "__main__":
    main()
