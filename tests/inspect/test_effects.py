"""What a call does besides computing its output is told with its path and line, and nothing else is."""

from __future__ import annotations

import copy
import random
import sys

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, clone, global_generator_untouched

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
SHIFT = torch.ones(3)


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs, **kwargs):
        return self.function(self, *inputs, **kwargs)


def look(function, *inputs, batch_dim=0, train=False, **parts):
    return fn.effects(Calls(function, **parts), *(inputs or (X,)), batch_dim=batch_dim, train=train)


def listed(found):
    return [(effect.kind, effect.path, effect.code) for effect in found]


# --- nothing ---


def test_a_clean_net_has_none():
    net = fn.Sequential(fn.Linear(3, 8), fn.ReLU(), fn.LayerNorm(8), fn.Linear(8, 2))
    found = fn.effects(net, net.init(0)[0], X)
    assert not found and len(found) == 0 and found.notes == ()


def test_constants_made_in_the_call_are_no_effect():
    def body(m, x):
        scale = torch.tensor([1.0, 2.0, 3.0]) * torch.linspace(0, 1, 3) + torch.from_numpy(numpy.ones(3))
        return x * scale * torch.tensor(2).item() + torch.arange(x.shape[0])[:, None]

    assert listed(look(body)) == []


def test_writing_to_what_was_made_in_the_call_is_no_effect():
    def body(m, x):
        y = x.clone()
        y += 1
        y[:, 0] = 2
        return F.relu(y, inplace=True)

    assert listed(look(body)) == []


# --- draws ---


def test_draws_of_layers_and_functions_are_told_at_their_paths():
    def body(m, x):
        x = m.drop(x)
        return x + torch.randn_like(x)

    assert listed(look(body, train=True, drop=nn.Dropout())) == [
        ("draws", "", "return x + torch.randn_like(x)"),
        ("draws", "drop", "x = m.drop(x)"),
    ]


def test_dropout_that_drops_nothing_does_not_draw():
    assert not look(lambda m, x: F.dropout(F.dropout(x, 0.0), 0.5, m.training))


def test_draws_from_a_generator_of_the_module_are_told():
    def body(m, x):
        return x + torch.rand(3, generator=m.generator)

    generator = torch.Generator()
    before = generator.get_state()
    assert look(body, generator=generator).of("draws")[0].code == "return x + torch.rand(3, generator=m.generator)"
    assert torch.equal(before, generator.get_state())


def test_draws_of_python_and_numpy_are_told_for_the_module():
    class Skips(nn.Module):
        def forward(self, x):
            return x * (random.random() + numpy.random.rand())

    states = random.getstate(), numpy.random.get_state()[1].tolist()
    found = fn.effects(nn.Sequential(nn.Linear(3, 3), Skips()), X)
    assert listed(found) == [("draws", "1", "def forward(self, x):")]
    assert found[0].detail == "random, somewhere in this forward; numpy.random, somewhere in this forward"
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist())


def test_a_draw_from_a_key_is_no_effect():
    assert not look(lambda m, x: x + fn.random.normal(fn.random.key(0), (4, 3)))


# --- buffers ---


def test_buffers_written_in_place_are_told_by_name():
    found = fn.effects(nn.Sequential(nn.BatchNorm1d(3, affine=False)), X, train=True).of("writes buffer")
    names = [part.split(" writes ")[1] for part in found[0].detail.split("; ")]
    assert names == ["0.num_batches_tracked", "0.running_mean", "0.running_var"]


def test_a_buffer_that_is_replaced_is_told_with_its_line():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x):
            self.steps = self.steps + 1
            return x

    found = fn.effects(nn.Sequential(Counts()), X)
    assert listed(found) == [("writes buffer", "0", "self.steps = self.steps + 1")]
    assert found[0].detail == "replaces 0.steps"


def test_a_view_of_a_buffer_is_the_buffer():
    found = look(lambda m, x: x + m.norm.running_mean[:2].view(-1).add_(1).sum(), norm=nn.BatchNorm1d(3))
    assert [(effect.path, effect.detail) for effect in found.of("writes buffer")] == [
        ("", "add_ writes norm.running_mean")
    ]


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
def test_what_keeps_examples_apart_is_not_told(body):
    assert listed(look(body, fc=nn.Linear(3, 3))) == []


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
def test_what_mixes_examples_is_told_by_its_operation(body, name):
    found = look(body)
    assert [effect.kind for effect in found] == ["mixes examples"]
    assert found[0].detail.split(" ")[0] == name


def test_a_reduction_of_a_loss_is_told_as_one():
    found = fn.effects(nn.MSELoss(), X, X + 1)
    assert [effect.detail for effect in found] == ["mse_loss reduces the examples to shape ()"]
    assert not fn.effects(nn.MSELoss(reduction="none"), X, X + 1)


