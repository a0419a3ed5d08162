"""Weight surgery: freeze, replace, adapt, merge.

To change part of a model one walks through modules, flips requires_grad and swaps attributes, and the keys of the
checkpoint change with them. Params are nested dicts: a part is chosen by its path, a change is a new dict, and what
is trained is whatever the loss is a function of. Here a classifier of the digits 0-4 learns 5-9 by a low-rank change
(LoRA) of a hundredth of its weights or so, which is merged at the end.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn


def trained(loss, params, steps, rate=0.5):
    for _ in range(steps):
        params = fn.tree.map(lambda w, g: w - rate * g, params, fn.value_and_grad(loss)(params)[1])
    return params


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()
    low, high = labels < 5, labels >= 5

    net = fn.Sequential({"body": fn.Linear(64, 128), "act": fn.ReLU(), "head": fn.Linear(128, 5)})
    params, _ = net.init(0)
    params = trained(lambda params: F.cross_entropy(net(params, images[low]), labels[low]), params, 60)

    # Stateful: flags on the weights, and a wrapper around the layer that is to change. The names change with it.
    class LoRA(nn.Module):
        def __init__(self, base, rank):
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.zeros(base.out_features, rank))
            self.b = nn.Parameter(torch.zeros(rank, base.in_features))

        def forward(self, x):
            return F.linear(x, self.base.weight + self.a @ self.b, self.base.bias)

    module = fn.to_module(net, params)
    module.body = LoRA(module.body, rank=2)
    print("nn: keys after surgery:", *module.state_dict())

    # Stateless: the net stays as it is. A change of its weights is a function from params to params.
    def with_change(params, change):
        return fn.tree.replace(params, "body.weight", lambda w: w + change["a"] @ change["b"])

    change = {"a": torch.zeros(128, 2), "b": fn.random.normal(fn.random.key(1), (2, 64)) * 0.1}
    with torch.no_grad():
        module.body.b.copy_(change["b"])
    assert torch.equal(net(with_change(params, change), images), module(images))  # a change of zero, as yet

    # A new head, first values from a key; the body is chosen by its path, and put aside.
    head, _ = net.head.init(fn.random.key(2))
    params = fn.tree.replace(params, "head", head)
    frozen, trainable = fn.tree.partition(params, "body")
    print("fn: frozen:", fn.tree.paths(frozen), " trainable:", fn.tree.paths(trainable))

    def accuracy(params):
        return (net(params, images[high]).argmax(1) + 5 == labels[high]).float().mean()

    def loss(params):
        return F.cross_entropy(net(params, images[high]), labels[high] - 5)

    # Three ways to learn the new digits. They differ in nothing but in what the loss is a function of.
    def head_only(trainable):
        return loss(fn.tree.combine(trainable, frozen))

    def head_and_change(both):
        return loss(with_change(fn.tree.combine(both["trainable"], frozen), both["change"]))

    only_head = fn.tree.combine(trained(head_only, trainable, 60), frozen)
    learned = trained(head_and_change, {"trainable": trainable, "change": change}, 60)
    merged = with_change(fn.tree.combine(learned["trainable"], frozen), learned["change"])
    everything = trained(loss, params, 60)

    print("\n                   weights trained   accuracy on 5-9")
    for name, tree, result in (
        ("head alone", trainable, only_head),
        ("head and rank 2", {**trainable, **change}, merged),
        ("everything", params, everything),
    ):
        count = sum(tensor.numel() for tensor in fn.tree.flatten(tree).values())
        print(f"{name:<18}{count:>16}   {accuracy(result):.1%} {'*' * int(40 * accuracy(result))}")

    # What was put aside did not move, and the first params are still there: nothing was overwritten.
    assert torch.equal(only_head["body"]["weight"], params["body"]["weight"])
    assert not torch.equal(merged["body"]["weight"], params["body"]["weight"])
    assert torch.linalg.matrix_rank(merged["body"]["weight"] - params["body"]["weight"], rtol=1e-3) == 2
    assert accuracy(only_head) < accuracy(merged)

    # Merged params are params of the same net: its keys, its module, and no trace of the surgery.
    plain = fn.to_module(net, merged)
    assert list(plain.state_dict()) == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert torch.equal(plain(images), net(merged, images))
    print("\nmerged:", plain)


if __name__ == "__main__":
    main()
