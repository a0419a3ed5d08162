"""Jacobians: what would have to change in the input for the output to change?

For an image and ten scores that is a table of 10 x 64 numbers, one picture for each score. A module gives one row at a
time, by a backward pass each. Where the score is a function of the image, the table is one call, fn.jacobian: it goes
backward for rows or forward for columns, whichever are fewer, and vmap does it for many images at once.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.func import jacfwd, jacrev

import funcnet as fn


def picture(image) -> list[str]:
    return ["".join(" .:-=+*#%@"[int(value * 9.99)] * 2 for value in row) for row in image.view(8, 8).tolist()]


def signs(image) -> list[str]:
    """Where ink would raise the score (+), lower it (-), or hardly matter."""
    limit = 0.4 * image.abs().max()
    marks = torch.where(image > limit, 1, torch.where(image < -limit, 2, 0)).view(8, 8).tolist()
    return ["".join(" +-"[mark] * 2 for mark in row) for row in marks]


def main() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()

    net = fn.Sequential(fn.Linear(64, 32), fn.Tanh(), fn.Linear(32, 10))
    params, _ = net.init(0)
    for _ in range(80):
        _, grads = fn.value_and_grad(lambda params: F.cross_entropy(net(params, images), labels))(params)
        params = fn.tree.map(lambda w, g: w - 1.0 * g, params, grads)

    def scores(image):
        return net(params, image)

    # Stateful: a backward pass for each of the ten scores.
    module = fn.to_module(net, params)
    assert type(module[0]) is nn.Linear
    image = images[3].clone().requires_grad_()
    output = module(image)
    rows = [torch.autograd.grad(score, image, retain_graph=True)[0] for score in output]

    # Stateless: the Jacobian of a function. Ten scores of 64 pixels: rows are fewer, so backward is the shorter way.
    jacobian = fn.jacobian(scores)(images[3])
    assert jacobian.shape == (10, 64)
    torch.testing.assert_close(jacobian, torch.stack(rows))
    torch.testing.assert_close(jacobian, jacrev(scores)(images[3]))  # torch.func's words for rows ...
    torch.testing.assert_close(jacobian, jacfwd(scores)(images[3]))  # ... and for 64 columns, each by a pass forward
    torch.testing.assert_close(
        jacobian, fn.jacobian(scores, chunk_size=3)(images[3])
    )  # three rows at once, to save memory

    # One direction alone needs no table: what happens to the scores as the image moves towards another one?
    towards = images[13] - images[3]
    value, change = fn.jvp(scores, (images[3],), (towards,))
    assert torch.equal(value, scores(images[3]))
    torch.testing.assert_close(change, jacobian @ towards, rtol=1e-4, atol=1e-4)

    # And one mixture of the scores? What is it made of, pixel by pixel?
    mixture = torch.linspace(-1, 1, 10)
    _, multiply = fn.vjp(scores, images[3])
    torch.testing.assert_close(multiply(mixture), mixture @ jacobian, rtol=1e-4, atol=1e-4)

    # For eight images at once, and for the weights instead of the image: the same words.
    assert torch.vmap(fn.jacobian(scores))(images[:8]).shape == (8, 10, 64)
    by_weights = fn.jacobian(net)(params, images[3])
    print({path: tuple(part.shape) for path, part in fn.tree.flatten(by_weights).items()})

    index = 3
    label, rival = scores(images[index]).topk(2).indices.tolist()
    print(f"\nan image of a {int(labels[index])}     what speaks for {label}    what speaks for {rival}")
    columns = picture(images[index]), signs(jacobian[label]), signs(jacobian[rival])
    for row in zip(*columns, strict=True):
        print("   ".join(row))

    # The pictures are no decoration: a small step along them moves the score as they say.
    step = 0.01 * jacobian[label] / jacobian[label].norm()
    foreseen, found = 0.01 * jacobian[label].norm(), (scores(images[index] + step) - scores(images[index]))[label]
    print(f"\na step of 0.01 along the picture of {label}: foreseen {foreseen:+.4f}, found {found:+.4f}")
    torch.testing.assert_close(found, foreseen, rtol=0.02, atol=0)


if __name__ == "__main__":
    main()
