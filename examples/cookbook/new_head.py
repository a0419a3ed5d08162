"""A new head on somebody else's backbone.

The backbone is converted as it is, and its module is not touched: a net around it has the new head, the loss is a
function of the head alone, and the buffers of the backbone stay what they were. At the end everything is a module
again.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


class Backbone(nn.Module):
    """Stands for a model from a library: a forward of its own, BatchNorm, and a head for other classes."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 1000)

    def features(self, x):
        return F.relu(self.bn(self.conv(x))).flatten(1)

    def forward(self, x):
        return self.fc(self.features(x))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Backbone().eval()
    backbone, params, buffers = fn.from_module(module)
    x, y = fn.random.normal(fn.random.key(0), (64, 1, 8, 8)), torch.arange(64) % 3

    # The easiest way: another method of the module gives the features, and the new head is a net of its own.
    head = fn.Linear(8 * 36, 3)
    head_params, _ = head.init(1)
    features, _ = backbone.apply(params, buffers, x, method="features")  # once, as nothing before the head is trained

    def head_loss(head_params):
        return F.cross_entropy(head(head_params, features), y)

    optimizer = fn.optim.AdamW(lr=1e-2)
    state = optimizer.init(head_params)
    first = head_loss(head_params)
    for _ in range(30):
        value, grads = fn.value_and_grad(head_loss)(head_params)
        head_params, state = optimizer.step(head_params, grads, state)
    print(f"the head alone: loss {first:.3f} to {value:.3f}")
    assert value < 0.2 * first

    # Or the module gets the head, as torch does it, and a tree gets the head's params. Then all of it can be trained:
    # small steps for the backbone, larger ones for the head, and the statistics of the norm stay.
    module.fc = nn.Linear(8 * 36, 3)
    whole, params, buffers = fn.from_module(module)
    params = fn.tree.replace(params, "fc", head_params)

    def loss(params):
        logits, _ = whole.apply(params, buffers, x, train="!**.bn")
        return F.cross_entropy(logits, y)

    assert torch.allclose(loss(params), head_loss(head_params))
    optimizer = fn.optim.AdamW(lr=1e-4, groups={"fc": {"lr": 1e-2}})
    state, start = optimizer.init(params), params
    for _ in range(5):
        value, grads = fn.value_and_grad(loss)(params)
        params, state = optimizer.step(params, grads, state)
    moved = {path: float(change.abs().max()) for path, change in fn.tree.flatten(fn.tree.sub(params, start)).items()}
    print("largest change:", {path: f"{change:.0e}" for path, change in moved.items()})
    assert moved["fc.weight"] > 10 * moved["conv.weight"] > 0

    tuned = fn.to_module(whole, params, buffers)  # a Backbone with three classes
    assert isinstance(tuned, Backbone)
    assert torch.equal(tuned.eval()(x), whole.apply(params, buffers, x)[0])


if __name__ == "__main__":
    main()
