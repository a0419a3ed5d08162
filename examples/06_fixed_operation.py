"""A fixed operation made by hand.

Not every layer learns. An edge filter is F.conv2d with a constant kernel: with no params to hold, a function says it
all, and a function is a part of any net. Declare the kernel a Buffer only if it should travel with the checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn

SOBEL = (((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0)),)  # horizontal steps; (in channels, height, width)


def main() -> None:
    image = torch.zeros(1, 1, 6, 6)
    image[..., 3:] = 1.0  # dark left, bright right

    # Stateful: a class, so that the kernel moves with module.to(device) and F.conv2d finds it.
    class Edges(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.tensor([SOBEL]))

        def forward(self, x):
            return F.conv2d(x, self.kernel, padding=1)

    torch.manual_seed(0)
    module = nn.Sequential(Edges(), nn.Conv2d(1, 4, 3), nn.ReLU())

    # Stateless: a function; the kernel is made like x, so it is always where x is.
    def edges(x):
        return F.conv2d(x, x.new_tensor([SOBEL]), padding=1)

    net = fn.Sequential(edges, fn.Conv2d(1, 4, 3), fn.ReLU())
    params, _ = net.init(0)

    assert torch.equal(edges(image), module[0](image))
    assert torch.equal(net(params, image), module(image))
    assert list(fn.tree.flatten(params)) == ["1.weight", "1.bias"]
    print("one row of the image:", image[0, 0, 2].tolist())
    print("its edges:           ", edges(image)[0, 0, 2].tolist())

    # Stateless, as a Buffer: the kernel is an argument like any other, and a key of the state_dict.
    @fn.compose(kernel=fn.Buffer((1, 1, 3, 3), [SOBEL]))
    def edges_of_buffer(p, x):
        return F.conv2d(x, p.kernel, padding=1)

    net = fn.Sequential(edges_of_buffer, fn.Conv2d(1, 4, 3), fn.ReLU())
    params, buffers = net.init(0)
    y, _ = net.apply(params, buffers, image)
    assert torch.equal(y, module(image))
    assert list(fn.to_state_dict(net, params, buffers)) == list(module.state_dict())
    print("keys with a buffer:", list(module.state_dict()))


if __name__ == "__main__":
    main()
