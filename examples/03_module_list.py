"""ModuleList and ModuleDict: branches and intermediate outputs.

Sequential hands each output to the next layer and forgets it. To keep outputs, to run layers beside each other or to
choose one by name, write the loop yourself: over self.layers in a module, over p.layers in a net.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def main() -> None:
    x = fn.random.normal(fn.random.key(0), (4, 8))

    # Stateful
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
            self.branches = nn.ModuleList([nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 2), nn.Tanh())])
            self.heads = nn.ModuleDict({"age": nn.Linear(6, 1), "kind": nn.Linear(6, 5)})

        def forward(self, x, head):
            outputs = []
            for layer in self.layers:
                x = F.relu(layer(x))
                outputs.append(x)
            joined = torch.cat([branch(x) for branch in self.branches], dim=1)
            return self.heads[head](joined), outputs

    torch.manual_seed(0)
    module = Model()

    # Stateless
    @fn.compose(
        layers=fn.ModuleList([fn.Linear(8, 8) for _ in range(3)]),
        branches=fn.ModuleList([fn.Linear(8, 4), fn.Sequential(fn.Linear(8, 2), fn.Tanh())]),
        heads=fn.ModuleDict({"age": fn.Linear(6, 1), "kind": fn.Linear(6, 5)}),
    )
    def model(p, x, head):
        outputs = []
        for layer in p.layers:
            x = F.relu(layer(x))
            outputs.append(x)
        joined = torch.cat([branch(x) for branch in p.branches], dim=1)
        return p.heads[head](joined), outputs

    params, _ = model.init(0)

    # The same outputs, those on the way included, whichever head is chosen.
    for head in ("age", "kind"):
        y_module, outputs_module = module(x, head)
        y, outputs = model(params, x, head)
        assert torch.equal(y, y_module)
        assert len(outputs) == len(outputs_module) == 3
        assert all(torch.equal(a, b) for a, b in zip(outputs, outputs_module, strict=True))
        print(f"{head}: output {tuple(y.shape)}, kept on the way {[tuple(kept.shape) for kept in outputs]}")

    # Containers index, slice and nest as in torch.nn, and so do their params.
    assert list(fn.tree.flatten(params)) == list(module.state_dict())
    assert model.branches[1][0] == fn.Linear(8, 2)
    assert torch.equal(params["branches"]["1"]["0"]["weight"], module.branches[1][0].weight)
    print("params:", *fn.tree.flatten(params), sep="\n    ")


if __name__ == "__main__":
    main()
