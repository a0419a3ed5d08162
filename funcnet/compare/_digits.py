"""Real data that needs no download: scikit-learn's handwritten digits, 1797 grey images of 8 by 8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from funcnet.compare._errors import CompareError

TEST_SIZE = 360


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) in [0, 1] and their labels (N,), split into a training set and a test set."""

    train_x: Tensor
    train_labels: Tensor
    test_x: Tensor
    test_labels: Tensor

    def iter_batches(self, size: int, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``count`` batches of training images and labels; ``seed`` decides the order in each epoch."""
        generator = torch.Generator().manual_seed(seed)
        index_batches: list[Tensor] = []
        for _ in range(count):
            if not index_batches:
                order = torch.randperm(len(self.train_labels), generator=generator)
                index_batches = [indices for indices in order.split(size) if len(indices) == size]
            indices = index_batches.pop()
            yield self.train_x[indices], self.train_labels[indices]


def load_digits() -> Digits:
    """Load the digits, with the same split on every machine.

    Raises:
        CompareError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise CompareError(
            'the handwritten digits come with scikit-learn, which is not installed: pip install "funcnet[cli]".'
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).div(16).view(-1, 1, 8, 8)
    y = torch.tensor(labels, dtype=torch.long)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    return Digits(x[train], y[train], x[test], y[test])
