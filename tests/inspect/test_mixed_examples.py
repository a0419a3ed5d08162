"""An operation that mixes the examples of a batch is reported, and one that keeps them apart is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.inspect.modules import X, effects_of, summarize

# --- mixing ---


def last_axis(m, x):
    return x.softmax(-1)


def transposed(m, x):
    return m.fc(x.t().contiguous().t()).t().contiguous().t()


def folded(m, x):
    return F.relu(m.fc(x[:, None].expand(-1, 5, -1).reshape(-1, 3))).view(4, 5, 3).sum(1)


def sorted_and_back(m, x):
    order = torch.tensor([2, 0, 3, 1])
    return m.fc(x[order])[order.argsort()]


def one_by_one(m, x):
    return torch.stack([m.fc(row) for row in x])


@pytest.mark.parametrize("body", [last_axis, transposed, folded, sorted_and_back, one_by_one])
def test_what_keeps_examples_apart_is_not_reported(body):
    assert summarize(effects_of(body, fc=nn.Linear(3, 3))) == []


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (lambda m, x: x - x.mean(0), "mean"),
        (lambda m, x: x.softmax(dim=0), "softmax"),
        (lambda m, x: x - x.roll(1, 0), "sub"),
        (lambda m, x: x / x.norm(), "norm"),
        (lambda m, x: x @ x.t(), "matmul"),
        (lambda m, x: x.cumsum(0), "cumsum"),
        (lambda m, x: F.normalize(x, dim=0), "normalize"),
        (lambda m, x: x.sort(0).values, "sort"),
        (lambda m, x: x.flip(0), "flip"),
        (lambda m, x: x[torch.tensor([1, 2, 3, 0])], "getitem()"),
        (lambda m, x: F.layer_norm(x, (4, 3)), "layer_norm"),
        (lambda m, x: torch.cdist(x, x), "cdist"),
        (lambda m, x: x + x[0], "add"),
        (lambda m, x: x.clone().sub_(x.roll(1, 0)), "sub_"),
    ],
)
def test_what_mixes_examples_is_reported_by_its_operation(body, name):
    report = effects_of(body)
    assert [effect.kind for effect in report] == ["mixes examples"]
    assert report[0].detail.split(" ")[0] == name


def test_a_reduction_of_a_loss_is_reported_as_one():
    report = fn.effects(nn.MSELoss(), X, X + 1)
    assert [effect.detail for effect in report] == ["mse_loss reduces the examples to shape ()"]
    assert not fn.effects(nn.MSELoss(reduction="none"), X, X + 1)


def test_each_layer_that_mixes_is_reported_and_none_that_carries_it():
    module = nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2)
    )
    assert [effect.path for effect in fn.effects(module, X, train=True).of("mixes examples")] == ["1", "4"]


def test_attention_over_the_wrong_axis_is_reported():
    x = torch.randn(4, 5, 8)

    def body(m, x):
        return m.attention(x, x, x)[0]

    assert summarize(effects_of(body, x, attention=nn.MultiheadAttention(8, 2))) == [
        ("mixes examples", "attention", "return m.attention(x, x, x)[0]")
    ]
    assert not effects_of(body, x, attention=nn.MultiheadAttention(8, 2), batch_dim=1)
    assert not effects_of(body, x, attention=nn.MultiheadAttention(8, 2, batch_first=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_mixes_steps_and_not_examples(kind):
    x = torch.randn(4, 5, 3)
    assert fn.effects(kind(3, 2), x).of("mixes examples")
    assert not fn.effects(kind(3, 2), x, batch_dim=1)
    assert not fn.effects(kind(3, 2, batch_first=True), x)


def test_dropout_before_a_mixture_does_not_hide_it():
    assert [effect.kind for effect in effects_of(lambda m, x: F.dropout(x) - x.mean(0))] == ["draws", "mixes examples"]


def test_draws_that_depend_on_the_values_before_them_mix_nothing():
    assert [effect.kind for effect in effects_of(lambda m, x: torch.poisson(x.exp()))] == ["draws"]


def test_inputs_that_are_the_same_for_all_are_not_examples():
    def body(m, x, table):
        return x @ table.sum(0).diag()

    table = torch.randn(4, 3)
    assert effects_of(body, X, table).of("mixes examples")
    assert not effects_of(body, X, table, batch_dim=(0, None))


def test_equal_examples_still_differ_in_the_run():
    assert effects_of(lambda m, x: x - x.mean(0), torch.ones(4, 3)).of("mixes examples")


def test_a_maximum_over_many_examples_is_noticed():
    x = torch.randn(64, 3)
    assert effects_of(lambda m, x: x / x.abs().max(), x).of("mixes examples")
    assert not effects_of(lambda m, x: x / x.abs().amax(1, keepdim=True), x)


def test_one_example_is_noted():
    report = effects_of(lambda m, x: x - x.mean(0), X[:1])
    assert not report and report.notes == ("whether examples mix: give at least two that differ",)
    assert "not looked at: whether examples mix" in str(report)
