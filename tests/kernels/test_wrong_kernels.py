"""Torch's wrong kernels: a test of each fails when torch has mended it, so that the table can be shortened."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet.kernels import _wrong_kernels
from tests.helpers import parametrize

MENDED = "torch computes this rightly now: take the row out of funcnet/layers/WRONG_KERNELS.md, and the detour out of "
TABLE = pathlib.Path(fn.__file__).parent / "layers" / "WRONG_KERNELS.md"


def _relative_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


NORMS = {
    "layer_norm": (lambda x: F.layer_norm(x, (5,)), (1,), fn.LayerNorm(5, elementwise_affine=False)),
    "batch_norm": (
        lambda x: F.batch_norm(x, None, None, training=True),
        (0,),
        fn.BatchNorm1d(5, affine=False, track_running_stats=False),
    ),
    "instance_norm": (lambda x: F.instance_norm(x[None])[0], (1,), fn.InstanceNorm1d(4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_w1_a_derivative_of_a_directional_derivative(name):
    by_torch, axes, net = NORMS[name]
    x, tangent = _randn(4, 5), _randn(4, 5, seed=1)

    def compose(x):
        centred = x - x.mean(axes, keepdim=True)
        return centred * (centred.square().mean(axes, keepdim=True) + 1e-5).rsqrt()

    def product(function):
        return torch.func.grad(lambda x: torch.func.jvp(lambda x: function(x).sin().sum(), (x,), (tangent,))[1])(x)

    expected = product(compose)
    assert _relative_difference(product(by_torch), expected) > 0.01, f"{MENDED}is_differentiated_twice"
    ours = product(lambda x: net({}, x[None])[0] if name == "instance_norm" else net({}, x))
    torch.testing.assert_close(ours, expected)


def _gradient(function, x, gradient_of_output):
    return torch.func.vjp(function, x)[1](gradient_of_output)[0]


def test_w2_instance_norm_of_one_image():
    x, gradient = _randn(1, 3, 4, 5), _randn(1, 4, 5, 3, seed=1).permute(0, 3, 1, 2)

    def compose(x):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    expected = _gradient(compose, x, gradient)
    assert _relative_difference(_gradient(F.instance_norm, x, gradient), expected) > 0.01, f"{MENDED}InstanceNorm"
    torch.testing.assert_close(_gradient(lambda x: fn.InstanceNorm2d(3)({}, x), x, gradient), expected)


@parametrize(train=[False, True])
def test_w3_batch_norm_of_one_image(train):
    x, gradient = _randn(1, 3, 4, 5), _randn(1, 20, 3, seed=1).transpose(1, 2).unflatten(2, (4, 5))
    net = fn.BatchNorm2d(3)
    params, buffers = net.init(0, dtype=torch.float64)

    def compose(x):
        if not train:
            return x / (1 + 1e-5) ** 0.5
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    def by_torch(x):
        return F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), training=train)

    expected = _gradient(compose, x, gradient)
    assert _relative_difference(_gradient(by_torch, x, gradient), expected) > 0.01, f"{MENDED}BatchNorm"
    ours = _gradient(lambda x: net.apply(params, buffers, x, train=train)[0], x, gradient)
    torch.testing.assert_close(ours, expected)


class CallsNorm(nn.Module):
    """Calls a norm of torch by its function, or a layer of it."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x):
        if isinstance(self.norm, nn.Module):
            return self.norm(x)
        return F.instance_norm(x) if self.norm == "instance" else F.batch_norm(x, None, None, training=True)


@parametrize(
    norm=[nn.InstanceNorm2d(3), "instance", nn.BatchNorm2d(3, affine=False, track_running_stats=False), "batch"]
)
def test_w2_and_w3_in_a_foreign_forward(norm):
    is_of_instances = norm == "instance" or isinstance(norm, nn.InstanceNorm2d)
    x = _randn(1, 3, 4, 5)
    gradient = _randn(1, 4, 5, 3, seed=1).permute(0, 3, 1, 2)
    if not is_of_instances:
        gradient = _randn(1, 20, 3, seed=1).transpose(1, 2).unflatten(2, (4, 5))
    net, params, buffers = fn.from_module(CallsNorm(norm))

    def run(x):
        return net.apply(params, buffers, x, train=True, rng=0)[0]

    expected = _gradient(run, x, gradient.contiguous())
    assert _relative_difference(_gradient(net.as_module().train(), x, gradient), expected) > 0.01
    torch.testing.assert_close(_gradient(run, x, gradient), expected)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(run(leaf), leaf, gradient)[0], expected)


