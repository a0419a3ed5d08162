"""When to use which: nn.Module, nn.functional, a net.

Modules where weights live long and change in place; functions of F where there is nothing to own; nets where weights
are values. The question is never what the model computes, as all give the same bits, but what you want to do with it.
Five small cases, each won by someone else, and the way across.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    x_key, y_key = fn.random.split(fn.random.key(0))
    x, y = fn.random.normal(x_key, (8, 4)), fn.random.normal(y_key, (8, 1))

    # Stateful
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    # Stateless
    net = fn.Sequential(fn.Linear(4, 16), torch.tanh, fn.Linear(16, 1))
    params, _ = net.init(0)
    assert torch.equal(net(params, x), module(x))
    print("case                              nn.Module             F                 net")

    # 1. Something without weights: F wins. nn.ReLU and nn.MaxPool2d are F.relu and F.max_pool2d with options kept, good
    # for a place in Sequential. In a net the function itself has a place there, as torch.tanh above.
    assert torch.equal(nn.ReLU()(x), F.relu(x))
    print("an activation                     a place to put it     the thing         either")

    # 2. Dropout: F has no mode. F.dropout(h) drops in evaluation, too, as training=True is its default; a module knows
    # self.training; a net is told by train= and never draws unless it is given rng=.
    torch.manual_seed(0)
    assert not torch.equal(F.dropout(x), x)
    assert torch.equal(nn.Dropout().eval()(x), x)
    assert torch.equal(fn.Dropout()({}, x), x)
    print("dropout in evaluation             off by eval()         on by default!    off unless train=")

    # 3. To look inside a model that is running: the module wins. A hook needs no change to the forward; a pure function
    # shows what it returns, and no more. So look at the twin: it has the same weights.
    seen = []
    twin = fn.to_module(net, params)
    with torch.no_grad():
        handle = twin[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
        twin(x)
    handle.remove()
    assert torch.equal(seen[0], net[0](params["0"], x))
    print("to look inside                    a hook                print()           return it")

    # 4. One model, trained plainly: a draw. Both optimizers have the same names, arguments and bits.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    F.mse_loss(module(x), y).backward()
    optimizer.step()
    _, grads = fn.value_and_grad(lambda params: F.mse_loss(net(params, x), y))(params)
    sgd = fn.optim.SGD(lr=0.1)
    stepped, _ = sgd.step(params, grads, sgd.init(params))
    for path, weight in fn.tree.flatten(stepped).items():
        assert torch.equal(weight, module.get_parameter(path))
    print("plain training                    torch.optim           by hand           fn.optim")

    # 5. Whatever treats a model as a value: the net wins. To try ten rates, a module is copied, or saved and restored,
    # ten times. Weights that are values are just ten values, and one batched call.
    def loss_at(rate):
        return F.mse_loss(net(sgd.step(params, grads, sgd.init(params), lr=rate)[0], x), y)

    rates = torch.linspace(0, 0.9, 10)
    losses = torch.vmap(loss_at)(rates)
    assert torch.argmin(losses) not in (0, 9)
    print("ten models at once                ten modules           ten dicts         vmap\n")
    for rate, loss in zip(rates, losses, strict=True):
        print(f"    rate {rate:.1f}   loss {loss:.3f} {'*' * min(60, int(20 * loss))}")

    # And across, at any time, with nothing lost: from_module and to_module.
    again, params_again, _ = fn.from_module(fn.to_module(net, stepped))
    assert again == net
    for left, right in zip(fn.tree.flatten(params_again).values(), fn.tree.flatten(stepped).values(), strict=True):
        assert torch.equal(left, right)
    print("\nmodule -> net -> module: the same net, the same bits")


if __name__ == "__main__":
    main()
