"""What large checkpoints cost: counted in calls, which grow with the tensors and no faster."""

from __future__ import annotations

import pytest
import torch

from funcnet.checkpoint import (
    Checkpoint,
    Fuse,
    Rename,
    Rule,
    RuleError,
    Spec,
    Split,
    Transpose,
    differences,
    load,
    plan,
    save,
)
from funcnet.checkpoint import _proof as proof_module


@pytest.fixture
def counted_maps(monkeypatch):
    """The nodes whose index maps are computed."""
    nodes = []
    original = proof_module.compute_index_map

    def count(node, map_leaf):
        nodes.append(node)
        return original(node, map_leaf)

    monkeypatch.setattr(proof_module, "compute_index_map", count)
    return nodes


def layers(count):
    return {f"h.{i}.{key}": Spec((4, 6), torch.float32) for i in range(count) for key in ("q", "k", "v", "o")}


RULES = [
    Rename("h.{i}.{key}", "layers.{i}.{key}"),
    Fuse([f"layers.{{i}}.{key}" for key in "qkv"], "layers.{i}.qkv", [4, 4, 4]),
    Transpose("layers.{i}.o"),
]


def test_layers_of_one_form_are_proved_once(counted_maps):
    plan(layers(2), RULES)
    few = len(counted_maps)
    plan(layers(50), RULES)
    assert len(counted_maps) == 2 * few


def test_rules_are_applied_once_in_each_direction(monkeypatch):
    applied = []
    for rule_type in (Rename, Fuse, Split, Transpose):
        apply = rule_type.apply
        monkeypatch.setattr(
            rule_type, "apply", lambda self, state, apply=apply: applied.append(self) or apply(self, state)
        )
    plan(layers(2), RULES)
    assert [type(rule) for rule in applied] == [Rename, Fuse, Transpose, Transpose, Split, Rename]


class Copy(Rule):
    """A tensor twice, which nothing says to be equal: there and back all are there, and back and there they are not."""

    optional = False

    def apply(self, state):
        return state.with_tensors({**state.tensors, "copy": state.tensors["w"]})

    def inverse(self):
        return Uncopy()


class Uncopy(Rule):
    """Takes the second away without a word."""

    optional = False

    def apply(self, state):
        return state.with_tensors({name: node for name, node in state.tensors.items() if name != "copy"})

    def inverse(self):
        return Copy()


def test_what_comes_back_from_there_may_not_come_back_from_here():
    with pytest.raises(RuleError, match="copy"):
        plan({"w": Spec((2, 3), torch.float32)}, [Copy()])


def test_one_layer_of_another_form_is_found_among_many():
    specs = layers(50)
    specs["h.33.k"], specs["h.33.v"] = Spec((3, 6), torch.float32), Spec((5, 6), torch.float32)
    with pytest.raises(RuleError, match=r"h\.33|layers\.33"):
        plan(specs, RULES)


def test_descriptions_of_a_checkpoint_are_made_once_in_a_comparison(tmp_path, monkeypatch):
    save(tmp_path / "a.npz", {str(i): torch.zeros(2) for i in range(20)})
    ckpt = load(tmp_path / "a.npz")
    made = []
    monkeypatch.setattr(Checkpoint, "specs", property(lambda self: made.append(self) or _specs(self)))
    assert differences(ckpt, ckpt) == []
    assert len(made) == 2


def _specs(ckpt):
    return {name: entry.spec for name, entry in ckpt.entries.items()}
