"""Training with differential privacy: DP-SGD.

A model should tell about digits, not about the one image of somebody's handwriting. So no image may move the weights by
more than a fixed length, and noise of that size hides which images were there. It takes the gradient of each image, or
only looks as if: fn.clipped_grads gives the sum of the clipped gradients without computing any of them.
"""

import importlib.util

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn

MAX_NORM, NOISE, RATE, STEPS = 1.0, 0.8, 0.1, 60


def private_grads(loss, params, images, labels, key, expected_size):
    """The mean of clipped gradients, with noise; it depends on the key alone, so that a run can be repeated."""
    # At most 1 MiB for what lies between a batch and its gradient: a batch of any size goes through in chunks.
    clipped, norms = fn.clipped_grads(loss, MAX_NORM, memory=2**20)(params, images, labels)
    noise = fn.random.normal_like(key, clipped)
    grads = fn.tree.scale(fn.tree.add(clipped, noise, alpha=NOISE * MAX_NORM), 1 / expected_size)
    return grads, norms


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float().view(-1, 1, 8, 8) / 16, labels.long()
    test_images, test_labels, images, labels = images[1200:], labels[1200:], images[:1200], labels[:1200]

    net = fn.Sequential(
        *(fn.Conv2d(1, 16, 3, padding=1), fn.GroupNorm(4, 16), fn.ReLU(), fn.MaxPool2d(2)),  # BatchNorm mixes images
        *(fn.Flatten(), fn.Linear(16 * 16, 10)),
    )
    params, _ = net.init(0)

    def loss(params, image, label):  # of one image, as a batch of one
        return F.cross_entropy(net(params, image[None]), label[None])

    # Which rule gives the gradients of each param; "vmap(grad)" would be one that costs a pass of its own.
    rules = fn.per_sample_rules(loss)(params, images[:2], labels[:2])
    print(rules)
    assert set(rules.values()) == {"convolution", "norm", "linear"}

    # Stateful: a backward pass for each image, as .grad knows only sums. Here for the first 20 of them.
    module = fn.to_module(net, params)
    assert type(module) is nn.Sequential
    expected = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    for image, label in zip(images[:20], labels[:20], strict=True):
        module.zero_grad()
        F.cross_entropy(module(image[None]), label[None]).backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in module.parameters()])
        for name, parameter in module.named_parameters():
            expected[name] += parameter.grad * (MAX_NORM / norm).clamp(max=1)

    # Stateless: the same sum by one backward pass over the batch.
    clipped, norms = fn.clipped_grads(loss, MAX_NORM)(params, images[:20], labels[:20])
    for path, grad in fn.tree.flatten(clipped).items():
        torch.testing.assert_close(grad, expected[path], rtol=1e-4, atol=1e-5)  # in another order, so rounded otherwise
    print(f"gradients of single images are {norms.min():.2f} to {norms.max():.2f} long, and are cut to {MAX_NORM}")

    # Each image comes into a step by chance, alone: that is what the accounting below is about. All draws are by Key.
    optimizer = fn.optim.SGD(lr=0.5, momentum=0.9)
    state = optimizer.init(params)
    for step in range(STEPS):
        choice, noise = fn.random.split(fn.random.fold_in(fn.random.key(7), step))
        chosen = fn.random.uniform(choice, (len(images),)) < RATE
        grads, _ = private_grads(loss, params, images[chosen], labels[chosen], noise, RATE * len(images))
        params, state = optimizer.step(params, grads, state)
    accuracy = (net(params, test_images).argmax(1) == test_labels).float().mean()
    print(f"after {STEPS} private steps {accuracy:.0%} of the other images are read rightly")
    assert accuracy > 0.7

    # How much may be learned of one image? Opacus knows the mathematics: pip install opacus
    if importlib.util.find_spec("opacus"):
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        for _ in range(STEPS):
            accountant.step(noise_multiplier=NOISE, sample_rate=RATE)
        print(f"epsilon {accountant.get_epsilon(delta=1e-5):.1f} at delta 1e-5")


if __name__ == "__main__":
    main()
