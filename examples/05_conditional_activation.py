"""A conditional activation.

A body is Python, in a module and in a net: it may branch on any Python value. Such a value is either fixed with the
model (an attribute of self, a constant of p) or passed with the call (a keyword argument).
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 8))

    # Stateful
    class MLP(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.fc1 = nn.Linear(8, 16)
            self.fc2 = nn.Linear(16, 2)
            self.activation = activation

        def forward(self, x, residual=False):
            h = self.fc1(x)
            if self.activation == "relu":
                h = F.relu(h)
            elif self.activation == "tanh":
                h = torch.tanh(h)
            if residual:
                h = h + x.repeat(1, 2)
            return self.fc2(h)

    # Stateless
    def make_mlp(activation):
        @fn.compose(fc1=fn.Linear(8, 16), fc2=fn.Linear(16, 2), activation=activation)
        def mlp(p, x, residual=False):
            h = p.fc1(x)
            if p.activation == "relu":
                h = F.relu(h)
            elif p.activation == "tanh":
                h = torch.tanh(h)
            if residual:
                h = h + x.repeat(1, 2)
            return p.fc2(h)

        return mlp

    # Fixed with the model, or passed with the call: the same bits either way.
    params, _ = make_mlp("relu").init(0)
    for activation in ("relu", "tanh", None):
        torch.manual_seed(0)
        module = MLP(activation)
        mlp = make_mlp(activation)
        for residual in (False, True):
            y = mlp(params, x, residual=residual)
            assert torch.equal(y, module(x, residual=residual))
            print(f"activation={activation!s:<5} residual={residual!s:<5} first output {y[0, 0]:+.4f}")

    # The value can be the function itself: nn.Module keeps it as an attribute, a net as a part without params.
    @fn.compose(fc1=fn.Linear(8, 16), act=F.relu, fc2=fn.Linear(16, 2))
    def mlp(p, x):
        return p.fc2(p.act(p.fc1(x)))

    assert torch.equal(mlp(params, x), make_mlp("relu")(params, x))

    # A choice for each element is no branch: torch.where computes both sides, and so works under vmap and compile.
    torch.manual_seed(0)
    leaky_module = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.01))
    leaky = fn.Sequential(fn.Linear(8, 16), lambda h: torch.where(h > 0, h, 0.01 * h))
    leaky_params, _ = leaky.init(0)
    assert torch.equal(leaky(leaky_params, x), leaky_module(x))


if __name__ == "__main__":
    main()
