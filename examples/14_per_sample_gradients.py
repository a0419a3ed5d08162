"""A gradient for each example.

loss.backward() adds the gradients of all examples before anyone can look. Which image does the model learn most from?
Which would change the weights so much that it could be recognised in them? For that each needs its own gradient: a
loop of backward passes with a module, vmap(grad(loss)) with a pure function. Lesson 27 trains with cut gradients.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn


def picture(image) -> list[str]:
    return ["".join(" .:-=+*#%@"[int(value * 9.99)] * 2 for value in row) for row in image.view(8, 8).tolist()]


def norm(tree) -> torch.Tensor:
    """One number for each example: the length of its gradient, all layers together."""
    return sum(grad.flatten(1).square().sum(1) for grad in fn.tree.flatten(tree).values()).sqrt()


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images[:256].float() / 16, labels[:256].long()

    net = fn.Sequential(fn.Linear(64, 32), fn.ReLU(), fn.Linear(32, 10))
    params, _ = net.init(0)

    def loss(params, image, label):
        return F.cross_entropy(net(params, image), label)

    def mean_loss(params):
        return F.cross_entropy(net(params, images), labels)

    for _ in range(60):
        _, grads = fn.value_and_grad(mean_loss)(params)
        params = fn.tree.map(lambda w, g: w - 0.5 * g, params, grads)

    # Stateful: one backward pass for each image, and .grad emptied each time.
    module = fn.to_module(net, params)
    assert type(module) is nn.Sequential
    rows = []
    for image, label in zip(images, labels, strict=True):
        module.zero_grad()
        F.cross_entropy(module(image), label).backward()
        rows.append({name: parameter.grad.clone() for name, parameter in module.named_parameters()})

    # Stateless: the gradient is a function of one example, and vmap maps it over all of them.
    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, images, labels)

    for path, grads in fn.tree.flatten(per_sample).items():
        # Not equal bits: one kernel for all images adds in another order than a kernel for each.
        torch.testing.assert_close(grads, torch.stack([row[path] for row in rows]))
    print({path: tuple(grads.shape) for path, grads in fn.tree.flatten(per_sample).items()})

    # Look at the two ends: what it knows by heart, and what it cannot make out.
    lengths = norm(per_sample)
    easy, hard = lengths.argmin(), lengths.argmax()
    guesses = net(params, images).argmax(1)
    print(f"\n{'a ' + str(int(labels[easy])):<19}{'a ' + str(int(labels[hard]))}, taken for a {guesses[hard]}")
    print(f"gradient {lengths[easy]:<10.4f}gradient {lengths[hard]:.2f}")
    for left, right in zip(picture(images[easy]), picture(images[hard]), strict=True):
        print(f"{left}   {right}")
    assert lengths[hard] > 100 * lengths[easy]

    # Differential privacy begins here: cut each gradient to a length, so that no image can say much, then average.
    limit = lengths.median()
    scale = (limit / lengths).clamp(max=1.0)
    clipped = fn.tree.map(lambda g: g * scale.view(-1, *[1] * (g.dim() - 1)), per_sample)
    assert torch.all(norm(clipped) <= limit * 1.0001)
    mean = fn.tree.map(lambda g: g.mean(0), clipped)

    # For lengths and cut sums nobody has to write 256 gradients down: one backward pass over the batch gives both.
    total, same_lengths = fn.clipped_grads(loss, limit)(params, images, labels)
    torch.testing.assert_close(same_lengths, lengths)
    torch.testing.assert_close(fn.tree.scale(total, 1 / 256), mean)
    before = mean_loss(params)
    after = mean_loss(fn.tree.map(lambda w, g: w - 0.5 * g, params, mean))
    print(f"\na step with gradients cut to {limit:.3f}: loss {before:.4f} -> {after:.4f}")
    assert after < before


if __name__ == "__main__":
    main()
