"""Sequential, three ways.

Layers side by side, an unpacked list, an OrderedDict of names: fn.Sequential is written as nn.Sequential is. Its params
are a dict of dicts, one for each layer that has any, and their paths are the keys of the module's state_dict.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 20))

    # Stateful
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 10))

    torch.manual_seed(0)
    layers = [nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 10)]
    module_of_list = nn.Sequential(*layers)

    torch.manual_seed(0)
    named_module = nn.Sequential(
        OrderedDict([("hidden", nn.Linear(20, 256)), ("act", nn.ReLU()), ("out", nn.Linear(256, 10))])
    )

    # Stateless
    net = fn.Sequential(fn.Linear(20, 256), fn.ReLU(), fn.Linear(256, 10))
    params, _ = net.init(0)

    layers = [fn.Linear(20, 256), fn.ReLU(), fn.Linear(256, 10)]
    net_of_list = fn.Sequential(*layers)

    named_net = fn.Sequential(
        OrderedDict([("hidden", fn.Linear(20, 256)), ("act", fn.ReLU()), ("out", fn.Linear(256, 10))])
    )
    named_params, _ = named_net.init(0)

    # The same numbers and names.
    assert torch.equal(net(params, x), module(x))
    assert torch.equal(net_of_list(params, x), module_of_list(x))
    assert torch.equal(named_net(named_params, x), named_module(x))
    assert list(fn.tree.flatten(params)) == list(module.state_dict())
    assert list(fn.tree.flatten(named_params)) == list(named_module.state_dict())

    # A net holds no tensors, so two nets of the same layers are equal; two modules never are.
    assert net == net_of_list
    assert module != module_of_list

    # Indexing gives a layer, slicing a Sequential; each takes its own share of the params.
    assert torch.equal(net[0](params["0"], x), module[0](x))
    assert torch.equal(net[:2]({"0": params["0"]}, x), module[:2](x))
    assert torch.equal(named_net.hidden(named_params["hidden"], x), named_module.hidden(x))

    # And one thing less to write: a plain function is a layer too.
    short = fn.Sequential(fn.Linear(20, 256), F.relu, fn.Linear(256, 10))
    assert torch.equal(short(params, x), module(x))

    print(named_net)
    print("params:", list(fn.tree.flatten(named_params)))
    print("first two layers:", named_net[:2])


if __name__ == "__main__":
    main()
