"""What was saved comes back as it was: dicts, lists and tuples, keys and their order, numbers, strings, ABSENT."""

from __future__ import annotations

import math
import random

import pytest
import torch

import funcnet as fn
from funcnet.checkpoint import CheckpointError, Rename, convert, load, save
from tests.checkpoint.trees import as_comparable, random_tensor
from tests.helpers import parametrize

TARGETS = {
    "safetensors": ("m.safetensors", {}),
    "pt": ("m.pt", {}),
    "npz": ("m.npz", {}),
    "shards": ("m", {"shard_size": 60}),
    "bin_shards": ("m", {"shard_size": 60, "format": "pt"}),
    "dcp": ("m", {"format": "dcp"}),
}
ABSENT = fn.tree.ABSENT


TREES = {
    "a_run": {
        "step": 3,
        "params": {"fc": {"weight": torch.ones(2, 3), "bias": ABSENT}, "head": {}},
        "key": torch.tensor([1, 255], dtype=torch.uint8),
        "optimizer": {"fc": {"weight": {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 3)}, "bias": ABSENT}},
        "best": -math.inf,
        "name": "run 1",
        "done": False,
        "nothing": None,
    },
    "lists": {"old_dirs": [torch.ones(2), torch.zeros(2)], "al": [None, torch.ones(()), 0.5], "ro": [], "pair": (1, 2)},
    "tuples": {"a": (torch.ones(1), {"b": [torch.zeros(1)]}), "c": ()},
    "keys": {"state": {0: {"step": torch.tensor(1.0)}, 1: {}}, 2.5: torch.ones(1), None: 4, True: torch.ones(2)},
    "dots": {"model": {"fc.weight": torch.ones(1), "fc.bias": torch.ones(2)}, "epoch": 3},
    "order": {"b": 1, "z": {"y": torch.ones(1), "x": 2, "w": torch.ones(1)}, "a": torch.ones(1)},
    "ties": {"a": [torch.ones(2)]},
    "absent_in_a_list": {"a": [ABSENT, torch.ones(1), None]},
    "nothing": {},
    "values_alone": {"lr": [0.1, 0.2], "nested": {"betas": (0.9, 0.999), "at": {1: "one"}}},
}
TREES["ties"]["b"] = {"c": TREES["ties"]["a"][0]}


@parametrize(target=list(TARGETS), tree=list(TREES))
def test_a_tree_comes_back_as_it_was(target, tree, tmp_path):
    name, options = TARGETS[target]
    save(tmp_path / name, TREES[tree], **options)
    assert as_comparable(load(tmp_path / name).tree()) == as_comparable(TREES[tree])


def test_random_trees_go_through_all_formats_one_after_the_other(tmp_path):
    rng = random.Random(0)

    def draw(depth):
        kind = rng.randrange(9 if depth < 4 else 5)
        if kind < 3:
            return random_tensor((rng.randrange(3),), rng.choice([torch.float32, torch.bfloat16, torch.bool]), kind)
        if kind < 5:
            return rng.choice([None, 1, 0.1, "text", True, ABSENT, [1, "a", None], (2, (3,)), {}])
        children = [draw(depth + 1) for _ in range(rng.randrange(1, 4))]
        if kind == 5 and not all(child is ABSENT for child in children):
            return [*children, torch.ones(1)]
        if kind == 6:
            return (torch.ones(1), *children)
        return {rng.choice([str(at), f"k.{at}", at + 10]): child for at, child in enumerate(children)}

    for number in range(12):
        tree = {"root": draw(0), "more": draw(0)}
        last = tmp_path / f"{number}-first.pt"
        save(last, tree)
        for target, (name, options) in TARGETS.items():
            path = tmp_path / f"{number}-{target}-{name}"
            save(path, load(last), **options)
            last = path
            assert as_comparable(load(path).tree()) == as_comparable(tree), target


def trainers_file():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    return {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
    }


