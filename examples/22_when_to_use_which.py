"""When to use which.

Use a module where one set of weights lives long and is changed in place: plain training, hooks, most libraries. Use a
net where weights are values: gradients for each example, weights made from weights, many models at once. A module can
do these by loops and functional_call. Two cases, side by side; to_module and from_module lead across.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import funcnet as fn


def main() -> None:
    x_key, y_key = fn.random.split(fn.random.key(0))
    x, y = fn.random.normal(x_key, (8, 4)), fn.random.normal(y_key, (8, 1))

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    net = fn.Sequential(fn.Linear(4, 16), fn.Tanh(), fn.Linear(16, 1))
    params, _ = net.init(0)

    def loss(params, x, y):
        return F.mse_loss(net(params, x), y)

    # --- Per-sample gradients ---

    # Stateful: .grad holds one sum, so each example needs a backward pass of its own.
    rows = []
    for example, label in zip(x, y, strict=True):
        module.zero_grad()
        F.mse_loss(module(example), label).backward()
        rows.append({name: parameter.grad.clone() for name, parameter in module.named_parameters()})
    module.zero_grad()
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # Stateless: the gradient is a function, and vmap maps functions over examples.
    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, x, y)

    for path, grad in fn.tree.flatten(per_sample).items():
        torch.testing.assert_close(grad, stacked[path])  # batched kernels round differently
    print("per-sample gradients:", {path: tuple(grad.shape) for path, grad in fn.tree.flatten(per_sample).items()})

    # --- A step of meta-learning (MAML): the gradient through a step of gradient descent ---

    # Stateful: optimizer.step() cannot be differentiated, so the weights leave the module for a dict.
    weights = dict(module.named_parameters())
    inner = F.mse_loss(functional_call(module, weights, (x[:4],)), y[:4])
    grads = torch.autograd.grad(inner, tuple(weights.values()), create_graph=True)
    adapted = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    outer = F.mse_loss(functional_call(module, adapted, (x[4:],)), y[4:])
    outer.backward()

    # Stateless: adapted params are params.
    def adapt(params, x, y):
        return fn.tree.map(lambda w, g: w - 0.1 * g, params, torch.func.grad(loss)(params, x, y))

    def meta_loss(params):
        return loss(adapt(params, x[:4], y[:4]), x[4:], y[4:])

    value, meta_grads = fn.value_and_grad(meta_loss)(params)

    assert torch.equal(value, outer)
    for path, grad in fn.tree.flatten(meta_grads).items():
        assert torch.equal(grad, module.get_parameter(path).grad)
    better = fn.tree.map(lambda w, g: w - 0.1 * g, params, meta_grads)
    print(f"loss after adapting: {value:.4f}, and {meta_loss(better):.4f} one meta step later")
    assert meta_loss(better) < value


if __name__ == "__main__":
    main()
