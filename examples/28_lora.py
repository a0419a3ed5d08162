"""LoRA: one model, many small changes.

A big model is tuned by low-rank changes of its weights: a few numbers each, of which one keeps many. Here a small GPT-2
from transformers (random weights, nothing is downloaded) reads a text, and two adapters teach it two others. They are
trees beside the params: trained alone, mapped over, named as the library peft names them, and merged in the end.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import funcnet as fn

BASE = "the cat sat on the mat. the dog sat on the log. the cat saw the dog. the dog saw the cat. "
TEXTS = ["a hen met a fox. a fox met a hen. ", "no owl is up at ten. no elk is up at six. "]
LETTERS = sorted(set(BASE + "".join(TEXTS)))


def windows_of(text):
    letters = torch.tensor([LETTERS.index(letter) for letter in text])
    return letters.repeat(180 // len(text)).unfold(0, 24, 6)


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=len(LETTERS), n_positions=64, bos_token_id=0, eos_token_id=1
    )
    torch.manual_seed(0)
    net, params, buffers = fn.from_module(GPT2LMHeadModel(config))

    def loss(net, params, ids):
        logits = net.apply(params, buffers, ids, use_cache=False)[0].logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def trained(loss_of, tree, steps, lr):
        optimizer = fn.optim.Adam(lr=lr)
        state = optimizer.init(tree)
        for _ in range(steps):
            tree, state = optimizer.step(tree, fn.value_and_grad(loss_of)(tree)[1], state)
        return tree

    params = trained(lambda params: loss(net, params, windows_of(BASE)), params, 40, 0.01)

    # Stateful: another module in the place of each layer, around the old one, whose name thereby changes.
    class LoRA(nn.Module):
        def __init__(self, base, rank, alpha):
            super().__init__()
            self.base_layer = base.requires_grad_(False)
            self.lora_A = nn.Linear(base.nx, rank, bias=False)
            self.lora_B = nn.Linear(rank, base.nf, bias=False)
            self.scaling = alpha / rank

        def forward(self, x):
            return self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scaling

    module = fn.to_module(net, params, buffers).eval().requires_grad_(False)
    for block in module.transformer.h:
        block.attn.c_attn = LoRA(block.attn.c_attn, rank=4, alpha=16)
    print("nn: new keys:", *[key for key in module.state_dict() if "h.0.attn.c_attn" in key], sep="\n  ")

    # Stateless: a new net, and a tree that is combined with the params, which stay as they are, names included.
    adapted, adapters = fn.lora(net, "**.c_attn", rank=4, alpha=16, rng=fn.random.key(0))
    tree = fn.tree.combine(params, adapters)
    print("fn: new keys:", *[path for path in fn.tree.paths(tree) if "h.0.attn.c_attn" in path], sep="\n  ")
    assert fn.tree.paths(fn.tree.partition(tree, "**.lora_*")[0]) == fn.tree.paths(adapters)
    assert set(adapted.frozen) == set(fn.tree.paths(params))  # for to_module; a loss of adapters trains nothing else

    def adapted_loss(adapters, ids):
        return loss(adapted, fn.tree.combine(params, adapters), ids)

    texts = torch.stack([windows_of(text)[:12] for text in TEXTS])  # (2, 12, 24): tasks, windows, letters
    tuned = [trained(lambda adapters, ids=ids: adapted_loss(adapters, ids), adapters, 70, 0.03) for ids in texts]

    # The two ways to write it are one computation: here are the same factors in the module.
    for block, index in zip(module.transformer.h, "01", strict=True):
        factors = fn.tree.get(tuned[0], f"transformer.h.{index}.attn.c_attn")
        block.attn.c_attn.lora_A.load_state_dict(factors["lora_A"])
        block.attn.c_attn.lora_B.load_state_dict(factors["lora_B"])
    tree = fn.tree.combine(params, tuned[0])
    output, _ = adapted.apply(tree, buffers, texts[0], use_cache=False)
    torch.testing.assert_close(output.logits, module(texts[0], use_cache=False).logits)

    # Many adapters of one model: a stack of trees, mapped over. Each task is read by each adapter, in one call.
    everyone = fn.tree.stack([adapters, *tuned])
    losses = torch.vmap(torch.vmap(adapted_loss, in_dims=(None, 0)), in_dims=(0, None))(everyone, texts)
    count, total = (sum(leaf.numel() for leaf in fn.tree.flatten(tree).values()) for tree in (adapters, params))
    print(f"\n{count:,} numbers beside {total:,}       text 1   text 2")
    for name, row in zip(("no change", "adapter 1", "adapter 2"), losses.tolist(), strict=True):
        print(f"{name:<26}" + "".join(f"{value:9.2f}" for value in row))
    assert losses[1, 0] < losses[0, 0] and losses[2, 1] < losses[0, 1]

    # For peft: the names of its files, both ways.
    saved = fn.to_peft_state_dict(adapted, tuned[0])
    print("\npeft:", next(iter(saved)))
    back = fn.from_peft_state_dict(adapted, saved)
    assert all(map(torch.equal, fn.tree.flatten(back).values(), fn.tree.flatten(tuned[0]).values()))

    # Merged params are params of the first net: its keys, its class, and no trace of LoRA. Nothing was overwritten, so
    # whoever goes on from ``tree`` has unmerged.
    merged_net, merged = fn.merge_lora(adapted, tree)
    learned = fn.to_module(merged_net, merged, buffers).eval()
    assert type(learned) is GPT2LMHeadModel
    assert learned.state_dict().keys() == GPT2LMHeadModel(config).state_dict().keys()
    torch.testing.assert_close(
        learned(texts[0], use_cache=False).logits, output.logits, rtol=1e-3, atol=1e-3
    )  # rounding
    start = torch.tensor([[LETTERS.index(letter) for letter in "a hen "]])
    written = learned.generate(start, max_new_tokens=30, do_sample=False, pad_token_id=0)
    print("it writes:", "".join(LETTERS[index] for index in written[0].tolist()))


if __name__ == "__main__":
    main()
