"""Averages of weights: EMA, SWA, model soups and task vectors.

Params are trees of numbers, so averages of models are sums of trees: while one trains, of several that started from
the same weights, and of what fine-tuning changed.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import funcnet as fn


def main() -> None:
    torch.set_num_threads(1)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()
    test_images, test_labels, images, labels = images[1400:], labels[1400:], images[:1400], labels[:1400]
    net = fn.Sequential(fn.Linear(64, 32), fn.ReLU(), fn.Linear(32, 10))
    optimizer, ema, swa = fn.optim.SGD(lr=0.5), fn.optim.EMA(0.95), fn.optim.SWA()

    def loss(params, images, labels):
        return F.cross_entropy(net(params, images), labels)

    def accuracy(params, digits=range(10)):
        chosen = torch.isin(test_labels, torch.tensor(list(digits)))
        return (net(params, test_images[chosen]).argmax(1) == test_labels[chosen]).float().mean().item()

    def train(params, key, steps, images=images, labels=labels):
        """The params at the end, and two averages over the steps."""
        state, moving, plain = optimizer.init(params), ema.init(params), swa.init(params)
        for step in range(steps):
            batch = fn.random.uniform(fn.random.fold_in(key, step), (32,)).mul(len(images)).long()
            _, grads = fn.value_and_grad(loss)(params, images[batch], labels[batch])
            params, state = optimizer.step(params, grads, state)
            moving = ema.update(moving, params)
            if step >= steps // 2:
                plain = swa.update(plain, params)
        return params, moving["params"], plain["params"]

    # EMA and SWA: of the weights of one run. Both are trees like params, and can be saved, loaded and trained on.
    start, _ = net.init(0)
    last, moving, plain = train(start, fn.random.key(0), 200)
    print(f"last weights {accuracy(last):.3f}, their EMA {accuracy(moving):.3f}, their SWA {accuracy(plain):.3f}")
    assert accuracy(moving) > accuracy(last) < accuracy(plain)

    # A soup: the mean of models that were tuned from the same weights by other batches.
    tuned = [train(last, fn.random.key(seed), 40)[0] for seed in range(1, 5)]
    soup = fn.tree.map(lambda *weights: torch.stack(weights).mean(0), *tuned)
    print("tuned", *(f"{accuracy(params):.3f}" for params in tuned), f"soup {accuracy(soup):.3f}")
    assert accuracy(soup) >= min(accuracy(params) for params in tuned)

    # Task vectors: what tuning on some digits changed. Taken away, it unlearns them; added for others, it teaches them.
    def task_vector(digits):
        chosen = torch.isin(labels, torch.tensor(digits))
        return fn.tree.sub(train(start, fn.random.key(9), 60, images[chosen], labels[chosen])[0], start)

    low, high = task_vector([0, 1, 2, 3, 4]), task_vector([5, 6, 7, 8, 9])
    both = fn.tree.add(start, fn.tree.add(low, high))
    print("accuracy on 0-4 and on 5-9")
    for name, params in {"0-4": fn.tree.add(start, low), "5-9": fn.tree.add(start, high), "both": both}.items():
        print(f"    {name:<5} {accuracy(params, range(5)):.2f} {accuracy(params, range(5, 10)):.2f}")
    assert accuracy(both) > 0.5


if __name__ == "__main__":
    main()