def test_each_layer_that_mixes_is_told_and_none_that_carries_it():
    module = nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2)
    )
    assert [effect.path for effect in fn.effects(module, X, train=True).of("mixes examples")] == ["1", "4"]


def test_attention_over_the_wrong_axis_is_told():
    x = torch.randn(4, 5, 8)

    def body(m, x):
        return m.attention(x, x, x)[0]

    assert listed(look(body, x, attention=nn.MultiheadAttention(8, 2))) == [
        ("mixes examples", "attention", "return m.attention(x, x, x)[0]")
    ]
    assert not look(body, x, attention=nn.MultiheadAttention(8, 2), batch_dim=1)
    assert not look(body, x, attention=nn.MultiheadAttention(8, 2, batch_first=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_mixes_steps_and_not_examples(kind):
    x = torch.randn(4, 5, 3)
    assert fn.effects(kind(3, 2), x).of("mixes examples")
    assert not fn.effects(kind(3, 2), x, batch_dim=1)
    assert not fn.effects(kind(3, 2, batch_first=True), x)


def test_dropout_before_a_mixture_does_not_hide_it():
    assert [effect.kind for effect in look(lambda m, x: F.dropout(x) - x.mean(0))] == ["draws", "mixes examples"]


def test_draws_that_depend_on_the_values_before_them_mix_nothing():
    assert [effect.kind for effect in look(lambda m, x: torch.poisson(x.exp()))] == ["draws"]


def test_inputs_that_are_the_same_for_all_are_not_examples():
    def body(m, x, table):
        return x @ table.sum(0).diag()

    table = torch.randn(4, 3)
    assert look(body, X, table).of("mixes examples")
    assert not look(body, X, table, batch_dim=(0, None))


def test_equal_examples_still_differ_in_the_run():
    assert look(lambda m, x: x - x.mean(0), torch.ones(4, 3)).of("mixes examples")


def test_a_maximum_over_many_examples_is_noticed():
    x = torch.randn(64, 3)
    assert look(lambda m, x: x / x.abs().max(), x).of("mixes examples")
    assert not look(lambda m, x: x / x.abs().amax(1, keepdim=True), x)


def test_one_example_is_noted():
    found = look(lambda m, x: x - x.mean(0), X[:1])
    assert not found and found.notes == ("whether examples mix: give at least two that differ",)
    assert "not looked at: whether examples mix" in str(found)


# --- outside tensors ---


def test_tensors_from_outside_are_told_by_name():
    local = torch.ones(3)

    def body(m, x):
        x = x * m.plain
        x = x + SHIFT
        return x - local

    assert [(effect.code, effect.detail) for effect in look(body, plain=torch.ones(3))] == [
        ("x = x * m.plain", "self.plain of shape (3,), by mul"),
        ("x = x + SHIFT", "SHIFT of shape (3,), by add"),
        ("return x - local", "local of shape (3,), by sub"),
    ]


def test_an_outside_tensor_is_told_where_it_is_taken_up_and_not_below():
    def body(m, x):
        return m.add(x, m.plain)

    found = look(body, plain=torch.ones(3), add=Calls(lambda m, x, y: x + y.view(-1)))
    assert [(effect.path, effect.detail) for effect in found] == [("", "hands on self.plain of shape (3,)")]


def test_an_outside_tensor_that_is_written_to_is_put_back():
    table = torch.zeros(3)

    def body(m, x):
        table.add_(1)
        return x + table if m.training else m.fc(x[:, :1])

    assert look(body, train=True).of("reads outside tensor")
    assert table.tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(RuntimeError):
        look(body, fc=nn.Linear(3, 3))
    assert table.tolist() == [0.0, 0.0, 0.0]


# --- inputs ---


def test_writes_to_an_input_are_told():
    def body(m, x):
        x += 1
        return m.act(x[:, :2])

    found = look(body, act=nn.ReLU(inplace=True))
    assert listed(found) == [("mutates input", "", "x += 1"), ("mutates input", "act", "return m.act(x[:, :2])")]
    assert [effect.detail for effect in found] == ["add_ writes input 0", "relu writes input 0"]


def test_data_that_are_set_are_a_write():
    def body(m, x):
        x.data = x * 2
        return x

    assert listed(look(body)) == [("mutates input", "", "x.data = x * 2")]


def test_a_table_that_is_renormalised_is_told():
    found = fn.effects(nn.Embedding(5, 3, max_norm=0.1), torch.tensor([1, 2]))
    assert [(effect.kind, effect.detail) for effect in found] == [
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
def test_what_takes_data_into_python_is_told_and_fails_under_vmap(name):
    body, operation = BRANCHES[name]
    found = look(body).of("branches on data")
    assert [effect.path for effect in found] == [""]
    assert operation in found[0].detail and "input 0" in found[0].detail
    with pytest.raises(RuntimeError):
        torch.vmap(lambda x: body(None, x[None]))(X)


def test_branches_on_shapes_modes_and_constants_are_no_effect():
    def body(m, x):
        if x.shape[0] > 2 and not m.training and torch.ones(3).sum() > 2:
            return x + 1
        return x

    assert not look(body)


def test_what_is_printed_is_no_branch(capsys):
    assert not look(lambda m, x: (print(x), x)[1])
    assert "tensor" in capsys.readouterr().out


# --- paths, lines, order ---


def test_a_shared_layer_is_told_at_the_path_that_called_it():
    drop = nn.Dropout()
    one, two = nn.Sequential(nn.Linear(3, 3), drop), nn.Sequential(drop)
    found = look(lambda m, x: m.two(m.one[0](x)), train=True, one=one, two=two)
    assert [effect.path for effect in found] == ["two.0"]


def test_a_layer_called_in_a_loop_is_told_once_and_on_two_lines_twice():
    def body(m, x):
        for _ in range(3):
            x = m.drop(x)
        return m.drop(x)

    assert [effect.code for effect in look(body, train=True, drop=nn.Dropout())] == [
        "x = m.drop(x)",
        "return m.drop(x)",
    ]


def test_a_layer_that_failed_and_was_caught_leaves_the_path():
    def body(m, x):
        try:
            m.fc(x[:, :1])
        except RuntimeError:
            return F.dropout(x)

    assert [effect.path for effect in look(body, fc=nn.Linear(3, 3))] == [""]


@fn.compose(fc=fn.Linear(3, 3), norm=fn.BatchNorm1d(3), steps=fn.Buffer((), 0, dtype=torch.int64))
def composed(p, x):
    x = p.norm(p.fc(x))
    if p.training:
        p.steps = p.steps + 1
    return F.dropout(x, 0.5, p.training)


def test_a_composed_net_shows_the_lines_of_its_body():
    params, buffers = composed.init(0)
    found = fn.effects(composed, params, X, buffers=buffers, train=True, rng=fn.random.key(0))
    assert listed(found) == [
        ("writes buffer", "", "p.steps = p.steps + 1"),
        ("draws", "", "return F.dropout(x, 0.5, p.training)"),
        ("writes buffer", "norm", "x = p.norm(p.fc(x))"),
        ("mixes examples", "norm", "x = p.norm(p.fc(x))"),
    ]
    assert {effect.file for effect in found} == {__file__}
    assert not fn.effects(composed, params, X, buffers=buffers)


def test_effects_are_filtered_by_kind_and_path():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)))
    found = fn.effects(module, X, train=True)
    assert [effect.path for effect in found.of("draws", "writes buffer")] == ["0", "1.0", "1.1"]
    assert {effect.path for effect in found.at("1")} == {"1.0", "1.1"}
    assert [effect.kind for effect in found.at("1.*").of("draws")] == ["draws"]
    with pytest.raises(ValueError, match=r"\['drawing'\] are no kinds of effects; those are 'draws'"):
        found.of("drawing")


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


