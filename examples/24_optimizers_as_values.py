"""Optimizers as values: a population, learned learning rates, MAML with Adam inside.

torch.optim keeps its moments by parameter and writes over both, so that it cannot be copied, mapped over or
differentiated without tricks. Here an optimizer is a record, its state a tree, and a step a function of params,
gradients, state and learning rate. What one does to values one does to training.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def waves(key, count):
    """Sine waves of other heights and phases: ten points of each to adapt to, and ten to be judged by."""
    at, height, phase = fn.random.split(key, 3)
    x = fn.random.uniform(at, (count, 20, 1)) * 6 - 3
    y = (fn.random.uniform(height, (count, 1, 1)) + 0.5) * torch.sin(x + 2 * fn.random.uniform(phase, (count, 1, 1)))
    return x, y


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    (x, *_), (y, *_) = waves(fn.random.key(0), 1)
    rates = torch.logspace(-5, -1.5, 8, dtype=torch.float64)

    # Stateful: a population is a list of modules, each with an optimizer of its own.
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
    modules = [copy.deepcopy(first) for _ in rates]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=rate.item()) for m, rate in zip(modules, rates, strict=True)]
    for _ in range(20):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            F.mse_loss(module(x), y).backward()
            optimizer.step()

    # Stateless: params and state have an axis of members, and a learning rate each.
    net = fn.Sequential(fn.Linear(1, 20), fn.Tanh(), fn.Linear(20, 1))
    adamw, adam = fn.optim.AdamW(), fn.optim.Adam()

    def loss(params, x, y):
        return F.mse_loss(net(params, x), y)

    def train(params, state, rate):
        for _ in range(20):
            params, state = adamw.step(params, torch.func.grad(loss)(params, x, y), state, lr=rate)
        return params, state

    params, _ = net.init(0)
    members = fn.tree.stack([params] * len(rates))
    trained, states = torch.vmap(train)(members, torch.vmap(adamw.init)(members), rates)
    for index, module in enumerate(modules):  # eight small products in one call round in another order
        for path, weights in fn.tree.flatten(trained).items():
            torch.testing.assert_close(weights[index], module.get_parameter(path), rtol=1e-4, atol=1e-5)

    def choose(tree, parents):
        return fn.tree.map(lambda leaf: leaf[parents], tree)

    # Population-based training: the worse half goes on from the better half, moments included, at other rates.
    print("rounds of 20 steps: the losses of eight members at their own rates")
    members = trained
    for key in fn.random.split(fn.random.key(1), 4):
        losses = torch.vmap(loss, in_dims=(0, None, None))(members, x, y)
        print("   ", *(f"{value:.4f}" for value in losses.sort().values))
        order = losses.argsort()
        parents = torch.cat([order[:4], order[:4]])
        members, states = choose(members, parents), choose(states, parents)
        jitter = torch.cat([torch.ones(4), torch.exp(fn.random.normal(key, (4,)))])
        rates = rates[parents] * jitter
        members, states = torch.vmap(train)(members, states, rates)
    alone = torch.stack([F.mse_loss(module(x), y) for module in modules]).min()
    assert torch.vmap(loss, in_dims=(0, None, None))(members, x, y).min() < 0.2 * alone

    # Learned learning rates: the loss after ten steps, differentiated by the rate of each layer.
    def loss_after(log_rates):
        new, state = params, adam.init(params)
        groups = {"2": {"lr": log_rates[1].exp()}}
        layered = fn.optim.Adam(groups={"2": {"lr": 1e-3}})
        for _ in range(10):
            grads = torch.func.grad(loss)(new, x, y)
            new, state = layered.step(new, grads, state, lr=log_rates[0].exp(), groups=groups)
        return loss(new, x, y)

    log_rates = torch.full((2,), -6.0, dtype=torch.float64)
    before = loss_after(log_rates)
    for _ in range(15):
        _, slope = fn.value_and_grad(loss_after)(log_rates)
        log_rates = log_rates - 0.25 * slope.sign()
    assert loss_after(log_rates) < 0.5 * before
    print(f"\nthe loss after ten steps: {before:.3f} at rates of e-6, {loss_after(log_rates):.3f} at learned ones")

    # MAML with Adam inside: first weights from which three steps of Adam are enough, for waves that nobody has seen.
    def loss_of_wave(params, x, y):
        new, state = params, adam.init(params)
        for _ in range(3):
            new, state = adam.step(new, torch.func.grad(loss)(new, x[:10], y[:10]), state, lr=0.03)
        return loss(new, x[10:], y[10:])

    def meta_loss(params, xs, ys):
        return torch.vmap(loss_of_wave, in_dims=(None, 0, 0))(params, xs, ys).mean()

    outer, meta = adamw.init(params), params
    print("\nstep   loss after three steps of Adam on ten points")
    for step in range(101):
        value, grads = fn.value_and_grad(meta_loss)(meta, *waves(fn.random.fold_in(fn.random.key(2), step), 16))
        meta, outer = adamw.step(meta, grads, outer, lr=0.01)
        if step % 20 == 0:
            print(f"{step:>4}   {value:.3f} {'*' * int(50 * value)}")
    unseen = waves(fn.random.key(3), 64)
    assert meta_loss(meta, *unseen) < 0.5 * meta_loss(params, *unseen)


if __name__ == "__main__":
    main()
