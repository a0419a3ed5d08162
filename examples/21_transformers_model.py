"""A transformers model as a pure function.

GPT-2 from the transformers library, small and with random weights, so nothing is downloaded; a pretrained one is
converted by the same line. Its forward runs as it is: the output is the library's own object, tied weights are one
entry, and everything of this course works on it. And back: the same class again, ready to generate or to be saved.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import funcnet as fn

TEXT = "the cat sat on the mat. the dog sat on the log. the cat saw the dog. the dog saw the cat. "
LETTERS = sorted(set(TEXT))


def encode(text):
    return torch.tensor([LETTERS.index(letter) for letter in text])


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=len(LETTERS), n_positions=64, bos_token_id=0, eos_token_id=1
    )
    torch.manual_seed(0)
    module = GPT2LMHeadModel(config).eval()
    windows = encode(TEXT * 3).unfold(0, 32, 8)  # (29, 32): overlapping pieces of the text

    net, params, buffers = fn.from_module(module)
    assert isinstance(module, nn.Module)
    output, _ = net.apply(params, buffers, windows, use_cache=False)
    assert torch.equal(output.logits, module(windows, use_cache=False).logits)
    count = sum(tensor.numel() for tensor in fn.tree.flatten(params).values())
    print(f"{type(output).__name__}, {count:,} weights in {len(fn.tree.paths(params))} tensors, tied: {net.aliases}")

    # Stateful: a backward pass for each text, .grad emptied each time.
    rows = []
    for ids in windows[:8]:
        module.zero_grad()
        F.cross_entropy(module(ids[None], use_cache=False).logits[0, :-1], ids[1:]).backward()
        rows.append({name: weight.grad.clone() for name, weight in module.named_parameters()})

    # Stateless: one call. (Equal but for rounding: kernels for many texts add in another order.)
    def loss(params, ids):
        output, _ = net.apply(params, buffers, ids[None], use_cache=False)
        return F.cross_entropy(output.logits[0, :-1], ids[1:])

    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, windows[:8])
    for path, grads in fn.tree.flatten(per_sample).items():
        torch.testing.assert_close(grads, torch.stack([row[path] for row in rows]), rtol=1e-4, atol=1e-5)

    # Which part of the model does a piece of text pull at?
    print("\npull at         " + "   ".join(f"text {index}" for index in range(4)))
    for name in ("transformer.wte", "transformer.wpe", "transformer.h.0.attn", "transformer.h.0.mlp"):
        part = fn.tree.flatten(fn.tree.get(per_sample, name)).values()
        norms = sum(grads.flatten(1).square().sum(1) for grads in part).sqrt()
        print(f"{name.removeprefix('transformer.'):<14}" + "   ".join(f"{value:6.2f}" for value in norms[:4].tolist()))

    # Train it with dropout: a key for each step, and the state of the optimizer beside the params.
    def mean_loss(params, key):
        output, _ = net.apply(params, buffers, windows, train=True, rng=key, use_cache=False)
        return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())

    sgd = fn.optim.SGD(lr=0.1, momentum=0.9)
    state = sgd.init(params)
    print("\nstep   loss")
    for step in range(121):
        value, grads = fn.value_and_grad(mean_loss)(params, fn.random.fold_in(fn.random.key(0), step))
        if step % 30 == 0:
            print(f"{step:>4}   {value:.3f} {'*' * int(15 * value)}")
        params, state = sgd.step(params, grads, state)

    # And back: GPT2LMHeadModel as the library made it, with the learned weights, tied again.
    learned = fn.to_module(net, params, buffers).eval()
    assert type(learned) is GPT2LMHeadModel
    assert learned.lm_head.weight is learned.transformer.wte.weight
    assert list(learned.state_dict()) == list(module.state_dict())
    assert torch.equal(
        learned(windows, use_cache=False).logits, net.apply(params, buffers, windows, use_cache=False)[0].logits
    )
    start = encode("the dog ")[None]
    written = learned.generate(start, max_new_tokens=40, do_sample=False, pad_token_id=0)
    print("\nit writes:", "".join(LETTERS[index] for index in written[0].tolist()))


if __name__ == "__main__":
    main()
