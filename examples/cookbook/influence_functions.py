"""Influence functions: which training example made the model say this?

If an example were left out, the params would move by H^-1 times its gradient. The Hessian H is never written down:
it is a function of vectors, fn.hvp, and conjugate gradients solve with it. Koh and Liang, 2017.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import funcnet as fn

DAMPING = 1e-2


def solve(multiply, vector, rounds=60):
    """The tree x with multiply(x) = vector, by conjugate gradients."""
    x, residual = fn.tree.zeros_like(vector), vector
    direction, length = residual, fn.tree.dot(residual, residual)
    for _ in range(rounds):
        product = multiply(direction)
        step = length / fn.tree.dot(direction, product)
        x = fn.tree.add(x, fn.tree.scale(direction, step))
        residual = fn.tree.sub(residual, fn.tree.scale(product, step))
        new_length = fn.tree.dot(residual, residual)
        if new_length < 1e-20:
            break
        direction, length = fn.tree.add(residual, fn.tree.scale(direction, new_length / length)), new_length
    return x


def main() -> None:
    torch.set_num_threads(1)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.double() / 16, labels.long()
    test_image, test_label, images, labels = images[:1], labels[:1], images[1:201], labels[1:201].clone()
    images[0], labels[0] = test_image[0], (test_label[0] + 1) % 10  # the same picture under a wrong name

    net = fn.Linear(64, 10, dtype=torch.float64)
    params, _ = net.init(0)

    def loss(params, images, labels):
        penalty = DAMPING / 2 * fn.tree.dot(params, params)  # so that H can be inverted
        return F.cross_entropy(net(params, images), labels) + penalty

    def train(images, labels):
        lbfgs = fn.optim.LBFGS(max_iter=100, line_search_fn="strong_wolfe")
        new, _ = lbfgs.step(params, lambda p: loss(p, images, labels), lbfgs.init(params))
        return new

    trained = train(images, labels)

    # The influence of each training example on the loss of the test image: one solve, then one inner product each.
    def test_loss(params):
        return F.cross_entropy(net(params, test_image), test_label)

    _, gradient = fn.value_and_grad(test_loss)(trained)
    inverse = solve(lambda vector: fn.hvp(loss)(trained, vector, images, labels), gradient)

    def loss_of_one(params, image, label):
        return F.cross_entropy(net(params, image[None]), label[None])

    influence = fn.per_sample_dots(loss_of_one)(trained, inverse, images, labels) / len(images)
    worst = int(influence.argmin())
    print(
        f"leaving out image {worst}, which is called {labels[worst]}, would change the loss by {influence[worst]:+.4f}"
    )
    assert worst == 0

    # Is that so? Leave it out and train again.
    without = train(images[1:], labels[1:])
    change = test_loss(without) - test_loss(trained)
    print(f"left out and trained again: {change:+.4f}")
    assert 0.5 < change / influence[0] < 2


if __name__ == "__main__":
    main()
