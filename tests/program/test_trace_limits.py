"""trace: what it writes down exactly although it is unusual, and what it refuses with its line."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize
from tests.program.traced_models import X


class Refused(nn.Module):
    TABLE = torch.ones(6)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(6, 6)
        self.plain = torch.ones(6)

    def forward(self, x):
        if self.how == "branch":
            if x.sum() > 0:
                return x
        elif self.how == "print":
            print("x", end="")
        elif self.how == "attribute":
            return x + self.plain
        elif self.how == "checkpoint":
            return torch.utils.checkpoint.checkpoint(self.fc, x, use_reentrant=False)
        elif self.how == "item":
            return [x] * int(x.argmax())
        elif self.how == "object":
            return Opaque(x)
        return self.fc(x)


class Opaque:
    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("branch", r"stopped at .*test_trace_limits.py:\d+ \(`if x.sum\(\) > 0:`\)"),
        ("print", r"stopped at .*test_trace_limits.py:\d+ \(`print\("),
        ("attribute", r"uses plain, neither a parameter nor a buffer.*register_buffer"),
        ("checkpoint", r"cannot write down .*test_trace_limits.py:\d+ \(`return torch.utils.checkpoint"),
        ("item", r"test_trace_limits.py:\d+ \(`return \[x\] \* int"),
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
