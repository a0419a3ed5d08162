"""Trees as vectors, as members of an ensemble, and maps that see paths."""

from __future__ import annotations

import math

import pytest
import torch

import funcnet as fn
from funcnet.tree import ABSENT
from tests.helpers import assert_identical

NET = fn.Sequential(fn.Linear(3, 4), fn.ReLU(), fn.Linear(4, 2))


def random_tree(seed: int = 0) -> dict:
    """A tree with every kind of leaf: two floating dtypes, complex, integer, bool, None and an absent one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "single": {"w": draw(7, 5), "b": draw(5)},
        "half": draw(3, 4).bfloat16(),
        "z": torch.complex(draw(6), draw(6)),
        "steps": torch.tensor(5 + seed),
        "mask": torch.tensor([True, False]),
        "skipped": None,
        "gone": ABSENT,
    }


def vector(tree: dict) -> torch.Tensor:
    """All numbers of the inexact leaves, as complex128."""
    leaves = [leaf for leaf in fn.tree.flatten(tree).values() if leaf is not None]
    return torch.cat(
        [leaf.reshape(-1).to(torch.complex128) for leaf in leaves if leaf.dtype.is_floating_point or leaf.is_complex()]
    )


@pytest.mark.parametrize("ord", [2.0, 1.0, math.inf, -math.inf, 3.0, 0.0, 2])
def test_norm_is_that_of_the_vector(ord):
    tree = random_tree()
    torch.testing.assert_close(
        fn.tree.norm(tree, ord).double(), torch.linalg.vector_norm(vector(tree), ord), rtol=1e-3, atol=0
    )
    small = {key: tree[key] for key in ("single", "steps", "skipped")}
    torch.testing.assert_close(
        fn.tree.norm(small, ord), torch.linalg.vector_norm(vector(small), ord).float(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("ord", [2.0, 1.0, math.inf, 3.0])
def test_norm_has_the_bits_of_get_total_norm(ord):
    generator = torch.Generator().manual_seed(0)
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.float64, torch.float16]
    for count in range(1, 30):
        leaves = [
            torch.randn(count, 17, generator=generator).to(dtypes[index % (1 + count % 5)]) for index in range(count)
        ]
        tree = {str(index): leaf for index, leaf in enumerate(leaves)}
        assert_identical(fn.tree.norm(tree, ord), torch.nn.utils.get_total_norm(leaves, ord))


def test_dot_is_that_of_the_vectors():
    left, right = random_tree(0), random_tree(1)
    torch.testing.assert_close(
        fn.tree.dot(left, right).to(torch.complex128), torch.vdot(vector(left), vector(right)), rtol=1e-2, atol=1e-2
    )
    del left["half"], right["half"]
    torch.testing.assert_close(fn.tree.dot(left, right), torch.vdot(vector(left), vector(right)).to(torch.complex64))
    mixed = fn.tree.dot({"w": torch.ones(2)}, {"w": torch.ones(2, dtype=torch.float64)})
    assert_identical(mixed, torch.tensor(2.0, dtype=torch.float64))


def test_a_leaf_without_numbers_has_no_say_in_the_largest():
    """Regression: torch knows no largest number of none."""
    tree = {"none": torch.ones(0, 3), "w": torch.tensor([3.0, -4.0])}
    assert fn.tree.norm(tree, float("inf")) == 4 and fn.tree.norm(tree, float("-inf")) == 3
    assert fn.optim.clip_grad_norm(tree, 1.0, float("inf"))[1] == 4


def test_trees_without_numbers_have_norm_and_product_zero():
    for tree in ({}, {"a": {}}, {"a": None, "b": ABSENT}, {"steps": torch.tensor(3)}):
        assert_identical(fn.tree.norm(tree), torch.tensor(0.0))
        assert_identical(fn.tree.dot(tree, tree), torch.tensor(0.0))


def test_sums_are_torchs_own_leaf_by_leaf():
    left, right = random_tree(0), random_tree(1)
    del left["mask"], right["mask"]  # torch has no difference of bools
    for verb, operator in ((fn.tree.add, torch.add), (fn.tree.sub, torch.sub)):
        for alpha in (1, 0.3, -2.0):
            result = verb(left, right, alpha=alpha)
            assert list(result) == list(left)
            assert result["skipped"] is None and result["gone"] is ABSENT
            assert_identical(result["steps"], operator(left["steps"], right["steps"]))
            for path in ("single.w", "single.b", "half", "z"):
                expected = operator(fn.tree.get(left, path), fn.tree.get(right, path), alpha=alpha)
                assert_identical(fn.tree.get(result, path), expected)
        by_tensor = verb(left, right, alpha=torch.tensor(0.5))
        torch.testing.assert_close(by_tensor["single"], verb(left, right, alpha=0.5)["single"])
        assert by_tensor["half"].dtype == torch.bfloat16
    assert fn.tree.add({"step": 3, "w": 1.5}, {"step": 4, "w": 1.0}) == {"step": 7, "w": 2.5}


def test_scale_leaves_integers_and_structure_alone():
    tree = random_tree()
    half = fn.tree.scale(tree, 0.5)
    assert list(half) == list(tree)
    assert half["steps"] is tree["steps"] and half["mask"] is tree["mask"]
    assert half["skipped"] is None and half["gone"] is ABSENT
    for path in ("single.w", "half", "z"):
        assert_identical(fn.tree.get(half, path), fn.tree.get(tree, path) * 0.5)
        assert_identical(fn.tree.get(fn.tree.scale(tree, torch.tensor(0.5)), path), fn.tree.get(half, path))


def test_zeros_like_has_the_layout_of_the_leaves():
    tree = {
        "w": torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "n": torch.tensor(3),
        "gone": ABSENT,
    }
    zeros = fn.tree.zeros_like(tree)
    assert zeros["w"].stride() == tree["w"].stride() and not zeros["w"].any()
    assert zeros["n"].dtype == torch.int64 and zeros["gone"] is ABSENT
    single = fn.tree.zeros_like(tree, dtype=torch.float64, device="meta")
    assert single["w"].dtype == torch.float64 and single["w"].is_meta and single["n"].dtype == torch.int64


def test_a_tensor_at_two_paths_counts_twice():
    shared = torch.tensor([3.0, 4.0])
    tree = {"a": shared, "b": shared}
    torch.testing.assert_close(fn.tree.norm(tree), torch.tensor(50.0).sqrt())
    assert fn.tree.ravel(tree)[0].shape == (4,)
    tied = fn.Sequential(fn.Linear(3, 3), fn.Linear(3, 3)).tie({"1.weight": "0.weight"})
    params, _ = tied.init(0)
    assert fn.tree.ravel(params)[0].shape == (15,)


def test_ravel_and_back():
    params, _ = NET.init(0)
    flat, unravel = fn.tree.ravel(params)
    assert_identical(flat, torch.nn.utils.parameters_to_vector(fn.tree.flatten(params).values()))
    assert_identical(unravel(flat), params)
    mixed = {
        "half": torch.randn(3).bfloat16(),
        "none": None,
        "w": torch.randn(2, 2).double(),
        "gone": ABSENT,
        "empty": {},
    }
    flat, unravel = fn.tree.ravel(mixed)
    assert flat.dtype == torch.float64
    assert_identical(unravel(flat), mixed)
    counts = {"a": torch.tensor([1, 2]), "b": torch.tensor([True])}
    assert_identical(fn.tree.ravel(counts)[1](fn.tree.ravel(counts)[0]), counts)
    flat, unravel = fn.tree.ravel({"a": {}})
    assert flat.shape == (0,) and unravel(flat) == {"a": {}}


def test_ravel_refuses_what_would_lose_numbers():
    with pytest.raises(fn.TreeError, match=r"all floating, or all integer:\n  'n' is torch.int64\n  'm' is torch.bool"):
        fn.tree.ravel({"w": torch.ones(2), "n": torch.tensor(2**53 + 1), "m": torch.tensor(True)})
    _, unravel = fn.tree.ravel({"w": torch.ones(2)})
    with pytest.raises(fn.TreeError, match=r"a vector of shape \(2,\), got shape \(3, 2\)\. Of several"):
        unravel(torch.ones(3, 2))


def test_stack_and_unstack_are_inverse():
    members = [NET.init(seed)[0] for seed in range(3)]
    stacked = fn.tree.stack(members)
    assert_identical(stacked, fn.tree.map(lambda *leaves: torch.stack(leaves), *members))
    assert_identical(fn.tree.unstack(stacked), members)
    x = torch.randn(5, 3)
    outputs = torch.vmap(NET, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(outputs, torch.stack([NET(params, x) for params in members]))
    others = [{"w": torch.randn(2, 3), "n": torch.tensor([step]), "none": None, "gone": ABSENT} for step in range(4)]
    assert_identical(fn.tree.unstack(fn.tree.stack(others, -1), -1), others)
    assert fn.tree.unstack(fn.tree.stack(others))[1]["w"]._base is not None


def test_stack_and_unstack_name_what_does_not_fit():
    with pytest.raises(
        fn.TreeError, match=r"stack needs trees of one structure; these paths are not in all of them: b, c"
    ):
        fn.tree.stack([{"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "c": torch.ones(1)}])
    with pytest.raises(
        fn.TreeError, match=r"'a' is float32 \(2,\) in tree 1, and float32 \(1,\) in tree 0\n  'b' is float64"
    ):
        fn.tree.stack(
            [
                {"a": torch.ones(1), "b": torch.ones(1)},
                {"a": torch.ones(2), "b": torch.ones(1).double()},
            ]
        )
    with pytest.raises(fn.TreeError, match="at least one tree"):
        fn.tree.stack([])
    with pytest.raises(fn.TreeError, match=r"'a': 2\n  'b': 3\n  'c': no axis 0, its shape is \(\)"):
        fn.tree.unstack({"a": torch.ones(2), "b": torch.ones(3), "c": torch.tensor(1)})
    with pytest.raises(fn.TreeError, match="the tree has none"):
        fn.tree.unstack({"a": {}})


def test_what_is_no_tensor_is_named():
    tree = {"w": torch.ones(2), "step": 3, "layers": {"list": [torch.ones(1)]}}
    for verb in (fn.tree.norm, fn.tree.ravel, fn.tree.unstack, lambda tree: fn.tree.dot(tree, tree)):
        with pytest.raises(
            fn.TreeError, match=r"takes nested dicts of tensors:\n  'step' is of type int\n  'layers\.list' is"
        ):
            verb(tree)


def test_two_trees_need_the_same_paths_and_shapes():
    left, right = {"a": torch.ones(1), "b": None}, {"a": None, "b": torch.ones(1), "c": ABSENT}
    for verb in (fn.tree.add, fn.tree.sub, fn.tree.dot):
        with pytest.raises(fn.TreeError, match="not in all of them: a, b"):
            verb(left, right)
    with pytest.raises(fn.TreeError, match=r"'a' has shape \(1,\) in one tree and \(2,\) in the other"):
        fn.tree.dot({"a": torch.ones(1)}, {"a": torch.ones(2)})


def test_map_with_path_calls_in_order():
    tree = {"b": {"z": 1, "a": 2}, "a": 3, "none": None, "gone": ABSENT, "empty": {}}
    seen = []
    result = fn.tree.map_with_path(lambda path, *leaves: seen.append((path, *leaves)) or sum(leaves), tree, tree)
    assert seen == [("b.z", 1, 1), ("b.a", 2, 2), ("a", 3, 3)]
    assert result == {"b": {"z": 2, "a": 4}, "a": 6, "none": None, "gone": ABSENT, "empty": {}}
    assert list(result) == list(tree) and list(result["b"]) == ["z", "a"]
    with pytest.raises(fn.TreeError, match=r"map_with_path needs trees of one structure; .* b\.x, b\.z"):
        fn.tree.map_with_path(lambda *leaves: leaves, {"b": {"x": 1}}, {"b": {"z": 1}})


def verbs(params: dict, other: dict) -> torch.Tensor:
    """A number that goes through every verb."""
    total = fn.tree.add(params, fn.tree.scale(other, 0.5), alpha=0.1)
    total = fn.tree.sub(total, fn.tree.zeros_like(params))
    flat, unravel = fn.tree.ravel(total)
    members = fn.tree.unstack(fn.tree.stack([unravel(flat * 2), total]))
    total = fn.tree.map_with_path(lambda path, leaf: leaf * len(path), members[0])
    return fn.tree.norm(total) * fn.tree.dot(members[1], other)


def test_verbs_are_differentiated_mapped_and_compiled():
    params, other = (fn.tree.to(NET.init(seed)[0], torch.float64) for seed in (0, 1))
    grads = torch.func.grad(verbs)(params, other)
    flat, unravel = fn.tree.ravel(params)
    torch.autograd.gradcheck(lambda flat: verbs(unravel(flat), other), flat.requires_grad_())
    torch.autograd.gradcheck(lambda flat: fn.tree.norm(unravel(flat)), flat, check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda flat: fn.tree.norm(unravel(flat)), flat)
    _, by_backward = fn.value_and_grad(verbs)(params, other)
    torch.testing.assert_close(by_backward, grads)
    members = fn.tree.stack([params, other, fn.tree.scale(params, 3.0)])
    values = torch.vmap(verbs, in_dims=(0, None))(members, other)
    torch.testing.assert_close(values, torch.stack([verbs(member, other) for member in fn.tree.unstack(members)]))
    tangent = fn.random.normal_like(fn.random.key(0), params)
    _, along = torch.func.jvp(lambda params: verbs(params, other), (params,), (tangent,))
    torch.testing.assert_close(along, fn.tree.dot(grads, tangent))
    torch._dynamo.reset()
    compiled = torch.compile(verbs, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, other), verbs(params, other))


def test_normal_like_draws_by_path():
    key = fn.random.key(0)
    tree = random_tree()
    noise = fn.random.normal_like(key, tree)
    assert list(noise) == list(tree) and noise["skipped"] is None and noise["gone"] is ABSENT
    assert not noise["steps"].any() and noise["mask"].dtype == torch.bool
    for path in ("single.w", "half", "z"):
        assert fn.tree.get(noise, path).dtype == fn.tree.get(tree, path).dtype
        assert fn.tree.get(noise, path).shape == fn.tree.get(tree, path).shape
    alone = fn.random.normal_like(key, {"single": {"w": tree["single"]["w"]}})
    assert_identical(alone["single"]["w"], noise["single"]["w"])
    equal_shapes = fn.random.normal_like(key, {"a": torch.ones(9), "b": torch.ones(9)})
    assert not torch.equal(equal_shapes["a"], equal_shapes["b"])
    last = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert fn.random.normal_like(key, last).stride() == last.stride()
    many = fn.random.normal_like(key, torch.ones(100_000), mean=3.0, std=0.5)
    assert abs(many.mean() - 3.0) < 0.01 and abs(many.std() - 0.5) < 0.01


def test_normal_like_under_vmap_and_compile_and_with_a_seed():
    keys = fn.random.split(fn.random.key(3), 4)
    tree = {"w": torch.ones(3, 2), "b": torch.ones(2), "n": torch.tensor(1)}
    mapped = torch.vmap(lambda key: fn.random.normal_like(key, tree))(keys)
    assert_identical(mapped, fn.tree.stack([fn.random.normal_like(key, tree) for key in keys]))
    torch._dynamo.reset()
    compiled = torch.compile(lambda key: fn.random.normal_like(key, tree), fullgraph=True, backend="aot_eager")
    assert_identical(compiled(keys[0]), fn.random.normal_like(keys[0], tree))
    torch.manual_seed(5)
    expected = [torch.randn(3, 2), torch.randn(2)]
    drawn = fn.random.normal_like(fn.random.Stream(5), tree)
    assert_identical([drawn["w"], drawn["b"]], expected)
    with pytest.raises(fn.RandomnessError, match="expected a Key"):
        fn.random.normal_like(0, tree)
