"""The facts about versions of torch, each seen by running torch alone: where one fails, torch has changed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from funcnet import _torch_versions


def test_bags_divide_gradients_by_the_counts_of_other_rows():
    indices, weight = torch.tensor([5, 1, 1]), torch.ones(6, 1, requires_grad=True)
    bag = F.embedding_bag(indices[None], weight, scale_grad_by_freq=True, mode="sum")
    (gradient,) = torch.autograd.grad(bag.sum(), weight)
    is_right = torch.equal(gradient.flatten(), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]))
    assert is_right is not _torch_versions.BAG_TAKES_WRONG_COUNTS