def test_the_same_is_told_twice():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3))
    places = [fn.effects(module, X, train=True) for _ in range(2)]
    assert places[0] == places[1]


def test_inputs_may_be_nested_and_named():
    def body(m, pair, *, extra):
        pair["a"].add_(1)
        extra[0].mul_(2)
        return pair["a"] + extra[0]

    found = fn.effects(Calls(body), {"a": X}, extra=[X + 1])
    assert [effect.detail for effect in found] == ["add_ writes input 0", "mul_ writes input 'extra'"]


# --- refusals ---


def test_an_error_of_the_call_is_raised_with_its_path():
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        fn.effects(module, X)
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["funcnet.effects ran the model, which failed at '1.0'."]


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
        look(lambda m, x: x, iterator=(one for one in ()))


# --- printing ---


def test_it_prints_with_rich_and_without(monkeypatch):
    found = look(lambda m, x: x[x > 0])
    assert "┃ path" in str(found) and "x[x > 0]" in str(found)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    header, row, *rest = str(found).splitlines()
    assert header.split() == ["path", "effect", "line", "code", "what"]
    assert row.split()[:4] == ["(root)", "branches", "on", "data"]
    assert rest[0].startswith("branches on data: vmap raises")
    assert rest[1].startswith("not looked at: examples behind getitem() at the root")
    assert str(fn.effects(nn.Linear(3, 2), X)) == "no effects"
