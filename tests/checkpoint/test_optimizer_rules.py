"""The state of an optimizer of torch goes along with its model, by the names of the params."""

from __future__ import annotations

import copy

import pytest
import torch

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import Fuse, Mix, Rename, RuleError, Split, Stack, Transpose, convert, load, optimizer_rules
from tests.helpers import assert_identical

LAYERS = 2


class Layers(torch.nn.Module):
    """Two layers with queries, keys and values apart, a norm with buffers, and a head."""

    def __init__(self):
        super().__init__()
        self.h = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in "qkv"}) for _ in range(LAYERS)
        )
        self.bn = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 3, bias=False)

    def forward(self, x):
        for layer in self.h:
            x = layer["q"](x) * torch.sigmoid(layer["k"](x)) + layer["v"](x)
        return self.head(self.bn(x))


RULES = [
    Fuse([f"h.{{i}}.{name}.{{w}}" for name in "qkv"], "layers.{i}.qkv.{w}", [4, 4, 4]),
    Transpose("layers.{i}.qkv.weight"),
    Rename("head.weight", "out.weight"),
]


def train(make_optimizer, steps=3):
    """A training checkpoint as people save them."""
    torch.manual_seed(0)
    module = Layers()
    optimizer = make_optimizer(module)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
    return module, {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": steps}


def in_order(training):
    """The checkpoint with its names sorted: rules do not promise their order."""
    optimizer = {**training["optimizer"], "state": dict(sorted(training["optimizer"]["state"].items()))}
    return {**training, "model": dict(sorted(training["model"].items())), "optimizer": optimizer}


def adamw(module):
    return torch.optim.AdamW(module.parameters(), lr=0.01)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)


def two_groups(module):
    decayed = [(name, param) for name, param in module.named_parameters() if param.dim() > 1]
    others = [(name, param) for name, param in module.named_parameters() if param.dim() < 2]
    return torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=0.01)


@pytest.mark.parametrize("make_optimizer", [adamw, sgd, two_groups])
def test_a_step_after_the_conversion_is_the_step_before_it(make_optimizer, tmp_path):
    module, training = train(make_optimizer)
    rules = optimizer_rules(RULES, training)
    converted = checkpoint.apply(rules, copy.deepcopy(training))  # both optimizers write to what they are given
    assert list(converted) == ["model", "optimizer", "epoch"]
    # the same step in both layouts, with the gradients laid out by the same rules
    grads = {name: torch.randn_like(param) for name, param in module.named_parameters()}
    optimizer = make_optimizer(module)
    optimizer.load_state_dict(training["optimizer"])
    params = dict(module.named_parameters())
    for name, param in params.items():
        param.grad = grads[name]
    optimizer.step()
    floats = {name: tensor for name, tensor in converted["model"].items() if tensor.is_floating_point()}
    other = {name: torch.nn.Parameter(tensor) for name, tensor in floats.items()}
    other_grads = checkpoint.apply(RULES, grads)
    groups = converted["optimizer"]["param_groups"]
    names = dict(enumerate(rules[-1].labels))
    layout = [{**group, "params": [other[names[number]] for number in group["params"]]} for group in groups]
    for group in layout:
        group.pop("param_names", None)
    second = type(optimizer)(layout, lr=0.01)
    second.load_state_dict(converted["optimizer"])
    for name, grad in other_grads.items():
        other[name].grad = grad
    second.step()
    expected = checkpoint.apply(RULES, module.state_dict())
    assert_identical({name: other[name].data for name in other_grads}, {name: expected[name] for name in other_grads})


@pytest.mark.parametrize("make_optimizer", [adamw, two_groups])
def test_files_go_there_and_come_back(make_optimizer, tmp_path):
    _, training = train(make_optimizer)
    torch.save(training, tmp_path / "a.pt")
    rules = optimizer_rules(RULES, load(tmp_path / "a.pt"))
    record = convert(tmp_path / "a.pt", tmp_path / "b.pt", rules, certificate=tmp_path / "c.json")
    assert record.plan.proof.bijection
    assert checkpoint.verify(tmp_path / "c.json") == []
    converted = torch.load(tmp_path / "b.pt")
    assert all(type(number) is int for number in converted["optimizer"]["state"])
    convert(tmp_path / "b.pt", tmp_path / "d.pt", rules, inverse=True)
    assert_identical(in_order(torch.load(tmp_path / "d.pt")), in_order(training))


