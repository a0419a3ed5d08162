"""Trees taken apart, put together and changed in places."""

from __future__ import annotations

import copy
import pickle

import optree
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import funcnet as fn
from funcnet.tree import ABSENT
from tests.helpers import assert_identical
from tests.tree.test_tree import NESTED

NET = fn.Sequential(fn.Linear(3, 4), fn.ReLU(), fn.Linear(4, 2))


@given(NESTED, st.data())
def test_combine_is_the_inverse_of_partition(tree, data):
    paths = fn.tree.paths(tree)
    meant = set(data.draw(st.lists(st.sampled_from(paths)))) if paths else set()
    chosen, others = fn.tree.partition(tree, lambda path: path in meant)
    assert fn.tree.combine(chosen, others) == tree
    assert fn.tree.combine(others, chosen) == tree
    assert list(fn.tree.flatten(fn.tree.combine(chosen, others))) == paths
    assert set(fn.tree.paths(chosen)) == meant
    assert set(fn.tree.paths(others)) == set(paths) - meant


def test_a_partition_is_differentiated_as_it_is():
    params, _ = NET.init(0)
    x = torch.randn(5, 3)
    trainable, frozen = fn.tree.partition(params, "2")

    def loss(trainable):
        return NET(fn.tree.combine(trainable, frozen), x).square().sum()

    value, grads = fn.value_and_grad(loss)(trainable)
    _, full = fn.value_and_grad(lambda params: NET(params, x).square().sum())(params)
    assert grads["0"] == {"weight": ABSENT, "bias": ABSENT}
    assert_identical(grads["2"], full["2"])
    assert_identical(torch.func.grad(loss)(trainable)["2"], grads["2"])
    stepped = fn.tree.map(lambda leaf, grad: leaf - 0.1 * grad, trainable, grads)
    assert loss(stepped) < value
    many = torch.vmap(lambda scale: loss(fn.tree.map(lambda leaf: leaf * scale, trainable)))(torch.ones(2))
    torch.testing.assert_close(many[0], value)


def test_absent_is_structure_everywhere():
    assert optree.tree_leaves({"a": ABSENT, "b": 1}) == [1]
    assert torch.utils._pytree.tree_leaves({"a": ABSENT, "b": 1}) == [1]
    assert optree.tree_map(lambda leaf: leaf + 1, {"a": ABSENT, "b": 1}) == {"a": ABSENT, "b": 2}
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
    assert copy.deepcopy(ABSENT) is ABSENT
    assert not ABSENT


def test_a_net_says_which_leaves_are_absent():
    trainable, _ = fn.tree.partition(NET.init(0)[0], "2.weight")
    with pytest.raises(fn.TreeError, match=r"missing +params\['0'\]\['weight'\]"):
        NET(trainable, torch.ones(1, 3))


def test_combine_names_what_is_there_twice_or_not_at_all():
    with pytest.raises(fn.TreeError, match=r"'a' is in 2 of the 2 trees\n  'b\.c' is in none of the 2 trees"):
        fn.tree.combine({"a": 1, "b": {"c": ABSENT}}, {"a": 2, "b": {"c": ABSENT}})


def test_a_pattern_that_means_nothing_is_a_mistake():
    with pytest.raises(fn.TreeError, match=r"'haed' matches nothing\. Near it: 'head'\."):
        fn.tree.partition({"body": 1, "head": 2}, "haed")
    with pytest.raises(fn.TreeError, match="does not fit the tree"):
        fn.tree.replace({"body": 1}, "head", 3)


def test_negations_alone_take_out_of_everything():
    tree = {"fc": {"weight": 1, "bias": 2}, "bn": {"weight": 3}}
    for selector in ("!bn", ["!bn"], ["fc", "!bn"], ["**", "!bn"]):
        trainable, frozen = fn.tree.partition(tree, selector)
        assert (fn.tree.paths(trainable), fn.tree.paths(frozen)) == (["fc.weight", "fc.bias"], ["bn.weight"])
    assert fn.tree.paths(fn.tree.partition(tree, [])[0]) == []
    assert fn.tree.replace(tree, ["!bn", "!**.bias"], 0) == {"fc": {"weight": 0, "bias": 2}, "bn": {"weight": 3}}
    assert fn.Sequential({"fc": fn.Linear(1, 1), "bn": fn.BatchNorm1d(1)}).freeze("!bn").frozen == (
        "fc.weight",
        "fc.bias",
    )


def test_replace_leaves_the_given_tree_alone_and_shares_the_rest():
    params, _ = NET.init(0)
    before = dict(fn.tree.flatten(params))
    new = fn.tree.replace(params, "0.weight", torch.zeros(4, 3))
    assert_identical(fn.tree.flatten(params), before)
    assert bool((new["0"]["weight"] == 0).all())
    assert new["2"]["weight"] is params["2"]["weight"]
    surgery = fn.tree.replace(params, "0", {"weight": torch.ones(4, 3), "bias": torch.ones(4)})
    assert bool((NET(surgery, torch.zeros(1, 3)) == NET(params, torch.zeros(1, 3))).all()) is False
    assert fn.tree.replace({"a": 1, "b": 2}, True, 0) == {"a": 0, "b": 0}
    assert fn.tree.replace({"a": {"x": 1}}, "", {"z": 2}) == {"z": 2}


def test_a_subtree_takes_the_place_of_a_subtree_only():
    with pytest.raises(fn.TreeError, match="is not the path of one"):
        fn.tree.replace({"a": {"x": 1}}, "a.x", {"y": 1})
    with pytest.raises(fn.TreeError, match="is not the path of one"):
        fn.tree.replace({"a": {"x": 1}}, "*", {"y": 1})
