"""A model of your own, and the way back to a module.

A module is a class: parts in __init__, the computation in forward(self, x). A net is a function: parts in fn.compose,
the computation in body(p, x); or a class of the same two. The bodies read alike, because p has the names that self has.
So to_module can run the very same body, with p the module itself.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    images = fn.random.normal(fn.random.key(0), (2, 1, 12, 12))

    # Stateful
    class MyModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(20, 1, 1))
            self.conv1 = nn.Conv2d(1, 20, 5)
            self.conv2 = nn.Conv2d(20, 20, 5)

        def forward(self, x):
            x = F.relu(self.conv1(x))
            return F.relu(self.conv2(x)) * self.scale

    torch.manual_seed(0)
    written = MyModel()

    # Stateless
    @fn.compose(
        scale=fn.Param((20, 1, 1), init=1.0),
        conv1=fn.Conv2d(1, 20, 5),
        conv2=fn.Conv2d(20, 20, 5),
    )
    def my_model(p, x):
        x = F.relu(p.conv1(x))
        return F.relu(p.conv2(x)) * p.scale

    params, buffers = my_model.init(0)
    y = my_model(params, images)
    assert torch.equal(y, written(images))

    # Or stateless as a class: the fields are hyperparameters, parts() says what it is made of.
    class Convolutions(fn.Net):
        channels: int
        kernel_size: int = 5

        def parts(self):
            return {
                "scale": fn.Param((self.channels, 1, 1), init=1.0),
                "conv1": fn.Conv2d(1, self.channels, self.kernel_size),
                "conv2": fn.Conv2d(self.channels, self.channels, self.kernel_size),
            }

        @staticmethod
        def forward(p, x):
            x = F.relu(p.conv1(x))
            return F.relu(p.conv2(x)) * p.scale

    assert torch.equal(Convolutions(20)(params, images), y)
    assert Convolutions(20) == Convolutions(20, kernel_size=5) != Convolutions(20, kernel_size=3)

    # Net -> module: stock torch.nn layers, real Parameters, and the body above as its forward.
    module = fn.to_module(my_model, params, buffers)
    assert type(module.conv1) is nn.Conv2d
    assert list(module.state_dict()) == list(written.state_dict())
    assert torch.equal(module(images), y)
    assert torch.equal(my_model.forward(module, images), y)

    # Module -> net: the same net and the same numbers again.
    net, params_again, _ = fn.from_module(module)
    assert net == my_model
    assert torch.equal(net(params_again, images), y)

    # Any other module makes a net too: its own forward is called, on the params you pass.
    wrapped, params_written, _ = fn.from_module(written)
    assert isinstance(wrapped, fn.Wrapped)
    assert torch.equal(wrapped(params_written, images), y)

    print("written as a class:", written)
    print("written as a function:", my_model)
    print("written as a net class:", Convolutions(20))
    print("made by to_module:", module)


if __name__ == "__main__":
    main()