def test_the_file_of_a_trainer_is_converted_to_every_format_and_back_as_it_was(tmp_path):
    saved = trainers_file()
    torch.save(saved, tmp_path / "first.pt")
    for target, (name, options) in TARGETS.items():
        (tmp_path / target).mkdir()
        there, back = tmp_path / target / name, tmp_path / target / "back.pt"
        convert(tmp_path / "first.pt", there, **options)
        convert(there, back)
        assert as_comparable(load(there).tree()) == as_comparable(saved)
        assert as_comparable(torch.load(back, weights_only=True)) == as_comparable(saved)


def test_torch_loads_a_file_as_it_was_saved_but_for_what_is_absent(tmp_path):
    save(tmp_path / "a.pt", {"step": 1, "params": {"w": torch.ones(2), "b": ABSENT}, "list": [torch.ones(1), ABSENT]})
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    expected = {"step": 1, "params": {"w": torch.ones(2)}, "list": [torch.ones(1), None]}
    assert as_comparable(loaded) == as_comparable(expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
def test_nested_folders_of_torch_come_back_and_torch_reads_ours(tmp_path):
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    tree = {"model": {"fc.weight": torch.ones(2)}, "list": [torch.zeros(1), {"a": torch.ones(1)}], "epoch": 3}
    dcp.save(tree, checkpoint_id=tmp_path / "theirs", no_dist=True)
    restored = load(tmp_path / "theirs").tree()
    assert restored.keys() == tree.keys()
    assert as_comparable({key: restored[key] for key in tree}) == as_comparable(tree)
    save(tmp_path / "ours", tree, format="dcp")
    dcp_to_torch_save(tmp_path / "ours", tmp_path / "ours.pt")
    assert as_comparable(torch.load(tmp_path / "ours.pt", weights_only=True)) == as_comparable(tree)


def test_a_state_dict_and_the_names_of_other_tools_are_nested(tmp_path):
    flat = {"fc.weight": torch.ones(1), "fc.bias": torch.zeros(1)}
    for name in ("a.pt", "a.safetensors"):
        save(tmp_path / name, flat)
        assert as_comparable(load(tmp_path / name).tree()) == as_comparable(fn.tree.unflatten(flat))
    convert(tmp_path / "a.pt", tmp_path / "b.pt", [Rename("fc.{name}", "{name}")])
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == ["weight", "bias"]


def test_parts_have_their_part_of_the_structure(tmp_path):
    tree = {"model": {"fc.w": torch.ones(1)}, "optimizer": {"state": {0: {"step": torch.ones(())}}, "groups": [1]}}
    save(tmp_path / "a.safetensors", tree)
    assert as_comparable(load(tmp_path / "a.safetensors", "optimizer").tree()) == as_comparable(tree["optimizer"])
    assert load(tmp_path / "a.safetensors", "model").tree() == {"fc": {"w": torch.ones(1)}}
    assert load(tmp_path / "a.safetensors").select("model.**").tree() == {"model": {"fc": {"w": torch.ones(1)}}}


def test_what_users_type_first_says_what_to_write(tmp_path):
    save(tmp_path / "a.pt", {"params": {"w": torch.ones(1)}, "step": 3})
    run = load(tmp_path / "a.pt")
    with pytest.raises(KeyError, match=r"'params' is no tensor, but names begin with it: ckpt.tree\(\)"):
        run["params"]
    with pytest.raises(KeyError, match=r"'step' is a value: ckpt.extras\['step'\], or ckpt.tree\(\)"):
        run["step"]
    assert run.get("params") is None
    with pytest.raises(CheckpointError, match="a tree is nested dicts, and this is 'not a tree'"):
        save(tmp_path / "b.pt", "not a tree")
    assert not (tmp_path / "b.pt").exists()


def test_keys_that_text_cannot_hold_are_refused(tmp_path):
    tree = {"a": {torch.float32: torch.ones(1)}}
    with pytest.raises(CheckpointError, match="a key of a dict is neither a number nor a string: a dtype"):
        save(tmp_path / "a.safetensors", tree)
    assert not list(tmp_path.iterdir())