def test_layers_are_stacked_and_step_counts_with_them():
    _, training = train(adamw)
    rules = optimizer_rules([*RULES, Stack("layers.{i}.{rest**}", "layers.{rest**}")], training)
    converted = checkpoint.apply(rules, training)
    first = converted["optimizer"]["state"][0]
    assert first["exp_avg"].shape == (LAYERS, 4, 12)
    assert first["step"] == 3
    assert_identical(in_order(checkpoint.apply(rules, converted, inverse=True)), in_order(training))


def test_names_of_a_module_and_an_order_of_the_target():
    module, training = train(adamw)
    order = [
        "out.weight",
        "bn.weight",
        "bn.bias",
        *(f"layers.{i}.qkv.{w}" for i in range(2) for w in ("bias", "weight")),
    ]
    rules = optimizer_rules(RULES, training, params=module, target_params=order)
    converted = checkpoint.apply(rules, training)
    assert converted["optimizer"]["state"][0]["exp_avg"].shape == (3, 4)
    assert rules[-1].labels == tuple(order)


def test_the_state_of_an_optimizer_here_is_that_of_torch_in_the_new_layout():
    _, training = train(adamw)
    split = [Split("h.{i}.q.weight", ["h.{i}.q.low", "h.{i}.q.high"], [1, 3])]
    converted = checkpoint.apply(optimizer_rules(split, training), training)
    assert len(converted["optimizer"]["state"]) == len(training["optimizer"]["state"]) + LAYERS
    params = fn.tree.unflatten({n: t for n, t in converted["model"].items() if "running" not in n and "num" not in n})
    _, state = fn.optim.from_state_dict(fn.optim.AdamW, converted["optimizer"], params)
    expected = training["optimizer"]["state"][0]["exp_avg"][:1]
    assert_identical(state["h"]["0"]["q"]["low"]["exp_avg"], expected)


def test_what_does_not_fit_is_told():
    _, training = train(adamw)
    with pytest.raises(RuleError, match="has 15 params, and these are 2 names"):
        optimizer_rules(RULES, training, params=["a", "b"])
    with pytest.raises(RuleError, match="Mix has no meaning"):
        optimizer_rules([Mix(["h.{i}.q.{w}", "h.{i}.k.{w}"], "m.{i}.{w}", [1, 1])], training)
    with pytest.raises(RuleError, match=r"no 'opt\.param_groups'"):
        optimizer_rules(RULES, training, optimizer="opt")
    _, grouped = train(two_groups)
    for group in grouped["optimizer"]["param_groups"]:
        group.pop("param_names")
    with pytest.raises(RuleError, match="the state does not fit the params"):
        optimizer_rules(RULES, grouped)
    with pytest.raises(RuleError, match="params of several groups"):
        optimizer_rules([Fuse(["bn.weight", "h.0.q.bias"], "x", [4, 4])], _with_groups_by_name(training))


def _with_groups_by_name(training):
    """The checkpoint with norms in a group of their own."""
    names = [name for name in training["model"] if "running" not in name and "num" not in name]
    group = training["optimizer"]["param_groups"][0]
    norms = [number for number, name in enumerate(names) if name.startswith("bn")]
    others = [number for number in range(len(names)) if number not in norms]
    order = [*others, *norms]
    groups = [
        {**group, "params": list(range(len(others))), "param_names": [names[number] for number in others]},
        {**group, "params": list(range(len(others), len(names))), "param_names": [names[number] for number in norms]},
    ]
    state = {new: training["optimizer"]["state"][old] for new, old in enumerate(order)}
    return {**training, "optimizer": {"state": state, "param_groups": groups}}
