"""What a trace is specialised on and refuses, and which forwards cannot be traced."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.cases.models import Branches
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize
from tests.program.traced_models import Refused, X

# --- what it is specialised on, and what it refuses ---


def test_it_says_what_it_is_for_and_refuses_the_rest_naming_every_misfit():
    net, params, buffers = fn.trace(Branches(), X, head="b")
    assert net.specialised == (
        "eval mode",
        "head: 'b'",
        "x: float32 (batch, 6)",
        'params["scale"]: float32',
    )
    assert all(line in net.source for line in net.specialised[1:])
    for wrong in (X[:, :5], X.double(), X[0], X[None], None):
        with pytest.raises(fn.ShapeError, match=r"x: expected float32 \(batch, 6\), got"):
            net.apply(params, buffers, wrong, head="b")
    with pytest.raises(fn.ShapeError) as caught:
        net.apply(params, buffers, X[:, :5], head="a")
    assert "head: expected 'b', got 'a'" in str(caught.value) and "got (4, 5) float32" in str(caught.value)
    assert "Trace it again" in str(caught.value) and "from_module" in str(caught.value)
    with pytest.raises(fn.ShapeError, match=r'params\["scale"\]: expected float32, got \(6,\) float64'):
        net.apply(fn.tree.to(params, torch.float64), buffers, X, head="b")


def test_another_mode_is_refused():
    net, params, buffers = fn.trace(Branches(), X)
    with pytest.raises(fn.ConversionError, match=r"traced in eval mode and is called in training mode.*train='both'"):
        net.apply(params, buffers, X, train=True, rng=0)
    with pytest.raises(fn.ConversionError, match="with some parts in training mode only"):
        net.apply(params, buffers, X, train="norm", rng=0)
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        fn.trace(Branches(), X, train=True)[0].apply(params, buffers, X, train=True)


def test_a_branch_on_the_batch_holds_for_every_batch_it_is_called_with():
    class Even(nn.Module):
        def forward(self, x):
            if x.shape[0] == 1:
                return x * 100
            return x.view(2, -1) if x.shape[0] % 2 == 0 else x

    net, params, _ = fn.trace(Even(), X)
    for size in (4, 2, 1):
        assert_identical(net(params, X[:size]), Even()(X[:size]))
    assert net.source.count("def forward(") == 2  # the batch of one has code of its own
    with pytest.raises(fn.ShapeError, match=r"x.shape\[0\] % 2.*test_trace_refusals.py.*got 3"):
        net(params, X[:3])


def test_sizes_stay_free_as_asked():
    class Mean(nn.Module):
        def forward(self, x, y):
            return (x.mean(1) + y.sum(1)) / x.shape[1]

    a, b = torch.rand(4, 5, 6), torch.rand(4, 5, 6)
    net, params, _ = fn.trace(Mean(), a, b, dynamic={"x": (0, 1), 1: (0, -2)})
    for rows, columns, other in ((4, 5, 5), (2, 7, 3), (3, 1, 2)):
        given = torch.rand(rows, columns, 6), torch.rand(rows, other, 6)
        assert_identical(net(params, *given), Mean()(*given))
    with pytest.raises(fn.ShapeError, match=r"y: expected float32 \(batch, y.shape\[1\], 6\), got \(3, 5, 6\)"):
        net(params, a, b[:3])
    fixed, *_ = fn.trace(Mean(), a, b, dynamic=())
    with pytest.raises(fn.ShapeError, match=r"x: expected float32 \(4, 5, 6\), got \(3, 5, 6\)"):
        fixed(params, a[:3], b[:3])
    with pytest.raises(ValueError, match=r"dynamic names \['z'\], the tensor inputs are \['x', 'y'\]"):
        fn.trace(Mean(), a, b, dynamic={"z": 0})
    with pytest.raises(ValueError, match=r"x has 3 axes, and no axis \[3\]"):
        fn.trace(Mean(), a, b, dynamic={"x": 3})
    with pytest.raises(ValueError, match="dynamic is"):
        fn.trace(Mean(), a, b, dynamic=True)
    with pytest.raises(ValueError, match="train is True, False"):
        fn.trace(Mean(), a, b, train="eval")


def test_a_batch_that_cannot_stay_free_is_said():
    module = nn.Sequential(nn.Flatten(0), nn.Linear(24, 1))
    with pytest.raises(fn.ConversionError, match=r"axis 0 of input cannot stay free: .* 4, as at .*dynamic=\(\)"):
        fn.trace(module, X)
    net, params, _ = fn.trace(module, X, dynamic=())
    assert_identical(net(params, X), module(X).detach())


# --- what cannot be traced ---


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("branch", r"stopped at .*traced_models.py:\d+ \(`if x.sum\(\) > 0:`\)"),
        ("print", r"stopped at .*traced_models.py:\d+ \(`print\("),
        ("attribute", r"uses plain, neither a parameter nor a buffer.*register_buffer"),
        ("checkpoint", r"cannot write down .*traced_models.py:\d+ \(`return torch.utils.checkpoint"),
        ("item", r"traced_models.py:\d+ \(`return \[x\] \* int"),
        ("object", r"the output is .* of Opaque: trace knows tensors"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_its_line(how, message, capsys):
    module = Refused(how)
    with global_generator_untouched(), pytest.raises(fn.ConversionError, match=message) as caught:
        fn.trace(module, X)
    assert "from_module" in str(caught.value)


class Unusual(nn.Module):
    """Sizes that depend on numbers, chained and viewed in-place changes, contexts, names that mean something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("F", torch.ones(6))
        self.register_buffer("ring", torch.zeros(3, 6))
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def scaled(self, fn):
        torch = self.F * fn
        return self.ring * torch

    def forward(self, x, fn=2):
        if self.how == "sizes":
            return x[x > 0].sum(), x.nonzero(), torch.where(x > 0)[0].shape[0] * fn
        if self.how == "chained":
            a = self.count.add_(1)
            b = (x * self.count).add_(a).mul_(2)
            self.count *= 3
            return a + 0, b, self.count.sub_(1)
        if self.how == "viewed":
            view = self.ring[1]
            view += x.mean(0)
            self.ring[0].copy_(x[0])
            self.ring = self.ring.roll(1, 0)
            return self.scaled(fn), view
        if self.how == "contexts":
            with torch.no_grad():
                running_mean = x.mean(0)
                with torch.enable_grad():
                    y = x * self.weight
                with torch.inference_mode(False), torch.autocast("cpu", dtype=BF16):
                    y = F.linear(y, self.weight[None])
            return F.instance_norm(x[None].mT.float(), running_mean, running_mean.abs() + 1), y * self.weight
        lambda_, is_, class_ = x + 1, x - 1, -2 * x
        input, list, print = lambda_ * is_, class_**2, -x
        return [input, list, print, -1 - x, (-x).abs(), x @ x.T @ x, ~(x > 0), x[:, None, ..., ::2], x[-1:, [0, -1]]]


