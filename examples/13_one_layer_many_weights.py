"""One layer, many weights.

A module is its weights: five sets of weights are five modules. A net is used with any number of params: call it in a
loop, or stack the params and let torch.vmap make one batched call, which is an ensemble.
"""

import torch
from torch import nn
from torch.func import functional_call, stack_module_state

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 8))

    # Stateful: one object for each set of weights.
    modules = []
    for seed in range(5):
        torch.manual_seed(seed)
        modules.append(nn.Linear(8, 8))

    y_module = x
    for module in modules:
        y_module = torch.tanh(module(y_module))

    # Stateless: one layer, a list of params.
    layer = fn.Linear(8, 8)
    weights = [layer.init(seed)[0] for seed in range(5)]

    y = x
    for params in weights:
        y = torch.tanh(layer(params, y))

    assert torch.equal(y, y_module)

    # An ensemble, stateful: the modules are stacked, then one of them is called with tensors that are not its own.
    module_params, module_buffers = stack_module_state(modules)

    def call_module(params, buffers, x):
        return torch.tanh(functional_call(modules[0], (params, buffers), (x,)))

    ys_module = torch.vmap(call_module, in_dims=(0, 0, None))(module_params, module_buffers, x)

    # An ensemble, stateless: the params are stacked, then the layer is called.
    stacked = fn.tree.map(lambda *members: torch.stack(members), *weights)

    def call(params, x):
        return torch.tanh(layer(params, x))

    ys = torch.vmap(call, in_dims=(0, None))(stacked, x)

    assert torch.equal(ys, ys_module)
    # One batched product rounds differently from five small ones.
    torch.testing.assert_close(ys, torch.stack([call(params, x) for params in weights]))

    # From Keys the stack is made at once, without a list of models before it.
    stacked, _ = torch.vmap(layer.init)(fn.random.split(fn.random.key(0), 5))
    ys = torch.vmap(call, in_dims=(0, None))(stacked, x)

    print("stacked params:", {name: tuple(tensor.shape) for name, tensor in stacked.items()})
    print("outputs of 5 members:", tuple(ys.shape), f"standard deviation between them {ys.std(0).mean():.3f}")


if __name__ == "__main__":
    main()
