"""Activations beyond the table: arguments, derivatives that torch lacks, warnings, words of errors."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, parametrize


def test_old_names_of_the_bounds_of_hardtanh_warn_and_are_gone_afterwards():
    with pytest.warns(FutureWarning, match="renamed to `m.._val`") as caught:
        net = fn.Hardtanh(min_value=-2.0, max_value=3.0)
    assert len(caught) == 2
    assert net == fn.Hardtanh(-2.0, 3.0)
    assert (net.min_val, net.max_val, net.min_value, net.max_value) == (-2.0, 3.0, None, None)


def test_the_first_slope_of_prelu_is_an_argument_and_init_stays_a_method():
    net = fn.PReLU(3, init=0.5)
    assert_identical(net.init(0), ({"weight": torch.full((3,), 0.5)}, {}))
    assert net != fn.PReLU(3)
    assert fn.from_module(nn.PReLU(3, 0.5))[0] == net


REFUSED = {
    "Softshrink(-0.1)": lambda: fn.Softshrink(-0.1),
    "CELU(0)": lambda: fn.CELU(0),
    "GELU('sigmoid')": lambda: fn.GELU("sigmoid"),
    "RReLU(0.3,0.1)": lambda: fn.RReLU(0.3, 0.1),
    "Hardtanh(1,1)": lambda: fn.Hardtanh(1, 1),
    "AlphaDropout(1.5)": lambda: fn.AlphaDropout(1.5),
    "FeatureAlphaDropout(-0.5)": lambda: fn.FeatureAlphaDropout(-0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_would_fail_in_a_call_are_refused_at_construction(name):
    with pytest.raises((ValueError, AssertionError), match=r"0|none|lower|greater|between"):
        REFUSED[name]()


WRONG = [
    (fn.Softmax2d(), (2, 3), r"expected input \(N, C, H, W\) or \(C, H, W\), got input \(2, 3\)"),
    (fn.GLU(), (2, 3), r"expected input with an even size in axis -1, got input \(2, 3\)"),
    (fn.GLU(2), (2, 4), r"expected input with an even size in axis 2, got input \(2, 4\)"),
    (fn.PReLU(3), (2, 4), r"expected input \(N, 3, \*\) or \(3,\), got input \(2, 4\)"),
    (fn.Softmax(3), (2, 4), r"expected input with an axis 3, got input \(2, 4\)"),
    (fn.Softmin(-4), (2, 4), r"expected input with an axis -4, got input \(2, 4\)"),
    (fn.LogSoftmax(2), (2, 4), r"expected input with an axis 2, got input \(2, 4\)"),
]


@pytest.mark.parametrize(("net", "shape", "words"), WRONG, ids=[str(net) for net, _, _ in WRONG])
def test_wrong_inputs_are_refused_with_path_expected_and_got(net, shape, words):
    model = fn.Sequential(fn.Identity(), fn.Sequential(fn.Identity(), net))
    with pytest.raises(fn.ShapeError, match=rf"{type(net).__name__} at '1\.1': {words}"):
        model(model.init(0)[0], torch.ones(shape))


def test_a_wrong_rank_for_feature_alpha_dropout_is_refused():
    with pytest.raises(fn.ShapeError, match=r"expected input \(N, C, \*\), got input \(5,\)"):
        fn.FeatureAlphaDropout().apply({}, {}, torch.ones(5), train=True, rng=0)


@parametrize(name=["Softmax", "Softmin", "LogSoftmax"], rank=[0, 1, 2, 3, 4])
def test_a_softmax_without_an_axis_warns_and_chooses_as_the_module_does(name, rank):
    x = torch.randn((2,) * rank)
    with pytest.warns(UserWarning, match="Implicit dimension choice") as ours:
        y = getattr(fn, name)()({}, x)
    with pytest.warns(UserWarning, match="Implicit dimension choice") as theirs:
        assert_identical(y, getattr(nn, name)()(x))
    assert [str(warning.message) for warning in ours] == [str(warning.message) for warning in theirs]


# --- derivatives ---


def test_hardsigmoid_has_the_second_derivatives_that_its_kernel_lacks():
    net = fn.Hardsigmoid()
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)

    def loss(x):
        return (net({}, x) ** 2).sum()

    inside = (x.abs() < 3).double()
    expected = torch.diag(inside / 18)
    torch.testing.assert_close(torch.func.hessian(loss)(x), expected)
    torch.testing.assert_close(torch.vmap(torch.func.hessian(loss))(torch.stack([x, x]))[1], expected)
    slope = fn.value_and_grad(lambda x: fn.value_and_grad(loss)(x)[1].sum())(x)[1]
    torch.testing.assert_close(slope, inside / 18)


def test_hardsigmoid_composed_for_second_derivatives_has_the_bits_of_the_kernel():
    x = torch.randn(1000) * 4

    def value(x):
        return fn.Hardsigmoid()({}, x)

    y, _ = torch.func.jvp(lambda x: torch.func.jvp(value, (x,), (x,))[0], (x,), (x,))
    assert_identical(y, F.hardsigmoid(x))


@parametrize(net=[fn.GLU(), fn.GLU(0), fn.Hardsigmoid(), fn.Upsample(7, mode="nearest-exact"), fn.RReLU()])
def test_batches_of_directional_derivatives_are_a_loop_without_warnings(net):
    x, t = torch.randn(2, 3, 2, 4, 4)

    def along(x, t):
        return torch.func.jvp(lambda x: net({}, x), (x,), (t,))[1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch, for its own use of TorchScript
        mapped = torch.vmap(along)(x, t)
    torch.testing.assert_close(mapped, torch.stack([along(*pair) for pair in zip(x, t, strict=True)]))


@parametrize(name=["ELU", "CELU", "SELU"])
def test_gradients_of_slices_are_rounded_as_in_the_module_in_place(name):
    grads = []
    for form in ("net", "module"):
        x = torch.linspace(-3, 3, 400).view(2, 10, 20).requires_grad_()
        part = (x * 1.0)[:, 2:7, ::3]
        y = getattr(fn, name)(inplace=True)({}, part) if form == "net" else getattr(nn, name)(inplace=True)(part)
        y.backward(torch.linspace(0.5, 1.5, y.numel()).view(y.shape))
        grads.append((y.detach(), x.grad))
    assert_identical(*grads)


# --- draws ---


def test_slopes_of_rrelu_are_drawn_from_a_key_for_each_element_between_the_bounds():
    net, key = fn.RReLU(0.2, 0.4), fn.random.key(0)
    x = -torch.ones(2000)
    slopes = -net.apply({}, {}, x, train=True, rng=key)[0]
    assert slopes.min() >= 0.2 and slopes.max() <= 0.4
    assert abs(slopes.mean().item() - 0.3) < 0.01
    assert len(slopes.unique()) > 1900
    assert_identical(net.apply({}, {}, -x, train=True, rng=key)[0], -x)


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(100_000)
    y = fn.AlphaDropout(0.3).apply({}, {}, x, train=True, rng=fn.random.key(0))[0]
    assert abs(y.mean().item()) < 0.02
    assert math.isclose(y.var().item(), 1, abs_tol=0.02)


def test_a_seed_replays_the_draws_of_a_whole_model():
    module = nn.Sequential(
        nn.RReLU(), nn.AlphaDropout(0.3), nn.RReLU(0.1, 0.1), nn.FeatureAlphaDropout(0.2), nn.Dropout()
    )
    net, params, buffers = fn.from_module(module)
    x = torch.randn(4, 6, 5)
    y, _ = net.apply(params, buffers, x, train=True, rng=3)
    torch.manual_seed(3)
    assert_identical(y, module(x))
