"""Each kind of effect is reported with its path and line, and nothing else is."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.inspect.modules import Calls, X, effects_of, summarize

SHIFT = torch.ones(3)


# --- nothing ---


def test_a_clean_net_has_none():
    net = fn.Sequential(fn.Linear(3, 8), fn.ReLU(), fn.LayerNorm(8), fn.Linear(8, 2))
    report = fn.effects(net, net.init(0)[0], X)
    assert not report and len(report) == 0 and report.notes == ()


def test_constants_made_in_the_call_are_no_effect():
    def body(m, x):
        scale = torch.tensor([1.0, 2.0, 3.0]) * torch.linspace(0, 1, 3) + torch.from_numpy(numpy.ones(3))
        return x * scale * torch.tensor(2).item() + torch.arange(x.shape[0])[:, None]

    assert summarize(effects_of(body)) == []


def test_writing_to_what_was_made_in_the_call_is_no_effect():
    def body(m, x):
        y = x.clone()
        y += 1
        y[:, 0] = 2
        return F.relu(y, inplace=True)

    assert summarize(effects_of(body)) == []


# --- draws ---


def test_draws_of_layers_and_functions_are_reported_at_their_paths():
    def body(m, x):
        x = m.drop(x)
        return x + torch.randn_like(x)

    assert summarize(effects_of(body, train=True, drop=nn.Dropout())) == [
        ("draws", "", "return x + torch.randn_like(x)"),
        ("draws", "drop", "x = m.drop(x)"),
    ]


def test_dropout_that_drops_nothing_does_not_draw():
    assert not effects_of(lambda m, x: F.dropout(F.dropout(x, 0.0), 0.5, m.training))


def test_draws_from_a_generator_of_the_module_are_reported():
    def body(m, x):
        return x + torch.rand(3, generator=m.generator)

    generator = torch.Generator()
    before = generator.get_state()
    assert (
        effects_of(body, generator=generator).of("draws")[0].code == "return x + torch.rand(3, generator=m.generator)"
    )
    assert torch.equal(before, generator.get_state())


def test_draws_of_python_and_numpy_are_reported_for_the_module():
    class Skips(nn.Module):
        def forward(self, x):
            return x * (random.random() + numpy.random.rand())

    states = random.getstate(), numpy.random.get_state()[1].tolist()
    report = fn.effects(nn.Sequential(nn.Linear(3, 3), Skips()), X)
    assert summarize(report) == [("draws", "1", "def forward(self, x):")]
    assert report[0].detail == "random, somewhere in this forward; numpy.random, somewhere in this forward"
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist())


def test_a_draw_from_a_key_is_no_effect():
    assert not effects_of(lambda m, x: x + fn.random.normal(fn.random.key(0), (4, 3)))


# --- buffers ---


def test_buffers_written_in_place_are_reported_by_name():
    report = fn.effects(nn.Sequential(nn.BatchNorm1d(3, affine=False)), X, train=True).of("writes buffer")
    names = [part.split(" writes ")[1] for part in report[0].detail.split("; ")]
    assert names == ["0.num_batches_tracked", "0.running_mean", "0.running_var"]


def test_a_buffer_that_is_replaced_is_reported_with_its_line():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x):
            self.steps = self.steps + 1
            return x

    report = fn.effects(nn.Sequential(Counts()), X)
    assert summarize(report) == [("writes buffer", "0", "self.steps = self.steps + 1")]
    assert report[0].detail == "replaces 0.steps"


def test_a_view_of_a_buffer_is_the_buffer():
    report = effects_of(lambda m, x: x + m.norm.running_mean[:2].view(-1).add_(1).sum(), norm=nn.BatchNorm1d(3))
    assert [(effect.path, effect.detail) for effect in report.of("writes buffer")] == [
        ("", "add_ writes norm.running_mean")
    ]


# --- outside tensors ---


def test_tensors_from_outside_are_reported_by_name():
    local = torch.ones(3)

    def body(m, x):
        x = x * m.plain
        x = x + SHIFT
        return x - local

    assert [(effect.code, effect.detail) for effect in effects_of(body, plain=torch.ones(3))] == [
        ("x = x * m.plain", "self.plain of shape (3,), by mul"),
        ("x = x + SHIFT", "SHIFT of shape (3,), by add"),
        ("return x - local", "local of shape (3,), by sub"),
    ]


def test_an_outside_tensor_is_reported_where_it_is_taken_up_and_not_below():
    def body(m, x):
        return m.add(x, m.plain)

    report = effects_of(body, plain=torch.ones(3), add=Calls(lambda m, x, y: x + y.view(-1)))
    assert [(effect.path, effect.detail) for effect in report] == [("", "hands on self.plain of shape (3,)")]


def test_an_outside_tensor_that_is_written_to_is_put_back():
    table = torch.zeros(3)

    def body(m, x):
        table.add_(1)
        return x + table if m.training else m.fc(x[:, :1])

    assert effects_of(body, train=True).of("reads outside tensor")
    assert table.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(RuntimeError):
        effects_of(body, fc=nn.Linear(3, 3))
    assert table.tolist() == [0.0, 0.0, 0.0]


# --- inputs ---


def test_writes_to_an_input_are_reported():
    def body(m, x):
        x += 1
        return m.act(x[:, :2])

    report = effects_of(body, act=nn.ReLU(inplace=True))
    assert summarize(report) == [("mutates input", "", "x += 1"), ("mutates input", "act", "return m.act(x[:, :2])")]
    assert [effect.detail for effect in report] == ["add_ writes input 0", "relu writes input 0"]


def test_data_that_are_set_are_a_write():
    def body(m, x):
        x.data = x * 2
        return x

    assert summarize(effects_of(body)) == [("mutates input", "", "x.data = x * 2")]


def test_a_table_that_is_renormalised_is_reported():
    report = fn.effects(nn.Embedding(5, 3, max_norm=0.1), torch.tensor([1, 2]))
    assert [(effect.kind, effect.detail) for effect in report] == [
        ("mutates input", "embedding writes the parameter weight")
    ]


# --- branches ---

BRANCHES = {
    "if": (lambda m, x: x if x.sum(-1)[0] > 0 else -x, "bool()"),
    "item": (lambda m, x: x * x[0, 0].item(), "item"),
    "float": (lambda m, x: x * float(x[0, 0]), "float()"),
    "tolist": (lambda m, x: x * x.tolist()[0][0], "tolist"),
    "numpy": (lambda m, x: x + float(x.detach().numpy()[0, 0]), "numpy"),
    "mask": (lambda m, x: x[x > 0], "getitem()"),
    "set by mask": (lambda m, x: x.clone().index_put_((x > 0,), torch.zeros(())), "index_put_"),
    "nonzero": (lambda m, x: x.nonzero(), "nonzero"),
    "unique": (lambda m, x: x.unique(), "unique"),
    "masked_select": (lambda m, x: x.masked_select(x > 0), "masked_select"),
    "equal": (lambda m, x: x if torch.equal(x, x + 1) else -x, "equal"),
    "format": (lambda m, x: x * len(f"{x[0, 0]:.1f}"), "format()"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_what_takes_data_into_python_is_reported_and_fails_under_vmap(name):
    body, operation = BRANCHES[name]
    report = effects_of(body).of("branches on data")
    assert [effect.path for effect in report] == [""]
    assert operation in report[0].detail and "input 0" in report[0].detail
    with pytest.raises(RuntimeError):
        torch.vmap(lambda x: body(None, x[None]))(X)


def test_branches_on_shapes_modes_and_constants_are_no_effect():
    def body(m, x):
        if x.shape[0] > 2 and not m.training and torch.ones(3).sum() > 2:
            return x + 1
        return x

    assert not effects_of(body)


def test_what_is_printed_is_no_branch(capsys):
    assert not effects_of(lambda m, x: (print(x), x)[1])
    assert "tensor" in capsys.readouterr().out