BF16 = torch.bfloat16


@parametrize(how=["sizes", "chained", "viewed", "contexts", "names"], train=[False, True])
def test_unusual_code_is_written_down_exactly(how, train):
    module = Unusual(how)
    net, params, buffers = fn.trace(module, X, train=train)
    for x in (X, X[:3] * 2):
        given = clone((params, buffers, x))
        y, new = net.apply(params, buffers, x, train=train)
        assert_identical((params, buffers, x), given)
        again = copy.deepcopy(module).train(train)
        assert_identical(y, again(x))
        assert_identical(new, buffers_of(again))
    compile(net.source, "source", "exec")


def test_what_is_no_input_of_a_trace_is_refused():
    with pytest.raises(fn.ConversionError, match=r"input x is <.*object.*neither a tensor nor a constant"):
        fn.trace(Refused("none"), object())
    with pytest.raises(fn.ConversionError, match="trace takes plain tensors"):
        fn.trace(Refused("none"), X.to_sparse())
    with pytest.raises(TypeError, match=r"takes 2 positional arguments but 3 were given|too many positional"):
        fn.trace(Refused("none"), X, X)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # the module's own error, as it is
        fn.trace(Refused("none"), X[:, :5])
    with pytest.raises(fn.ConversionError, match=r"takes an nn.Module"):
        fn.trace(F.relu, X)


def test_code_that_asks_whether_it_is_compiled_does_what_it_does_outside():
    class Asks(nn.Module):
        def forward(self, x):
            return x + 1 if torch.compiler.is_compiling() else x - 1

    net, params, _ = fn.trace(Asks(), X)
    assert_identical(net(params, X), X - 1)


def test_code_that_does_otherwise_than_the_module_is_refused():
    class Grads(nn.Module):
        def forward(self, x):
            return x + 1 if isinstance(x, torch.fx.Proxy) or torch.nn.modules.activation._is_make_fx_tracing() else x

    with pytest.raises(fn.ConversionError, match=r"does not do what the module does:\n  \['output'\]: 24 of 24"):
        fn.trace(Grads(), X)
