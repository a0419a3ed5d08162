"""Paths, selectors and maps."""

from __future__ import annotations

import optree
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import funcnet as fn
from tests.helpers import assert_identical

KEYS = st.text("ab01_", min_size=1, max_size=3)
TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=4), max_leaves=12)
NESTED = st.dictionaries(KEYS, TREES, max_size=4)


@given(NESTED)
def test_unflatten_is_the_inverse_of_flatten(tree):
    assert fn.tree.unflatten(fn.tree.flatten(tree)) == tree


@given(NESTED)
def test_every_flat_path_leads_to_its_leaf(tree):
    assert all(fn.tree.get(tree, path) == leaf for path, leaf in fn.tree.flatten(tree).items())


@given(NESTED)
def test_map_keeps_structure_and_key_order(tree):
    mapped = fn.tree.map(lambda leaf: leaf + 1, tree)
    assert list(fn.tree.flatten(mapped).items()) == [(path, leaf + 1) for path, leaf in fn.tree.flatten(tree).items()]


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 1, "a": 2}, {"a.b": 1, "a.b.c": 2}])
def test_a_path_is_a_leaf_or_a_node(flat):
    with pytest.raises(fn.TreeError, match="is a leaf"):
        fn.tree.unflatten(flat)


def test_get_says_how_far_it_came():
    tree = {"layers": {"0": {"weight": 1}}}
    assert fn.tree.get(tree, "") == tree
    with pytest.raises(fn.TreeError, match=r"nothing at 'layers\.1\.weight': 'layers' holds \['0'\], not '1'"):
        fn.tree.get(tree, "layers.1.weight")
    with pytest.raises(fn.TreeError, match=r"'layers\.0\.weight' is a leaf"):
        fn.tree.get(tree, "layers.0.weight.x")


def test_map_names_the_paths_that_differ():
    with pytest.raises(fn.TreeError, match=r"not in all of them: b\.c, b\.d"):
        fn.tree.map(lambda *leaves: leaves, {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"d": 2}})


def test_to_moves_all_and_casts_what_is_inexact():
    tree = {
        "w": torch.ones(2),
        "z": torch.ones(2, dtype=torch.complex64),
        "n": torch.tensor(3),
        "m": torch.tensor([True]),
    }
    moved = fn.tree.to(tree, "meta")
    assert all(leaf.is_meta for leaf in moved.values())
    dtypes = [
        leaf.dtype for leaf in fn.tree.to({"w": tree["w"], "n": tree["n"], "m": tree["m"]}, torch.float64).values()
    ]
    assert dtypes == [torch.float64, torch.int64, torch.bool]
    assert_identical(tree["w"], torch.ones(2))
    with pytest.raises(TypeError, match="memory_format"):
        fn.tree.to(tree, memory_format=torch.channels_last)


def test_optree_reads_the_trees():
    params, _ = fn.Sequential(fn.Linear(2, 3), fn.Linear(3, 1)).init(0)
    assert sum(leaf.numel() for leaf in optree.tree_leaves(params)) == 13


PATHS = ["", "embed", "blocks", "blocks.0", "blocks.0.bn", "blocks.1", "blocks.1.bn", "blocks.10.fc", "head", "header"]


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        (True, PATHS),
        (False, []),
        ("", PATHS),
        ("**", PATHS),
        ("head", ["head"]),
        ("head*", ["head", "header"]),
        ("blocks.1", ["blocks.1", "blocks.1.bn"]),
        ("blocks.*.bn", ["blocks.0.bn", "blocks.1.bn"]),
        ("**.bn", ["blocks.0.bn", "blocks.1.bn"]),
        ("**.blocks.0", ["blocks.0", "blocks.0.bn"]),
        (["blocks", "!**.bn"], ["blocks", "blocks.0", "blocks.1", "blocks.10.fc"]),
        ("!blocks", [path for path in PATHS if not path.startswith("blocks")]),
        (["!blocks.*.bn", "!head*"], ["", "embed", "blocks", "blocks.0", "blocks.1", "blocks.10.fc"]),
        (["!"], []),
        (lambda path: path.endswith("c"), ["blocks.10.fc"]),
        ([], []),
    ],
    ids=lambda value: "a predicate" if callable(value) else repr(value),
)
def test_selectors(selector, meant):
    test = fn.tree.select(selector)
    assert [path for path in PATHS if test(path)] == meant


def test_a_selector_that_can_be_read_in_two_ways_is_refused():
    with pytest.raises(fn.TreeError) as caught:
        fn.tree.select(["!**.bn", "blocks"])
    for reading in (["blocks", "!**.bn"], ["**", "!**.bn", "blocks"]):
        assert repr(reading) in str(caught.value)
        fn.tree.select(reading)


@pytest.mark.parametrize("wrong", [None, 3, [1], {"a": True}], ids=repr)
def test_what_selects_nothing_sensible_is_refused(wrong):
    with pytest.raises(TypeError, match="a selector is"):
        fn.tree.select(wrong)
