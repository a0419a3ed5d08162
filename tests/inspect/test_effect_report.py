"""The report of effects: its order, filters and text, that a call leaves nothing changed, and what is refused."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, clone, global_generator_untouched, str_with_notes
from tests.inspect.modules import Calls, X, effects_of, summarize

# --- paths, lines, order ---


def test_a_shared_layer_is_reported_at_the_path_that_called_it():
    drop = nn.Dropout()
    first, second = nn.Sequential(nn.Linear(3, 3), drop), nn.Sequential(drop)
    report = effects_of(lambda m, x: m.second(m.first[0](x)), train=True, first=first, second=second)
    assert [effect.path for effect in report] == ["second.0"]


def test_a_layer_called_in_a_loop_is_reported_once_and_on_two_lines_twice():
    def body(m, x):
        for _ in range(3):
            x = m.drop(x)
        return m.drop(x)

    assert [effect.code for effect in effects_of(body, train=True, drop=nn.Dropout())] == [
        "x = m.drop(x)",
        "return m.drop(x)",
    ]


def test_a_layer_that_failed_and_was_caught_leaves_the_path():
    def body(m, x):
        try:
            m.fc(x[:, :1])
        except RuntimeError:
            return F.dropout(x)

    assert [effect.path for effect in effects_of(body, fc=nn.Linear(3, 3))] == [""]


@fn.compose(fc=fn.Linear(3, 3), norm=fn.BatchNorm1d(3), steps=fn.Buffer((), 0, dtype=torch.int64))
def composed(p, x):
    x = p.norm(p.fc(x))
    if p.training:
        p.steps = p.steps + 1
    return F.dropout(x, 0.5, p.training)


def test_a_composed_net_shows_the_lines_of_its_body():
    params, buffers = composed.init(0)
    report = fn.effects(composed, params, X, buffers=buffers, train=True, rng=fn.random.key(0))
    assert summarize(report) == [
        ("writes buffer", "", "p.steps = p.steps + 1"),
        ("draws", "", "return F.dropout(x, 0.5, p.training)"),
        ("writes buffer", "norm", "x = p.norm(p.fc(x))"),
        ("mixes examples", "norm", "x = p.norm(p.fc(x))"),
    ]
    assert {effect.file for effect in report} == {__file__}
    assert not fn.effects(composed, params, X, buffers=buffers)


def test_effects_are_filtered_by_kind_and_path():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)))
    report = fn.effects(module, X, train=True)
    assert [effect.path for effect in report.of("draws", "writes buffer")] == ["0", "1.0", "1.1"]
    assert {effect.path for effect in report.at("1")} == {"1.0", "1.1"}
    assert [effect.kind for effect in report.at("1.*").of("draws")] == ["draws"]
    with pytest.raises(ValueError, match=r"\['drawing'\] are no kinds of effects; those are 'draws'"):
        report.of("drawing")


# --- purity ---


def test_nothing_given_is_changed():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(inplace=True)).eval()
    before, hooks = copy.deepcopy(module.state_dict()), [dict(part._forward_hooks) for part in module.modules()]
    x = clone(X).requires_grad_()
    with global_generator_untouched():
        assert fn.effects(module, x, train=True).of("draws")
    assert_identical(dict(module.state_dict()), dict(before))
    assert torch.equal(x, X) and x.grad is None and x.grad_fn is None
    assert not any(part.training for part in module.modules())
    assert hooks == [dict(part._forward_hooks) for part in module.modules()]


def test_the_same_is_reported_twice():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3))
    reports = [fn.effects(module, X, train=True) for _ in range(2)]
    assert reports[0] == reports[1]


def test_inputs_may_be_nested_and_named():
    def body(m, pair, *, extra):
        pair["a"].add_(1)
        extra[0].mul_(2)
        return pair["a"] + extra[0]

    report = fn.effects(Calls(body), {"a": X}, extra=[X + 1])
    assert [effect.detail for effect in report] == ["add_ writes input 0", "mul_ writes input 'extra'"]


# --- refusals ---


def test_an_error_of_the_call_is_raised_with_its_path():
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        fn.effects(module, X)
    if sys.version_info >= (3, 11):
        assert str_with_notes(caught.value).endswith("\nfuncnet.effects ran the model, which failed at '1.0'.")


def test_wrong_arguments_are_refused():
    net = fn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"takes its params first: fn.effects\(Linear, params"):
        fn.effects(net)
    with pytest.raises(TypeError, match=r"a net or an nn\.Module, not 3"):
        fn.effects(3, X)
    with pytest.raises(TypeError, match="leave buffers out"):
        fn.effects(nn.Linear(3, 2), X, buffers={})
    with pytest.raises(ValueError, match="batch_dim has 2 entries for 1 inputs"):
        fn.effects(nn.Linear(3, 2), X, batch_dim=(0, 0))
    with pytest.raises(fn.TreeError, match="weight"):
        fn.effects(net, {}, X)
    with pytest.raises(fn.ConversionError, match="cannot copy Calls"):
        effects_of(lambda m, x: x, iterator=(item for item in ()))


# --- printing ---


def test_it_prints_with_rich_and_without(monkeypatch):
    report = effects_of(lambda m, x: x[x > 0])
    assert "┃ path" in str(report) and "x[x > 0]" in str(report)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    header, row, *meanings = str(report).splitlines()
    assert header.split() == ["path", "effect", "line", "code", "what"]
    assert row.split()[:4] == ["(root)", "branches", "on", "data"]
    assert meanings[0].startswith("branches on data: vmap raises")
    assert meanings[1].startswith("not looked at: examples behind getitem() at the root")
    assert str(fn.effects(nn.Linear(3, 2), X)) == "no effects"
