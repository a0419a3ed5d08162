"""Between two models: averages, and the landscape of the loss.

Params are values, so there is arithmetic of models: the mean of two, a point a third of the way, a step past the end.
Does the loss stay low on the way from one trained model to another? Between two runs that began alike it does, and
their average is better than either of them may be; between strangers there is a wall. (--png FILE draws it.)
"""

import copy
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn


def draw(file, shares, **curves):
    import matplotlib.pyplot as plt

    for name, losses in curves.items():
        plt.plot(shares, losses, marker="o", label=name.replace("_", " "))
    plt.xlabel("share of the other model")
    plt.ylabel("loss")
    plt.legend()
    plt.savefig(file)
    plt.close()


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()

    net = fn.Sequential(fn.Linear(64, 32), fn.ReLU(), fn.Linear(32, 10))

    def loss(params, part=slice(None)):
        return F.cross_entropy(net(params, images[part]), labels[part])

    def trained(params, part, steps=60):
        for _ in range(steps):
            _, grads = fn.value_and_grad(loss)(params, part)
            params = fn.tree.map(lambda w, g: w - 0.5 * g, params, grads)
        return params

    # Two runs from the same young model, each on its own half of the images; and one from another seed.
    even, odd = slice(0, None, 2), slice(1, None, 2)
    young = trained(net.init(0)[0], slice(None), steps=20)
    one, sibling = trained(young, even), trained(young, odd)
    stranger = trained(net.init(1)[0], odd, steps=80)

    def between(left, right, share):
        return fn.tree.map(lambda a, b: torch.lerp(a, b, share), left, right)

    # Stateful: a module to copy, its weights overwritten for each point.
    module, other = fn.to_module(net, one), fn.to_module(net, stranger)
    assert type(module) is nn.Sequential
    walk = copy.deepcopy(module)
    shares = torch.linspace(-0.25, 1.25, 13)
    losses_module = []
    with torch.no_grad():
        for share in shares:
            for weight, a, b in zip(walk.parameters(), module.parameters(), other.parameters(), strict=True):
                weight.copy_(torch.lerp(a, b, share))
            losses_module.append(F.cross_entropy(walk(images), labels))

    # Stateless: a point is an expression, and all points are one call.
    for share, expected in zip(shares, losses_module, strict=True):
        assert torch.equal(loss(between(one, stranger, share)), expected)

    def along(left, right):
        return torch.vmap(lambda share: loss(between(left, right, share)))(shares)

    to_stranger, to_sibling = along(one, stranger), along(one, sibling)
    torch.testing.assert_close(to_stranger, torch.stack(losses_module))

    print("share   to a sibling           to a stranger")
    for share, near, far in zip(shares, to_sibling, to_stranger, strict=True):
        print(f"{share:+.3f}  {near:.3f} {'*' * int(16 * near):<16} {far:.3f} {'*' * int(16 * far)}")

    # The middle of two siblings is a good model. The middle of two strangers knows nearly nothing.
    middle = between(one, sibling, 0.5)
    assert loss(middle) < max(loss(one), loss(sibling))
    assert loss(between(one, stranger, 0.5)) > 2 * loss(middle)

    # But strangers meet, too: hidden units have no order, so put those of one model in the order of the other.
    def reordered(params, order):
        return {
            "0": {"weight": params["0"]["weight"][order], "bias": params["0"]["bias"][order]},
            "2": {"weight": params["2"]["weight"][:, order], "bias": params["2"]["bias"]},
        }

    def features(params):
        return F.normalize(net[0](params["0"], images).relu(), dim=0)

    alike = features(one).T @ features(stranger)  # (units of one, units of the stranger)
    order, free = [], set(range(32))
    for unit in alike.max(1).values.argsort(descending=True).tolist():
        best = max(free, key=lambda candidate, unit=unit: alike[unit, candidate].item())
        free.remove(best)
        order.append((unit, best))
    same_function = reordered(stranger, torch.tensor([best for _, best in sorted(order)]))
    torch.testing.assert_close(loss(same_function), loss(stranger))
    wall, lower = loss(between(one, stranger, 0.5)), loss(between(one, same_function, 0.5))
    print(f"\nhalf way to the stranger: {wall:.3f}; with its units put in our order: {lower:.3f}")
    assert lower < wall

    if sys.argv[1:2] == ["--png"]:
        reordered_stranger = along(one, same_function)
        draw(sys.argv[2], shares, sibling=to_sibling, stranger=to_stranger, stranger_in_our_order=reordered_stranger)


if __name__ == "__main__":
    main()
