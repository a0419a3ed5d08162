"""Rules on tensors in memory: the same as on files, in the form that was given."""

from __future__ import annotations

import pytest
import torch

from funcnet import checkpoint
from funcnet.checkpoint import CheckpointError, Drop, Fuse, Rename, RuleError, Tie, Transpose, convert, load, save
from tests.helpers import assert_identical

RULES = [
    Rename("h.{i}.{rest**}", "layers.{i}.{rest**}"),
    Fuse([f"layers.{{i}}.{x}" for x in "qkv"], "layers.{i}.qkv", [4, 2, 2]),
    Transpose("layers.{i}.qkv"),
]


def make_tree():
    torch.manual_seed(0)
    return {"h": {str(i): {"q": torch.randn(4, 3), "k": torch.randn(2, 3), "v": torch.randn(2, 3)} for i in range(2)}}


def test_memory_and_files_give_the_same(tmp_path):
    tree = make_tree()
    save(tmp_path / "a.safetensors", tree)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", RULES)
    converted = checkpoint.apply(RULES, tree)
    assert_identical(converted, load(tmp_path / "b.safetensors").tree())
    assert_identical(checkpoint.apply(RULES, load(tmp_path / "a.safetensors")), converted)
    assert_identical(checkpoint.apply(RULES, converted, inverse=True), tree)


def test_a_state_dict_stays_flat_and_values_come_along():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    flat = checkpoint.apply([Rename("0.{w}", "fc.{w}")], module.state_dict())
    assert list(flat) == ["fc.weight", "fc.bias"]
    run = {"model": {"fc.weight": torch.ones(2)}, "epoch": 3, "list": [torch.zeros(1), torch.ones(1)], "empty": {}}
    changed = checkpoint.apply([Rename("model.fc.weight", "model.out.weight")], run)
    assert_identical(changed, {**run, "model": {"out.weight": run["model"]["fc.weight"]}})


def test_a_tensor_that_is_only_renamed_is_the_same_tensor_and_inputs_stay():
    tree = make_tree()
    renamed = checkpoint.apply([Rename("h.{i}.{x}", "l.{x}.{i}")], tree)
    assert renamed["l"]["q"]["0"] is tree["h"]["0"]["q"]
    assert list(tree) == ["h"]


def test_gradients_and_vmap_go_through():
    def loss(tree):
        return checkpoint.apply(RULES, tree)["layers"]["0"]["qkv"][1].sum()

    grads = torch.func.grad(loss)(make_tree())
    assert grads["h"]["0"]["k"].tolist() == [[0, 1, 0], [0, 1, 0]]
    batch = {"w": torch.randn(5, 2, 3)}
    turned = torch.vmap(lambda tree: checkpoint.apply([Transpose("w")], tree))(batch)
    assert torch.equal(turned["w"], batch["w"].transpose(1, 2))


def test_ties_are_one_tensor():
    embed = torch.randn(3, 2)
    tree = checkpoint.apply([Transpose("embed")], {"embed": embed, "head": embed})
    assert tree["embed"] is tree["head"]
    tree = checkpoint.apply([Tie("head", "embed")], {"embed": embed, "head": embed.clone()})
    assert tree["embed"] is tree["head"]
    assert list(checkpoint.apply([Rename("head", "out")], {"embed": embed}, aliases={"head": "embed"})) == [
        "embed",
        "out",
    ]


def test_claims_and_proofs_hold_in_memory_too():
    with pytest.raises(CheckpointError, match="'b' and 'a', which are tied, are equal"):
        checkpoint.apply([Tie("b", "a")], {"a": torch.zeros(1), "b": torch.tensor([-0.0])})
    with pytest.raises(RuleError, match="no tensor is named 'c'"):
        checkpoint.apply([Rename("c", "d")], {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"holds 0\.0"):
        checkpoint.apply([Drop("pad", 0.0, [2])], {"pad": torch.ones(2), "w": torch.ones(2)})
