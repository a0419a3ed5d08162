"""A hypernetwork: a net that computes the params of another.

Its output is a vector, fn.tree.ravel says how params are made of one, and the gradient goes through. Here a context
(the height and phase of a wave) becomes the weights of a small net that draws the wave.
"""

import math

import torch
import torch.nn.functional as F

import funcnet as fn


def main() -> None:
    torch.set_num_threads(1)
    target = fn.Sequential(fn.Linear(1, 12), fn.Tanh(), fn.Linear(12, 1))
    vector, unravel = fn.tree.ravel(target.init(0)[0])
    hyper = fn.Sequential(fn.Linear(2, 64), fn.ReLU(), fn.Linear(64, len(vector)))
    params, _ = hyper.init(1)
    x = torch.linspace(-math.pi, math.pi, 24)[:, None]

    def waves(params, contexts):
        """For each context its own net, all in one call."""
        weights = torch.vmap(unravel)(vector + 0.1 * hyper(params, contexts))
        return torch.vmap(target, in_dims=(0, None))(weights, x)

    def draw_contexts(key, count):
        context = fn.random.uniform(key, (count, 2)) * 2 - 1
        height, phase = 1 + 0.5 * context[:, :1, None], context[:, 1:, None]
        return context, height * torch.sin(x + phase)

    def loss(params, contexts, y):
        return F.mse_loss(waves(params, contexts), y)

    optimizer = fn.optim.Adam(lr=3e-3)
    state = optimizer.init(params)
    for step in range(300):
        contexts, y = draw_contexts(fn.random.fold_in(fn.random.key(2), step), 16)
        value, grads = fn.value_and_grad(loss)(params, contexts, y)
        params, state = optimizer.step(params, grads, state)
        if step % 100 == 0:
            print(f"step {step:>3}: loss {value:.4f}")

    unseen, y = draw_contexts(fn.random.key(3), 64)
    print(f"contexts that nobody has seen: loss {loss(params, unseen, y):.4f}")
    assert loss(params, unseen, y) < 0.02

    # What it writes are params like any: here one context becomes a module.
    module = fn.to_module(target, unravel((vector + 0.1 * hyper(params, unseen[:1]))[0].detach()))
    torch.testing.assert_close(module(x), waves(params, unseen[:1])[0])


if __name__ == "__main__":
    main()
