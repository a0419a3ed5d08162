"""What stands around operations in a forward: transforms, autocast, locks, functions with gradients of their own."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import funcnet as fn

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LOCK = threading.Lock()


class Applies(nn.Module):
    """A module that hands itself and its input to a function."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.function, self.lock = nn.Linear(3, 3), function, threading.RLock()

    def forward(self, x):
        return self.function(self, x)


# --- transforms inside of a forward ---

TRANSFORMS = {
    "vmap": (lambda m, x: torch.vmap(lambda row: m.fc(row).sin())(x), "torch.vmap"),
    "grad": (lambda m, x: torch.func.grad(lambda x: m.fc(x).sin().sum())(x), "torch.func.grad"),
    "vjp": (lambda m, x: torch.func.vjp(lambda x: m.fc(x).sin(), x)[1](x)[0], "torch.func.grad, vjp"),
    "jacrev": (lambda m, x: torch.func.jacrev(lambda x: m.fc(x).sin())(x), "vjp or jacrev"),
    "jvp": (lambda m, x: torch.func.jvp(lambda x: m.fc(x).sin(), (x,), (x,))[1], "torch.func.jvp"),
    "jacfwd": (lambda m, x: torch.func.jacfwd(lambda x: m.fc(x).sin())(x), "torch.vmap"),
    "vmap of grad": (lambda m, x: torch.vmap(torch.func.grad(lambda row: m.fc(row).sum()))(x), "torch.vmap"),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_in_a_forward_is_refused_by_its_line_and_left(name):
    function, words = TRANSFORMS[name]
    for door in (fn.trace, fn.source):
        with pytest.raises(fn.ConversionError, match=rf"{__file__}:\d+ .*`.*: there .*{words}") as caught:
            door(Applies(function), X)
        assert "bug" not in str(caught.value)
    _, tangent = torch.func.jvp(torch.sin, (X,), (X,))
    assert torch.equal(tangent, X * X.cos())
    with torch.autograd.graph.save_on_cpu():
        nn.Linear(3, 3)(X).sum().backward()
    net, params, buffers = fn.from_module(Applies(function))
    assert torch.equal(net.apply(params, buffers, X)[0], Applies(function)(X))


def test_a_jvp_of_what_cannot_be_traced_leaves_forward_mode():
    module = Applies(lambda m, x: torch.func.jvp(lambda x: m.fc(x) if bool(x.sum() > 0) else x, (x,), (x,))[1])
    with pytest.raises(fn.ConversionError):
        fn.trace(module, X)
    assert torch.func.jvp(torch.sin, (X,), (X,))[1].shape == X.shape


# --- autocast ---


def cast_twice(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.fc(m.fc(x))


def cast_once(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.fc(x)
    return y * 2


def cast_and_stop(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        y = m.fc(x)
    return y * 2


@pytest.mark.parametrize("function", [cast_once, cast_twice, cast_and_stop])
def test_autocast_keeps_its_bits_and_those_of_gradients(function):
    module = Applies(function)
    net, params, _ = fn.trace(module, X)
    assert torch.equal(net(params, X), module(X))
    for style in ("stateless", "stateful"):
        assert "with torch.amp.autocast" in fn.source(module, X, style=style)


# --- functions with gradients of their own ---


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * grad * x.cos()  # twice as much, so that it shows whether this is what runs


def test_an_autograd_function_is_called_as_it_is():
    module = Applies(lambda m, x: Sine.apply(m.fc(x)))
    net, params, _ = fn.trace(module, X)
    assert "Sine.apply(" in net.source
    _, grads = fn.value_and_grad(lambda p: net(p, X).sum())(params)
    module(X).sum().backward()
    assert torch.equal(grads["fc"]["weight"], module.fc.weight.grad)
    assert "Sine.apply(" in fn.source(module, X)


# --- locks ---


def in_global_lock(m, x):
    with LOCK:
        return m.fc(x)


def in_own_lock(m, x):
    with m.lock:
        return m.fc(x)


@pytest.mark.parametrize("function", [in_global_lock, in_own_lock])
def test_a_lock_is_not_written_down(function):
    module = Applies(function)
    net, params, _ = fn.trace(module, X)
    assert torch.equal(net(params, X), module(X)) and "ock" not in net.source


class InstallsHooks(nn.Module):
    """A module whose first call sets something up by a function that torch's tracer refuses."""

    def __init__(self):
        super().__init__()
        self.fc, self.names = nn.Linear(3, 3), []

    def forward(self, x):
        if not self.names:
            with open(__file__) as file:
                self.names = file.readline().split()
        return self.fc(x) * len(self.names)


def test_what_the_first_call_sets_up_is_there_when_the_second_is_traced():
    module = InstallsHooks()
    net, params, _ = fn.trace(module, X)
    assert module.names == [] and torch.equal(net(params, X), module(X))


# --- outputs of local classes ---


def test_an_output_of_a_local_class_is_traced_and_named_by_source():
    @dataclass
    class Output:
        y: Tensor

    class Pair(NamedTuple):
        y: Tensor

    for cls in (Output, Pair):
        module = Applies(lambda m, x, cls=cls: cls(m.fc(x)))
        net, params, _ = fn.trace(module, X)
        assert type(net(params, X)) is cls
        with pytest.raises(
            fn.ConversionError, match=rf"{cls.__name__}, of .*<locals>.{cls.__name__}, at {__file__}:\d+"
        ):
            fn.source(module, X)


# --- exact ---


class AsksTheCompiler(nn.Module):
    """A module that sums in another order while it is compiled, by code that cannot be followed otherwise."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.scale = nn.Linear(64, 1), 1.0

    def forward(self, x):
        if torch.compiler.is_compiling():
            return self.scale * sum((self.fc.weight[0, i] * x[:, i : i + 1] for i in range(64)), self.fc.bias)
        with open(os.devnull):
            pass
        return self.fc(x)


def test_a_difference_of_rounding_is_named_and_taken_only_if_asked_for():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    module = AsksTheCompiler()
    for door in (fn.trace, fn.source):
        with pytest.raises(fn.ConversionError, match=r"by up to \d\.?\d*e-0\d; the largest is .*[\s\S]*exact=False"):
            door(module, x)
    assert fn.source(module, x, exact=False).startswith("# Not exact. The largest difference")
    net, params, _ = fn.trace(module, x, exact=False)
    assert net.source.startswith("# Not exact")
    torch.testing.assert_close(net(params, x), module(x))


def test_a_difference_of_more_than_rounding_is_refused_in_any_case():
    module = AsksTheCompiler()
    module.scale = 1.1
    with pytest.raises(fn.ConversionError, match="does not do what the module does") as caught:
        fn.source(module, torch.ones(4, 64), exact=False)
    assert "exact=False" not in str(caught.value)


def test_the_source_of_an_exact_model_does_not_speak_of_it():
    assert "exact" not in fn.source(nn.Linear(3, 3), X, exact=False)
