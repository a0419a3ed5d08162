"""What torch has no rule for: errors with the path and the way out, in nets and foreign forwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn

GRID = torch.linspace(-1, 1, 8).view(1, 2, 2, 2)
X = torch.linspace(0, 1, 16).view(1, 1, 4, 4)


class Sampler(nn.Module):
    def __init__(self, use) -> None:
        super().__init__()
        self.use = use

    def forward(self, x):
        return self.use(x)


class Model(nn.Module):
    def __init__(self, use) -> None:
        super().__init__()
        self.inner = Sampler(use)

    def forward(self, x):
        return self.inner(x)


def sample(x):
    return F.grid_sample(x, GRID, align_corners=False)


def scale_by_value(x):
    return x * x.sum().item()


def branch(x):
    return x if x.sum() > 0 else -x


def jvp(run):
    return torch.func.jvp(run, (X,), (X,))


def vmap(run):
    return torch.vmap(run)(X)


@pytest.mark.parametrize(
    ("use", "transform", "message"),
    [
        (sample, jvp, r"grid_sampler_2d has no rule for forward mode: take gradients \(torch.func.vjp for jvp"),
        (scale_by_value, vmap, r"calls .item\(\), which has no single value under vmap: .* torch.where"),
        (branch, vmap, "control flow that depends on data, .* write torch.where"),
    ],
)
def test_a_missing_rule_is_named_with_its_place_and_a_way_out(use, transform, message):
    net, params, _ = fn.from_module(Model(use))
    with pytest.raises(fn.TransformError, match=f"'inner'.*{message}"):
        transform(lambda x: net(params, x))

    @fn.compose(part=fn.compose(act=fn.ReLU())(lambda p, x: use(p.act(x))))
    def own(p, x):
        return p.part(x)

    with pytest.raises(fn.TransformError, match=f"'part'.*{message}"):
        transform(lambda x: own(own.init(0)[0], x))


class _Once(torch.autograd.Function):
    """A function that has one derivative only, as many kernels do."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("derivative for aten::once_backward is not implemented")


def test_a_backward_pass_without_a_rule_says_so():
    def loss(x):
        return _Once.apply(x).sum()

    with pytest.raises(fn.TransformError, match="torch's once_backward has no derivative: compute in other operations"):
        fn.value_and_grad(loss)(X)
