"""Meta-learning: the gradient through a step of gradient descent.

MAML looks for first weights from which one step on five points is enough. So it differentiates a loss after a step by
the weights before it. torch.optim overwrites weights in place and cannot be differentiated. Where adapted params are a
value, the step is a line, the task a function, and vmap runs many tasks at once. Lesson 24 has Adam inside.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import funcnet as fn

RATE = 0.1


def tasks(key, count):
    """Sine waves of other phases and heights: five points to adapt to, and five to be judged by."""
    at, height, phase = fn.random.split(key, 3)
    x = fn.random.uniform(at, (count, 10, 1)) * 6 - 3
    y = (fn.random.uniform(height, (count, 1, 1)) + 0.5) * torch.sin(x + 2 * fn.random.uniform(phase, (count, 1, 1)))
    return x, y


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    net = fn.Sequential(fn.Linear(1, 20), fn.Tanh(), fn.Linear(20, 20), fn.Tanh(), fn.Linear(20, 1))
    params, _ = net.init(0)
    xs, ys = tasks(fn.random.key(0), 8)

    # Stateful: the weights leave the module for a dict, and come back for one call. One task:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    weights = dict(module.named_parameters())
    inner = F.mse_loss(functional_call(module, weights, (xs[0, :5],)), ys[0, :5])
    grads = torch.autograd.grad(inner, tuple(weights.values()), create_graph=True)
    adapted = {name: w - RATE * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    outer = F.mse_loss(functional_call(module, adapted, (xs[0, 5:],)), ys[0, 5:])
    outer.backward()

    # Stateless: adapted params are params.
    def loss(params, x, y):
        return F.mse_loss(net(params, x), y)

    def adapt(params, x, y):
        return fn.tree.map(lambda w, g: w - RATE * g, params, torch.func.grad(loss)(params, x, y))

    def loss_after(params, x, y):
        return loss(adapt(params, x[:5], y[:5]), x[5:], y[5:])

    value, meta_grads = fn.value_and_grad(loss_after)(params, xs[0], ys[0])
    assert torch.equal(value, outer)
    for path, grad in fn.tree.flatten(meta_grads).items():
        assert torch.equal(grad, module.get_parameter(path).grad)

    # All tasks at once: vmap over a function that has a gradient inside, and a gradient around it.
    def meta_loss(params, xs, ys):
        return torch.vmap(loss_after, in_dims=(None, 0, 0))(params, xs, ys).mean()

    optimizer, first = fn.optim.SGD(lr=0.02, momentum=0.9), params
    state = optimizer.init(params)
    print("step   loss after one step on five points")
    for step in range(161):
        value, grads = fn.value_and_grad(meta_loss)(params, *tasks(fn.random.fold_in(fn.random.key(1), step), 32))
        params, state = optimizer.step(params, grads, state)
        if step % 32 == 0:
            print(f"{step:>4}   {value:.3f} {'*' * int(50 * value)}")

    # A wave nobody has seen: before, the step helps little; after, it is nearly all that is needed.
    x, y = tasks(fn.random.key(2), 64)
    after = torch.vmap(loss_after, in_dims=(None, 0, 0))
    untrained, trained = after(first, x, y).mean(), after(params, x, y).mean()
    print(f"\n64 new waves, after one step: loss {untrained:.3f} from random weights, {trained:.3f} from these")
    assert trained < 0.5 * untrained


if __name__ == "__main__":
    main()
