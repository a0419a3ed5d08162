"""Models in the styles of well-known libraries, and foreign nets in compiled code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.foreign.helpers import assert_same_as_module
from tests.helpers import assert_identical, parametrize


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class InvertedResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(SqueezeExcite(8), nn.Conv2d(8, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )
        self.path = DropPath(0.3)

    def forward(self, x):
        return x + self.path(self.body(x))


class BasicBlock(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4, 1, stride, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer1, self.layer2 = nn.Conv2d(3, 4, 3), BasicBlock(4, 1), BasicBlock(4, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layer2(self.layer1(self.stem(x))), 1), 1))


class ConvNextBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 5, padding=2, groups=3), nn.LayerNorm(3, eps=1e-6)
        self.fc1, self.fc2, self.gamma = nn.Linear(3, 8), nn.Linear(8, 3), nn.Parameter(1e-6 * torch.ones(3))
        self.path = DropPath(0.2)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.path((self.gamma * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(3), nn.LayerNorm(3)
        self.tokens, self.channels, self.drop = nn.Linear(64, 64), nn.Linear(3, 3), nn.Dropout(0.2)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop(self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.drop(self.channels(self.norm2(x)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.ups = nn.ModuleDict({"0": nn.ConvTranspose2d(8, 4, 2, 2)})
        self.out, self.norm, self.drop = nn.Conv2d(8, 1, 1), nn.GroupNorm(2, 8), nn.Dropout2d(0.2)

    def forward(self, x):
        skip = F.relu(self.enc[0](x))
        x = self.drop(F.relu(self.norm(self.enc[1](F.max_pool2d(skip, 2)))))
        return self.out(torch.cat([self.ups["0"](x), skip], 1))


class Attends(nn.Module):
    """Rotary positions made in __init__, a causal mask, fused projections, attention by torch's own kernel."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        angles = torch.outer(torch.arange(16.0), 1 / 10 ** torch.arange(2.0))
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = (
            torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (2, 2))) * self.turn).flatten(-2) for t in (q, k)
        )
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=0.1 * self.training, is_causal=True, scale=1 / math.sqrt(4)
        )
        return self.proj(y.transpose(1, 2).flatten(-2))


BY_HAND = [ResNet, ConvNextBlock, Mixer, UNet, Attends, lambda: nn.Sequential(InvertedResidual(3), InvertedResidual(3))]
IMAGES = torch.linspace(-3, 3, 2 * 3 * 64).sin().view(2, 3, 8, 8)


@parametrize(make=BY_HAND, train=[False, True])
def test_models_in_the_styles_of_libraries(make, train):
    torch.manual_seed(0)
    net, params, buffers = assert_same_as_module(make(), IMAGES, train=train, rng=3 if train else None)
    back = fn.to_module(net, params, buffers)
    assert_identical(fn.from_module(back)[1:], (params, buffers))
    key = fn.random.key(0)

    def loss(params, x):
        return net.apply(params, buffers, x[None], train=train, rng=key)[0].pow(2).sum()

    if make is Attends:
        return  # the complex product has no rule for one gradient per sample in this torch
    mapped = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, IMAGES)
    assert [leaf.shape[0] for leaf in fn.tree.flatten(mapped).values()] == [2] * len(fn.tree.flatten(params))


def test_a_compiled_foreign_net_is_not_compiled_again_for_other_tensors():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x, shift):
            return x * self.scale + shift

    net, params, buffers = fn.from_module(Own())
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda params, x, shift: net.apply(params, buffers, x, shift=shift)[0], backend=keep)
    for value in (1.0, 2.0, 3.0):
        x = torch.full((3, 4), value)  # the one before is gone by now, or still there
        torch.testing.assert_close(compiled(params, x, x + 1), 2 * x + 1)
    assert len(graphs) == 1
    assert torch.equal(compiled(params, x, x), 2 * x)  # one tensor given twice


def test_a_compiled_second_derivative_of_a_foreign_attention_is_that_of_eager_code():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None]) + F.mse_loss(q, k)

    torch.manual_seed(0)
    net, params, buffers = fn.from_module(Attends().double())
    x = torch.randn(2, 3, 4, dtype=torch.float64)

    def sum_of_gradients(p):
        grads = torch.func.grad(lambda p: net.apply(p, buffers, x)[0].sin().sum())(p)
        return sum(leaf.sum() for leaf in fn.tree.flatten(grads).values())

    second = torch.func.grad(sum_of_gradients)
    compiled = torch.compile(second, backend="aot_eager", fullgraph=True)(params)
    for path, leaf in fn.tree.flatten(second(params)).items():
        torch.testing.assert_close(fn.tree.flatten(compiled)[path], leaf)