class Shrinks(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=(3, 1), mode="bilinear", antialias=True)


def test_w5_in_a_foreign_forward():
    net, params, buffers = fn.from_module(Shrinks())
    x = _randn(1, 3, 6, 6)
    y, _ = net.apply(params, buffers, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, Shrinks()(x), rtol=0, atol=0)


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(_randn(3, 4)), nn.Parameter(_randn(3, 1, seed=1))

    def forward(self, x):
        return x @ torch._weight_norm(self.v, self.g, 0).T


def test_w4_the_second_derivative_of_weight_norm():
    v, g = _randn(3, 4), _randn(3, 1, seed=1)
    tangent = _randn(3, 4, seed=2)

    def product(function):
        return torch.func.grad(lambda v: (torch.func.grad(lambda v: function(v).sin().sum())(v) * tangent).sum())(v)

    expected = product(lambda v: v * (g / v.norm(dim=1, keepdim=True)))
    by_torch = product(lambda v: torch._weight_norm(v, g, 0))
    assert _relative_difference(by_torch, expected) > 0.01, f"{MENDED}kernels/_weight_norm.py"
    net, params, _ = fn.from_module(WeightNormed())
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(product(lambda v: net({**params, "v": v}, eye).T), expected)
    own = fn.parametrize.weight_norm(fn.Linear(4, 3, bias=False))
    names = fn.tree.flatten(own.init(0, dtype=torch.float64)[0])
    g_name, v_name = sorted(names)

    def run(v):
        return own(fn.tree.unflatten({g_name: g, v_name: v}), eye).T

    torch.testing.assert_close(product(run), expected)


def test_w5_antialiased_interpolation_to_one_column():
    x = _randn(1, 3, 6, 6)
    options = {"size": (3, 1), "mode": "bilinear", "antialias": True}
    by_torch = F.interpolate(x.contiguous(memory_format=torch.channels_last), **options)
    assert _relative_difference(by_torch, F.interpolate(x, **options)) > 0.01, f"{MENDED}_wrong_kernels.py"


MATRIX = _randn(4, 4)
LINEAR = {
    "solve": lambda A: torch.linalg.solve(A, MATRIX[:, :3]),
    "solve for a vector": lambda A: torch.linalg.solve(A, MATRIX[0]),
    "solve from the right": lambda A: torch.linalg.solve(A, MATRIX[:3], left=False),
    "det": torch.det,
    "slogdet": lambda A: torch.linalg.slogdet(A).logabsdet,
    "logdet": lambda A: (A @ A.mT + 1).logdet(),
    "householder_product": lambda A: torch.linalg.householder_product(A, A[:, 0] * 0.3),
}


class Applies(nn.Module):
    def __init__(self, name) -> None:
        super().__init__()
        self.function = LINEAR[name]

    def forward(self, A):
        return self.function(A)


@pytest.mark.parametrize("name", LINEAR)
def test_w8_a_derivative_of_a_directional_derivative_of_linear_algebra(name):
    A, tangent = _randn(4, 4, seed=3), _randn(4, 4, seed=4)

    def product(function):
        return torch.func.grad(lambda A: torch.func.jvp(lambda A: function(A).sin().sum(), (A,), (tangent,))[1])(A)

    def gradient(A):
        return torch.func.grad(lambda A: LINEAR[name](A).sin().sum())(A)

    expected = torch.func.jvp(gradient, (A,), (tangent,))[1]  # which torch has right
    torch.testing.assert_close(
        expected, (gradient(A + 1e-5 * tangent) - gradient(A - 1e-5 * tangent)) / 2e-5, rtol=1e-4, atol=1e-6
    )
    assert _relative_difference(product(LINEAR[name]), expected) > 0.01, f"{MENDED}kernels/_linear_algebra.py"
    net, _, _ = fn.from_module(Applies(name))
    torch.testing.assert_close(product(lambda A: net({}, A)), expected)
    torch.testing.assert_close(net({}, A), LINEAR[name](A), rtol=0, atol=0)


