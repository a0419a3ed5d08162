"""One layer, both ways.

nn.Linear owns its weight and bias. F.linear takes them as arguments, and leaves making and naming them to you.
fn.Linear is the missing middle: it knows names, shapes and first values, as nn.Linear does, and computes from its
arguments, as F.linear does. All three give the same bits.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 3))
    images = fn.random.normal(fn.random.key(1), (4, 1, 8, 8))

    # Stateful: a layer is made with its tensors inside, from torch's global generator.
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    torch.manual_seed(1)
    conv = nn.Conv2d(1, 5, kernel_size=3, padding=1)
    y, maps = linear(x), conv(images)

    # Stateless, with F: tensors and options are arguments of every call.
    assert torch.equal(F.linear(x, linear.weight, linear.bias), y)
    assert torch.equal(F.conv2d(images, conv.weight, conv.bias, padding=1), maps)

    # Stateless, with funcnet: options live in the net, tensors in a dict that you hold.
    linear_net = fn.Linear(3, 2)
    conv_net = fn.Conv2d(1, 5, kernel_size=3, padding=1)
    linear_params, _ = linear_net.init(0)  # the numbers of torch.manual_seed(0); nn.Linear(3, 2)
    conv_params, _ = conv_net.init(1)
    assert torch.equal(linear_net(linear_params, x), y)
    assert torch.equal(conv_net(conv_params, images), maps)

    # The dict has the layer's own names, so F takes it as it is.
    assert torch.equal(F.linear(x, **linear_params), y)

    print("nn:", linear)
    print("fn:", linear_net)
    print("fn:", conv_net)
    for name, tensor in conv_params.items():
        print(f"    {name}: {tuple(tensor.shape)}")


if __name__ == "__main__":
    main()
