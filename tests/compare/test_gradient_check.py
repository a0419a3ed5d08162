"""Gradients are compared with finite differences, so that a gradient which is wrong in both forms is no comfort."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from funcnet.compare import GradientCheck, NotPossible, compare_module
from funcnet.compare._gradient_check import check_gradient
from tests.compare import zoo

RIGHT = {
    "linear": (nn.Linear(3, 2), torch.randn(4, 3)),
    "corners and draws": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()),
        torch.randn(4, 3, 8, 8),
    ),
    "integers": (nn.Embedding(5, 4), torch.randint(5, (3, 2))),
    "no params, in place": (nn.ReLU(inplace=True), torch.randn(4, 5)),
    "narrow": (nn.Linear(3, 2).bfloat16(), torch.randn(4, 3).bfloat16()),
    "complex": (nn.Linear(3, 2, dtype=torch.complex64), torch.randn(4, 3, dtype=torch.complex64)),
    "tied": (zoo.Tied(), torch.randint(5, (2, 3))),
    "recurrent": (nn.LSTM(3, 4), torch.randn(5, 2, 3)),
    "attention": (nn.TransformerEncoderLayer(8, 2, batch_first=True), torch.randn(2, 3, 8)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_err_by_rounding_in_both_forms(name):
    module, x = RIGHT[name]
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    check = check_gradient(module, (x,), {}, seed=0)
    assert isinstance(check, GradientCheck), check
    assert all(error < 1000 for error in check.errors.values())
    assert check.passes
    assert check.verdict == "The gradients of both forms are those of finite differences."
    assert all(torch.equal(weights[key], value) for key, value in module.state_dict().items())


def test_the_wrong_batch_norm_of_one_image_is_caught_in_the_module_and_right_in_the_net():
    check = check_gradient(zoo.Attends(), (torch.randn(1, 4, 5, 5),), {}, seed=0)
    assert not check.is_right("nn.Module")
    assert check.is_right("funcnet")
    assert check.errors["nn.Module"] > 1e6 > 1000 > check.errors["funcnet"]
    assert check.verdict.startswith("The gradient of the module is WRONG, and that of the net is right: a kernel")


def test_a_kernel_that_is_wrong_in_one_layout_names_the_layout():
    check = check_gradient(nn.InstanceNorm2d(4, affine=True), (torch.randn(1, 4, 5, 5),), {}, seed=0)
    assert check.verdict.startswith(
        "The gradient of the module is WRONG, if the gradient of its output is channels-last"
    )
    assert check.worst_layout("nn.Module") == "channels-last"
    assert check.is_right("funcnet")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 4 * gradient * ctx.saved_tensors[0]  # twice as much as it should be


class WrongBackward(nn.Module):
    """Has a backward of its own that is wrong: both forms have its bits."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return Doubled.apply(self.fc(x))


def test_equal_bits_of_a_wrong_gradient_are_no_comfort():
    check = check_gradient(WrongBackward(), (torch.randn(4, 3),), {}, seed=0)
    assert check.derivatives["nn.Module"] == check.derivatives["funcnet"]
    assert not check.is_right("nn.Module")
    assert not check.is_right("funcnet")
    assert check.verdict.startswith("The gradients of both forms differ from finite differences.")


class NoFloat64(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return F.linear(x.float(), self.fc.weight)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (NoFloat64(), "RuntimeError: "),
        (nn.Flatten(), "no output has a gradient by a weight or an input"),
        (zoo.Raises(), "ValueError: "),
    ],
)
def test_what_cannot_be_checked_says_why(module, reason):
    x = torch.zeros(4, 3, dtype=torch.int64) if isinstance(module, nn.Flatten) else torch.randn(4, 3)
    check = check_gradient(module, (x,), {}, seed=0)
    assert isinstance(check, NotPossible)
    assert check.reason.startswith(reason)


def test_a_function_that_jumps_at_the_inputs_is_not_called_right():
    class Sign(nn.Module):
        def forward(self, x):
            return x * (x.sum() > 0)

    check = check_gradient(Sign(), (torch.tensor([[1.0, -1.0], [2.0, -2.0]]),), {}, seed=0)
    assert isinstance(check, NotPossible)
    assert "finite differences of neighbouring steps lie" in check.reason


def test_a_net_that_is_wrong_where_the_module_is_right_does_not_pass():
    check = GradientCheck(2.0, 1e-10, 3.0, {"nn.Module": {"contiguous": 2.0}, "funcnet": {"contiguous": 2.1}})
    assert not check.passes
    assert "please report it" in check.verdict
    result = compare_module("torch.nn:Linear(3, 4)", ["f32[2,3]"], budget=0.01)
    assert isinstance(result.gradient, GradientCheck)
    assert result.passes
    assert not dataclasses.replace(result, gradient=check).passes
