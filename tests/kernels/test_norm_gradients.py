"""Norms: right gradients where torch's kernels have wrong ones, and torch's bits wherever those are right."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcnet as fn
from tests.helpers import parametrize

SHAPES = [(1, 3, 4, 5), (2, 3, 1, 5), (2, 3, 5, 1), (1, 1, 4, 5), (2, 1, 4, 1), (1, 3, 4, 1, 5), (2, 3, 4, 5)]


def _flattened(t: Tensor) -> Tensor:
    """The layout of a gradient that comes back from ``y.flatten(2).transpose(1, 2)``."""
    return t.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).view(t.shape)


def _channels_last(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)


def _odd(t: Tensor) -> Tensor:
    """Channels-last, with a stride at axes of size 1 that means nothing."""
    t = _flattened(t)
    return t.as_strided(t.shape, [7 if size == 1 else stride for size, stride in zip(t.shape, t.stride(), strict=True)])


def _reversed_axes(t: Tensor) -> Tensor:
    axes = tuple(reversed(range(t.dim())))
    return t.permute(axes).contiguous().permute(axes)


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": _channels_last,
    "flattened": _flattened,
    "odd": _odd,
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "reversed": _reversed_axes,
}

BUFFERS = {"running_mean": torch.tensor([0.3, -0.2, 0.1]), "running_var": torch.tensor([0.8, 1.2, 2.0])}


def _case(kind: str, train: bool, tracks: bool, shape: tuple[int, ...]):
    """A net, its buffers and the function of torch that it stands for."""
    channels, rank = shape[1], len(shape) - 2
    net_class = getattr(fn, f"{kind}Norm{rank}d") if kind != "Sync" else fn.SyncBatchNorm
    options = {"affine": True} if kind == "Instance" else {}
    net = net_class(channels, track_running_stats=tracks, **options)
    buffers = {name: buffer[:channels] for name, buffer in BUFFERS.items()} if tracks else {}
    if tracks:
        buffers["num_batches_tracked"] = torch.tensor(0)
    uses_batch = train or not tracks
    function = F.instance_norm if kind == "Instance" else F.batch_norm

    def compute_by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var = (buffers[name].clone() if tracks else None for name in BUFFERS)
        return function(x, mean, var, weight, bias, uses_batch)

    def compute(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return net.apply({"weight": weight, "bias": bias}, buffers, x, train=train)[0]

    def compose(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        axes = tuple(range(2, x.dim())) if kind == "Instance" else (0, *range(2, x.dim()))
        front = (-1, *(1,) * rank)
        if uses_batch:
            mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        else:
            mean, var = (buffers[name].to(x.dtype).view(front) for name in BUFFERS)
        return (x - mean) / (var + 1e-5).sqrt() * weight.view(front) + bias.view(front)

    return compute, compute_by_torch, compose


def _results(compute, x: Tensor, grad: Tensor, dtype: torch.dtype) -> list[Tensor]:
    channels = x.shape[1]
    weight, bias = torch.linspace(1, 2, channels, dtype=dtype), torch.linspace(-1, 1, channels, dtype=dtype)
    inputs = [x.detach().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = compute(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@parametrize(kind=["Batch", "Instance", "Sync"])
@parametrize(train=[False, True])
@parametrize(tracks=[False, True])
@parametrize(shape=SHAPES)
def test_gradients_in_every_layout(kind, train, tracks, shape):
    # Regression: gradients of a batch of one were taken from wrong elements, with the layouts of torch's own bug
    compute, compute_by_torch, compose = _case(kind, train, tracks, shape)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    is_wrong = []
    for x_layout, grad_layout in itertools.product(LAYOUTS.values(), LAYOUTS.values()):
        args = x_layout(x), grad_layout(grad)
        results, by_torch = _results(compute, *args, torch.float32), _results(compute_by_torch, *args, torch.float32)
        right = _results(compose, *(arg.double() for arg in args), torch.float64)
        is_close = [torch.allclose(one.double(), two, 1e-3, 1e-4) for one, two in zip(by_torch, right, strict=True)]
        is_wrong.append(not all(is_close))
        if is_wrong[-1]:
            for result, expected in zip(results, right, strict=True):
                torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-4)
        else:
            assert all(map(torch.equal, results, by_torch))
    if shape[0] == 1 < shape[1]:
        assert any(is_wrong), "torch's kernel is right now: see funcnet/layers/WRONG_KERNELS.md, W2 and W3"


@parametrize(kind=["Batch", "Instance"])
@pytest.mark.parametrize("way", ["grad", "vmap(grad)", "value_and_grad", "double backward", "compile"])
def test_they_are_right_by_every_way_to_a_gradient(kind, way):
    net = getattr(fn, f"{kind}Norm2d")(3, affine=True)
    params, buffers = net.init(0, dtype=torch.float64)
    torch.manual_seed(0)
    xs, coefficients = torch.randn(2, 1, 3, 4, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)

    def loss(x):
        y = net.apply(params, buffers, x, train=True)[0]
        return (y.flatten(2).transpose(1, 2) @ coefficients.T).sin().sum()

    def right_loss(x):
        axes = (2, 3) if kind == "Instance" else (0, 2, 3)
        y = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
        return (y.flatten(2).transpose(1, 2) @ coefficients.T).sin().sum()

    def second(loss, x):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    torch._dynamo.reset()
    ways = {
        "grad": lambda: torch.func.grad(loss)(xs[0])[None],
        "vmap(grad)": lambda: torch.vmap(torch.func.grad(loss))(xs),
        "value_and_grad": lambda: fn.value_and_grad(loss)(xs[0])[1][None],
        "double backward": lambda: second(loss, xs[0])[None],
        "compile": lambda: torch.compile(torch.func.grad(loss), backend="aot_eager", fullgraph=True)(xs[0])[None],
    }
    by_way = second if way == "double backward" else lambda loss, x: torch.func.grad(loss)(x)
    results = ways[way]()
    for x, result in zip(xs, results, strict=False):
        torch.testing.assert_close(result, by_way(right_loss, x))


def _norm_nets():
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    yield "LayerNorm", fn.LayerNorm(4), x
    yield "LayerNorm of two axes", fn.LayerNorm((3, 4), elementwise_affine=False), x
    yield "BatchNorm1d", fn.BatchNorm1d(3), x
    yield "BatchNorm1d without statistics", fn.BatchNorm1d(3, track_running_stats=False), x
    yield "BatchNorm2d", fn.BatchNorm2d(3, momentum=None), x[..., None]
    yield "InstanceNorm1d", fn.InstanceNorm1d(3), x
    yield "InstanceNorm2d", fn.InstanceNorm2d(3, affine=True, track_running_stats=True), x[..., None]
    yield "GroupNorm", fn.GroupNorm(1, 3), x
    yield "RMSNorm", fn.RMSNorm(4), x


@pytest.mark.parametrize(("net", "x"), [pytest.param(net, x, id=name) for name, net, x in _norm_nets()])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("way", ["grad(jvp)", "value_and_grad(jvp)", "jvp(jvp)", "vmap(grad(jvp))", "dual"])
def test_a_directional_derivative_has_a_derivative(net, x, train, way):
    # Regression: torch's jvp of these norms takes mean and deviation for constants when it is differentiated
    params, buffers = net.init(0, dtype=torch.float64)
    tangent = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def function(x):
        return net.apply(params, buffers, x, train=train)[0].sin().sum()

    def slope(x):
        return torch.func.jvp(function, (x,), (tangent,))[1]

    def dual_slope(x):
        from torch.autograd import forward_ad

        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent

    step = 1e-5
    expected = torch.zeros_like(x)
    for index in itertools.product(*map(range, x.shape)):
        moved = torch.zeros_like(x)
        moved[index] = step
        expected[index] = (slope(x + moved) - slope(x - moved)) / (2 * step)
    if way == "jvp(jvp)":
        result = torch.func.jvp(slope, (x,), (tangent,))[1]
        torch.testing.assert_close(result, (expected * tangent).sum(), rtol=1e-5, atol=1e-6)
        return
    if way == "dual":
        leaf = x.clone().requires_grad_()
        (result,) = torch.autograd.grad(dual_slope(leaf), leaf)
    elif way == "vmap(grad(jvp))":
        result = torch.vmap(torch.func.grad(slope))(torch.stack([x, 2 * x]))[0]
    elif way == "value_and_grad(jvp)":
        _, result = fn.value_and_grad(slope)(x)
    else:
        result = torch.func.grad(slope)(x)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
