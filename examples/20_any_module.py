"""Any module: from_module, effects, trace.

A model of somebody else has a forward that nobody wrote with pure functions in mind. from_module runs that very
forward on private copies: what it wrote becomes a result, what it drew becomes an argument. effects says beforehand
what it does besides computing its output, and trace writes it down as plain code.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import funcnet as fn


class Recommender(nn.Module):
    """Somebody's model: an embedding, a running mean, dropout by F, a counter, a tied output."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.mix = nn.Linear(16, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("mean", torch.zeros(16))
        self.calls = 0

    def forward(self, items):
        self.calls += 1
        h = self.embed(items).mean(1)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        h = F.dropout(F.relu(self.mix(h - self.mean)), 0.1, self.training)
        return self.out(h)


def main() -> None:
    items = torch.arange(12).view(4, 3) * 4 % 50
    torch.manual_seed(0)
    module = Recommender().train()

    # What does it do, besides its output? A table with path, line, and what to write instead.
    found = fn.effects(module, items, train=True)
    print(found, "\n")
    assert found.of("writes buffer") and found.of("draws") and found.of("mixes examples")

    net, params, buffers = fn.from_module(module)
    print("aliases:", net.aliases)

    # Stateful: functional_call takes your tensors, and writes to them; the counter counts, the global dice roll.
    given = {name: tensor.clone() for name, tensor in module.state_dict().items() if name != "out.weight"}
    torch.manual_seed(7)
    y_module = functional_call(module, given, (items,))
    assert not torch.equal(given["mean"], module.mean)  # the caller's own dict
    assert module.calls == 1

    # Stateless: the same forward, bit for bit; nothing is touched, and what it wrote comes back.
    y, new_buffers = net.apply(params, buffers, items, train=True, rng=7)
    assert torch.equal(y, y_module)
    assert torch.equal(new_buffers["mean"], given["mean"])
    assert not buffers["mean"].any()
    assert module.calls == 1
    print("mean before:", buffers["mean"][:3], "and after:", new_buffers["mean"][:3])

    # So it can do what nets can: a gradient for each example, say.
    def loss(params, one):
        y, _ = net.apply(params, buffers, one[None])
        return F.cross_entropy(y, one[:1])

    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, items)
    print("per-sample gradients:", {path: tuple(g.shape) for path, g in fn.tree.flatten(per_sample).items()})

    # Written down: no class, no self, no mode. What stands here is what runs.
    traced, params, buffers = fn.trace(module, items, train=True)
    print("\n" + traced.source)
    y_traced, buffers_traced = traced.apply(params, buffers, items, train=True, rng=7)
    assert torch.equal(y_traced, y)
    assert torch.equal(buffers_traced["mean"], new_buffers["mean"])


if __name__ == "__main__":
    main()
