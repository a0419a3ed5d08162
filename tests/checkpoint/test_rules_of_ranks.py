"""Rules for what several ranks hold, and conversions of several files to one and of one to several."""

from __future__ import annotations

import pytest
import torch

from funcnet import checkpoint
from funcnet.checkpoint import (
    CheckpointError,
    Rename,
    RuleError,
    Shard,
    Spec,
    Split,
    Unreplicate,
    Unshard,
    convert,
    inverse,
    load,
    plan,
)
from tests.checkpoint.trees import bits_by_name
from tests.cli.test_checkpoints import run

RULES = (
    Unshard("{r}.layers.{i}.wq.weight", "layers.{i}.wq.weight", 2),
    Unshard("{r}.layers.{i}.wo.weight", "layers.{i}.wo.weight", 2, dim=1),
    Unreplicate("{r}.norm.weight", "norm.weight", 2),
)


@pytest.fixture
def ranks(tmp_path):
    """The files of two ranks of tensor parallelism."""
    torch.manual_seed(0)
    whole = {"layers.0.wq.weight": torch.randn(8, 6), "layers.0.wo.weight": torch.randn(6, 8)}
    norm = torch.randn(6)
    paths = []
    for rank in range(2):
        rows = slice(4 * rank, 4 * rank + 4)
        shards = {"layers.0.wq.weight": whole["layers.0.wq.weight"][rows], "norm.weight": norm}
        shards["layers.0.wo.weight"] = whole["layers.0.wo.weight"][:, rows]
        paths.append(tmp_path / f"consolidated.0{rank}.pth")
        torch.save({name: tensor.clone() for name, tensor in shards.items()}, paths[-1])
    return paths, {**whole, "norm.weight": norm}


def test_the_files_of_ranks_become_one_and_come_back(ranks, tmp_path):
    paths, whole = ranks
    record = convert(paths, tmp_path / "whole.safetensors", RULES, certificate=tmp_path / "there.json")
    assert record.plan.proof.bijection
    joined = load(tmp_path / "whole.safetensors")
    assert all(torch.equal(joined[name], tensor) for name, tensor in whole.items())
    assert checkpoint.verify(tmp_path / "there.json") == []
    back = [tmp_path / "0.pth", tmp_path / "1.pth"]
    convert(tmp_path / "whole.safetensors", back, RULES, inverse=True, certificate=tmp_path / "back.json")
    assert checkpoint.verify(tmp_path / "back.json") == []
    assert [bits_by_name(load(path)) for path in back] == [bits_by_name(load(path)) for path in paths]


def test_replicas_that_differ_are_refused(ranks, tmp_path):
    paths, _ = ranks
    shard = torch.load(paths[1])
    torch.save({**shard, "norm.weight": shard["norm.weight"] + 1}, paths[1])
    with pytest.raises(CheckpointError, match=r"'1\.norm\.weight' is a copy of '0\.norm\.weight'"):
        convert(paths, tmp_path / "whole.safetensors", RULES)
    assert not (tmp_path / "whole.safetensors").exists()


def test_files_have_the_keys_of_a_dict(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.zeros(2)}, tmp_path / "b.pt")
    rules = [Rename("base.w", "first"), Rename("more.w", "second")]
    paths = {"base": tmp_path / "a.pt", "more": tmp_path / "b.pt"}
    convert(paths, tmp_path / "c.pt", rules)
    assert list(load(tmp_path / "c.pt")) == ["first", "second"]
    with pytest.raises(CheckpointError, match=r"labelled 'base'.*belong to none.*\n.*'more\.w'"):
        convert(tmp_path / "c.pt", {"base": tmp_path / "d.pt"}, rules, inverse=True)


def test_queries_keys_and_values_of_each_rank_become_whole():
    specs = {f"{rank}.qkv": Spec((12, 4), torch.float32) for rank in range(2)}
    rules = [Unshard("{r}.qkv", "qkv", 2), Split("qkv", ["q", "k", "v"], [16, 4, 4], groups=2)]
    assert {name: spec.shape for name, spec in plan(specs, rules).specs.items()} == {
        "q": (16, 4),
        "k": (4, 4),
        "v": (4, 4),
    }
    tree = checkpoint.apply(rules, {f"{rank}.qkv": torch.arange(12.0)[:, None] + 100 * rank for rank in range(2)})
    assert tree["k"].flatten().tolist() == [8, 9, 108, 109]


def test_split_by_heads_is_one_rule():
    qkv = torch.arange(24.0)  # three heads: q0 q1 q2 q3 k0 k1 v0 v1 ...
    split = Split("qkv", ["q", "k", "v"], [12, 6, 6], groups=3)
    parts = checkpoint.apply([split], {"qkv": qkv})
    assert parts["k"].tolist() == [4, 5, 12, 13, 20, 21]
    assert torch.equal(checkpoint.apply([split], parts, inverse=True)["qkv"], qkv)


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        (Unshard("{r}.a", "a", 3), "numbers 0, 1, expected 0 to 2"),
        (Unshard("{r}.b", "b", 2), r"'b': its parts are not alike"),
        (Shard("c", "{r}.c", 4), r"'c': has the shape \[6\], and 4 parts of axis 0 differ"),
        (Unreplicate("{r}.d", "d", 2), "no tensor is named '{r}.d'"),
    ],
)
def test_what_is_no_set_of_ranks_is_refused(rule, match):
    shapes = {"0.a": (2,), "1.a": (2,), "0.b": (2,), "1.b": (3,), "c": (6,)}
    with pytest.raises(RuleError, match=match):
        plan({name: Spec(shape, torch.float32) for name, shape in shapes.items()}, [rule])


def test_shards_and_copies_are_inverses():
    specs = {"a": Spec((6, 4), torch.float32)}
    for rules in ([Shard("a", "{r}.a", 3, 0)], [Unreplicate("{r}.a", "a", 3).inverse()]):
        target = plan(specs, rules)
        assert plan(target.specs, inverse(rules)).specs == specs


def test_several_files_by_command(ranks, tmp_path):
    paths, _ = ranks
    rules = tmp_path / "rules.toml"
    rules.write_text(checkpoint.to_toml(RULES))
    assert run("convert", *paths, tmp_path / "whole.pt", "--rules", rules).exit_code == 0
    back = [tmp_path / "0.pth", tmp_path / "1.pth"]
    assert run("convert", tmp_path / "whole.pt", *back, "--rules", rules, "--inverse", "--scatter").exit_code == 0
    assert [bits_by_name(load(path)) for path in back] == [bits_by_name(load(path)) for path in paths]
    named = [f"a={paths[0]}", f"b={paths[1]}"]
    done = run("convert", *named, tmp_path / "both.pt", "--dry-run", "--json")
    assert '"a.norm.weight"' in done.stdout
