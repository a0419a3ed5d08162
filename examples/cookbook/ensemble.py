"""An ensemble trained in one step, saved as ordinary state_dicts.

Params with one more axis are many models: torch.vmap makes one batched call of all of them, and the optimizer steps
them as one tree. At the end each member is a file that nn.Module loads.
"""

import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import funcnet as fn

MEMBERS = 5


def main() -> None:
    torch.set_num_threads(1)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()
    test_images, test_labels, images, labels = images[400:], labels[400:], images[:400], labels[:400]

    net = fn.Sequential(fn.Linear(64, 32), fn.ReLU(), fn.Linear(32, 10))
    members, _ = torch.vmap(net.init)(fn.random.split(fn.random.key(0), MEMBERS))
    optimizer = fn.optim.AdamW(lr=3e-3)
    state = optimizer.init(members)

    def loss(members, images, labels):
        logits = torch.vmap(net)(members, images)  # each member sees a batch of its own
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * MEMBERS

    for step in range(150):
        key = fn.random.fold_in(fn.random.key(1), step)
        batch = fn.random.uniform(key, (MEMBERS, 32)).mul(len(images)).long()
        _, grads = fn.value_and_grad(loss)(members, images[batch], labels[batch])
        members, state = optimizer.step(members, grads, state)

    probabilities = torch.vmap(net, in_dims=(0, None))(members, test_images).softmax(-1)
    alone = (probabilities.argmax(-1) == test_labels).float().mean(1)
    together = (probabilities.mean(0).argmax(-1) == test_labels).float().mean()
    unsure = probabilities.std(0).mean(1)
    wrong = probabilities.mean(0).argmax(-1) != test_labels
    print("alone", *(f"{accuracy:.3f}" for accuracy in alone), f"together {together:.3f}")
    print(f"disagreement where right {unsure[~wrong].mean():.3f}, where wrong {unsure[wrong].mean():.3f}")
    assert together > alone.mean()
    assert unsure[wrong].mean() > unsure[~wrong].mean()

    # Out: one state_dict for each member, as if it had been trained alone.
    with tempfile.TemporaryDirectory() as folder:
        for number, params in enumerate(fn.tree.unstack(members)):
            fn.checkpoint.save(f"{folder}/member{number}.pt", fn.to_state_dict(net, params))
        module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        module.load_state_dict(torch.load(f"{folder}/member3.pt"))
    assert torch.equal(module(test_images), net(fn.tree.unstack(members)[3], test_images))

    # And in: modules that were trained elsewhere are an ensemble when their params are stacked.
    back = fn.tree.stack([fn.from_module(fn.to_module(net, params))[1] for params in fn.tree.unstack(members)])
    assert torch.equal(back["0"]["weight"], members["0"]["weight"])


if __name__ == "__main__":
    main()