W6 = """
import torch, funcnet as fn
from torch.utils.checkpoint import checkpoint

def loss(w):
    return checkpoint(torch.sin, w, use_reentrant=False).sum()

w = torch.ones(3, requires_grad=True)
_, grads = fn.value_and_grad(torch.compile(loss, backend="eager"))(w.detach())
assert torch.equal(grads, torch.autograd.grad(loss(w), w)[0])
try:
    torch.compile(torch.func.grad(loss), backend="eager")(torch.ones(3))
except RuntimeError:
    print("compile fails")
try:
    torch.autograd.grad(loss(w), w)
except RuntimeError:
    print("checkpoint fails")
"""


@pytest.mark.slow
def test_w6_a_compiled_gradient_over_a_checkpoint_breaks_its_process():
    ended = subprocess.run([sys.executable, "-c", W6], capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[:2] == ["compile fails", "checkpoint fails"], f"{MENDED}the docs"


AFFINE_NORMS = {
    "layer_norm": (lambda x, w: F.layer_norm(x, (5,), w), (1,), fn.LayerNorm(5, bias=False)),
    "batch_norm": (
        lambda x, w: F.batch_norm(x, None, None, w, training=True),
        (0,),
        fn.BatchNorm1d(5, track_running_stats=False),
    ),
}


@pytest.mark.parametrize("name", AFFINE_NORMS)
@pytest.mark.parametrize("order", ["rows", "third"])
def test_w7_a_derivative_of_rows_and_a_third_derivative(name, order):
    by_torch, axes, net = AFFINE_NORMS[name]
    x, w, tangent = _randn(4, 5), _randn(5, seed=1), _randn(4, 5, seed=2)

    def compose(x, w):
        centred = x - x.mean(axes, keepdim=True)
        return centred * (centred.square().mean(axes, keepdim=True) + 1e-5).rsqrt() * w

    def by_net(x, w):
        return net({**net.init(0, dtype=torch.float64)[0], "weight": w}, x)

    def derive(function):
        def loss(x, w):
            return function(x, w).sin().sum()

        if order == "rows":
            return torch.func.grad(lambda x: torch.func.jacrev(loss, 1)(x, w).square().sum())(x)
        along = loss
        for _ in range(2):
            along = (lambda below: lambda x, w: (torch.func.grad(below)(x, w) * tangent).sum())(along)
        return torch.func.grad(along)(x, w)

    expected = derive(compose)
    assert _relative_difference(derive(by_torch), expected) > 0.01, f"{MENDED}is_differentiated_twice"
    torch.testing.assert_close(derive(by_net), expected)


def test_every_row_of_the_table_is_run_here():
    rows = {line.split("|")[1].strip() for line in TABLE.read_text().splitlines() if line.startswith("| W")}
    tested = {name.split("_")[1].upper() for name in globals() if name.startswith("test_w")}
    assert rows == tested
    assert {kernel.number for kernel in _wrong_kernels.WRONG_KERNELS.values()} == rows - {"W1", "W6", "W7", "W8"}


class Bitten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.norm = nn.BatchNorm2d(3), nn.InstanceNorm2d(3, affine=True)
        self.linear = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

    def forward(self, x):
        y = self.norm(self.bn(x)).flatten(2).transpose(1, 2)
        return F.interpolate(self.linear(y)[:, None], (4, 1), mode="bilinear", antialias=True)


def test_effects_name_the_faults_that_may_show():
    report = fn.effects(Bitten(), _randn(1, 3, 4, 4).float()).of("wrong kernel")
    assert sorted((effect.path, effect.detail.split(":")[0]) for effect in report) == [
        ("", "interpolate"),
        ("bn", "batch_norm"),
        ("linear.parametrizations.weight.0", "weight_norm"),
        ("norm", "instance_norm"),
    ]
    assert all(f"({number})" in "".join(effect.detail for effect in report) for number in ("W2", "W3", "W4", "W5"))
    two_images = _randn(2, 3, 4, 4).float()
    with torch.no_grad():
        assert [e.path for e in fn.effects(Bitten(), two_images[:1]).of("wrong kernel")] == [""]
    assert [e.path for e in fn.effects(nn.BatchNorm2d(3), two_images).of("wrong kernel")] == []


def test_the_comparison_names_them_too():
    from funcnet.compare import compare_module

    result = compare_module("torch.nn:BatchNorm2d(3)", ["float32[1,3,4,5]"], budget=0.01)
    assert any("batch_norm" in note and "WRONG_KERNELS.md" in note for note in result.notes)
    result = compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"], budget=0.01)
    assert not result.notes
