"""Random trees, dtypes and rules: what goes through a file or a plan comes back bit for bit."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnet as fn
from funcnet.checkpoint import (
    CheckpointError,
    convert,
    from_toml,
    inverse,
    load,
    plan,
    save,
    to_toml,
    verify,
)
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._index_maps import compute_index_map, identity_map
from funcnet.checkpoint._node_reader import NodeReader, make_constant_tensor
from funcnet.checkpoint._nodes import ConstantNode, SourceNode
from tests.checkpoint.random_rules import random_checkpoint, random_rules
from tests.checkpoint.trees import bits_by_name, random_tensor

KEYS = st.text(
    st.characters(codec="utf-8", exclude_characters="./\\\0", exclude_categories=["Cs"]), min_size=1, max_size=6
)
LEAVES = st.builds(
    lambda shape, dtype, seed: random_tensor(tuple(shape), dtype, seed),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(list(DTYPES.values())),
    st.integers(0, 2**31),
)
TREES = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=4),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=6,
)
TARGETS = [
    ("a.safetensors", {}),
    ("a.pt", {}),
    ("a.npz", {}),
    ("a", {"shard_size": 40}),
    ("a", {"format": "dcp"}),
    ("a", {"shard_size": 40, "format": "pt"}),
]
settings.register_profile("files", deadline=None, derandomize=True)


@settings(settings.get_profile("files"), max_examples=60)
@given(tree=TREES, target=st.sampled_from(TARGETS))
def test_random_trees_come_back_from_every_format(tree, target):
    name, options = target
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/{name}", tree, **options)
        ckpt = load(f"{folder}/{name}")
        assert bits_by_name(ckpt) == bits_by_name(fn.tree.flatten(tree))
        assert bits_by_name(fn.tree.flatten(ckpt.tree())) == bits_by_name(fn.tree.flatten(tree))


@settings(settings.get_profile("files"), max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_random_rules_go_there_and_back(seed):
    rng = random.Random(seed)
    flat, aliases = random_checkpoint(rng)
    rules = random_rules(rng, flat, aliases, rng.randint(1, 8))
    assert from_toml(to_toml(rules)) == tuple(rules)
    assert inverse(inverse(rules)) == tuple(rules)
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (Path(folder, name) for name in ("a.safetensors", "b.pt", "c.safetensors"))
        save(first, flat, aliases=aliases)
        source = load(first)
        assert plan(source.specs, rules, source.aliases).proof.bijection
        try:
            convert(first, second, rules, certificate=Path(folder, "c.json"))
        except CheckpointError:  # a signalling NaN, which a cast makes a quiet one
            return
        assert verify(Path(folder, "c.json")) == []
        convert(second, third, rules, inverse=True)
        restored = load(third)
        assert bits_by_name(restored) == {name: bits_by_name(source)[name] for name in restored}
        assert set(restored) == set(source)
        assert restored.aliases == source.aliases


@settings(settings.get_profile("files"), max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_bytes_go_where_the_index_maps_say(seed):
    """Two readings of one plan: elements picked by index tensors, and bytes as the stream moves them."""
    rng = random.Random(seed)
    flat, _ = random_checkpoint(rng, dtypes=[torch.int64])
    flat.pop("copy.weight", None)
    rules = random_rules(rng, flat, {}, rng.randint(1, 10))
    numbered, offset, parts = {}, 0, []
    for name, tensor in flat.items():
        numbered[name] = identity_map(tuple(tensor.shape), offset)
        offset += tensor.numel()
        parts.append(tensor.reshape(-1))
    specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in flat.items()}
    proved = plan(specs, rules)

    def leaf(node):
        nonlocal offset
        if isinstance(node, SourceNode):
            return numbered[node.name]
        if isinstance(node, ConstantNode):
            if id(node) not in numbered:
                numbered[id(node)] = identity_map(node.shape, offset)
                offset += make_constant_tensor(node).numel()
                parts.append(make_constant_tensor(node).reshape(-1).to(torch.int64))
            return numbered[id(node)]
        return None

    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/a.safetensors", flat)
        reader = NodeReader(load(f"{folder}/a.safetensors").entries)
        for name, node in proved.targets.items():
            if node.spec.dtype is not torch.int64:
                continue
            index = compute_index_map(node, leaf).to_tensor()
            expected = torch.cat(parts)[index]
            reader.release_sources(except_for=node)
            assert b"".join(map(bytes, reader.iter_bytes(node))) == bytes(expected.contiguous().numpy().tobytes()), name
            assert torch.equal(reader.compute_tensor(node), expected)
