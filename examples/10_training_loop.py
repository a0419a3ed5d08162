"""A training loop, both ways.

The stateful loop sends gradients into .grad and lets the optimizer overwrite the weights. The stateless step is a
function from (params, state, batch) to (params, state, loss); the loop only carries them on. fn.optim has what
torch.optim has, by the same names and arguments: after 40 steps the weights are equal, bit for bit.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    x_key, w_key = fn.random.split(fn.random.key(0))
    x = fn.random.normal(x_key, (320, 8))
    target = (x @ fn.random.normal(w_key, (8, 3))).argmax(1)
    batches = list(zip(x.split(40), target.split(40), strict=True)) * 5

    # Stateful
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    losses_module = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(inputs), labels)
        loss.backward()
        optimizer.step()
        losses_module.append(loss.item())

    # Stateless
    net = fn.Sequential(fn.Linear(8, 32), fn.ReLU(), fn.Linear(32, 3))

    def loss_of(params, inputs, labels):
        return F.cross_entropy(net(params, inputs), labels)

    sgd = fn.optim.SGD(lr=0.1, momentum=0.9)
    params, _ = net.init(0)
    state = sgd.init(params)
    losses = []
    for inputs, labels in batches:
        loss, grads = fn.value_and_grad(loss_of)(params, inputs, labels)
        params, state = sgd.step(params, grads, state)
        losses.append(loss.item())

    # Every loss on the way and every weight at the end.
    assert losses == losses_module
    for path, weight in fn.tree.flatten(params).items():
        assert torch.equal(weight, module.get_parameter(path))

    print("step   loss of nn.Module   loss of the net")
    for index in range(0, len(batches), 5):
        print(f"{index:>4}   {losses_module[index]:<18.6f}  {losses[index]:.6f} {'*' * int(30 * losses[index])}")
    accuracy = (net(params, x).argmax(1) == target).float().mean()
    print(f"{len(batches)} steps: loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {accuracy:.0%}")
    differing = sum(int((w != module.get_parameter(path)).sum()) for path, w in fn.tree.flatten(params).items())
    print(f"weights that differ from the module's: {differing}")


if __name__ == "__main__":
    main()
