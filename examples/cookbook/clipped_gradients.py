"""Clipped gradients of single examples, as for differential privacy: a CNN and a transformer.

fn.clipped_grads takes the loss of one example and returns the sum of the clipped gradients, and the norms before.
It is one backward pass over the batch; no gradient of a single example is made. Lesson 27 adds the noise and the
accounting.
"""

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn


def by_a_loop(loss, max_norm, params, *batch):
    """The same sum, one example after the other."""
    total = fn.tree.zeros_like(params)
    for example in zip(*batch, strict=True):
        _, grads = fn.value_and_grad(loss)(params, *example)
        total = fn.tree.add(total, fn.tree.scale(grads, (max_norm / fn.tree.norm(grads)).clamp(max=1)))
    return total


def main() -> None:
    torch.set_num_threads(1)
    key = fn.random.key(0)

    # A CNN. It has no BatchNorm: a norm over the batch would mix the examples.
    cnn = fn.Sequential(
        *(fn.Conv2d(3, 8, 3), fn.GroupNorm(2, 8), fn.ReLU(), fn.AdaptiveAvgPool2d(2)),
        *(fn.Flatten(), fn.Linear(32, 4)),
    )

    def image_loss(params, image, label):  # of one image, as a batch of one
        return F.cross_entropy(cnn(params, image[None]), label[None])

    # A transformer: a module of your own, converted. Its forward runs as it is.
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 5)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, tokens):
            return self.head(self.block(self.embed(tokens)))

    tagger, tagger_params, tagger_buffers = fn.from_module(Tagger())

    def text_loss(params, tokens, tags, rng):  # in training mode: each text has a dropout mask of its own
        logits, _ = tagger.apply(params, tagger_buffers, tokens[None], train=True, rng=rng)
        return F.cross_entropy(logits[0], tags)

    images, labels = fn.random.normal(key, (12, 3, 8, 8)), torch.arange(12) % 4
    tokens, tags = torch.arange(12 * 6).view(12, 6) % 20, torch.arange(12 * 6).view(12, 6) % 5
    masks = fn.random.split(key, 12)

    for name, loss, params, batch in (
        ("CNN", image_loss, cnn.init(0)[0], (images, labels)),
        ("transformer", text_loss, tagger_params, (tokens, tags, masks)),
    ):
        clipped, norms = fn.clipped_grads(loss, max_norm=1.0)(params, *batch)
        expected = by_a_loop(loss, 1.0, params, *batch)
        torch.testing.assert_close(clipped, expected, rtol=1e-4, atol=1e-5)  # summed in another order
        print(f"{name}: norms {norms.min():.2f} to {norms.max():.2f}, {sum(norms > 1)} of {len(norms)} are clipped")


if __name__ == "__main__":
    main()
