"""Index maps are the index tensors that torch's own operations give."""

from __future__ import annotations

import math
import random

import torch

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._index_maps import compute_index_map, identity_map
from funcnet.checkpoint._nodes import (
    CatNode,
    NarrowNode,
    PermuteNode,
    ReshapeNode,
    SourceNode,
    cat_nodes,
    narrow_node,
    permute_node,
    reshape_node,
)

SIZES = [1, 2, 3, 4, 6, 8]


def run_with_torch(node, env):
    """The node carried out by torch on plain tensors."""
    if isinstance(node, SourceNode):
        return env[node.name]
    if isinstance(node, CatNode):
        return torch.cat([run_with_torch(piece, env) for piece in node.pieces], node.dim)
    tensor = run_with_torch(node.operand, env)
    if isinstance(node, PermuteNode):
        return tensor.permute(*node.dims)
    if isinstance(node, ReshapeNode):
        return tensor.reshape(node.shape)
    assert isinstance(node, NarrowNode)
    return tensor.narrow(node.dim, node.start, node.shape[node.dim])


def random_shape_of(rng, count):
    shape = []
    for _ in range(rng.randint(0, 3)):
        shape.append(rng.choice([d for d in range(1, count + 1) if count % d == 0]))
        count //= shape[-1]
    return (*shape, count)


def random_node(rng):
    """Sources as integer tensors, and nodes made of them by random steps."""
    env, offsets, pool, reached = {}, {}, [], 0
    for number in range(rng.randint(1, 3)):
        shape = tuple(rng.choice([*SIZES, 0] if rng.random() < 0.1 else SIZES) for _ in range(rng.randint(0, 3)))
        count = math.prod(shape)
        env[str(number)], offsets[str(number)] = torch.arange(count).view(shape) + reached, reached
        reached += count
        pool.append(SourceNode(Spec(shape, torch.int64), str(number)))
    for _ in range(rng.randint(1, 7)):
        node = rng.choice(pool)
        dims = list(range(len(node.shape)))
        step = rng.choice(["permute", "reshape", "narrow", "cat"])
        if step == "permute":
            rng.shuffle(dims)
            pool.append(permute_node(node, dims))
        elif step == "reshape":
            count = math.prod(node.shape)
            pool.append(reshape_node(node, random_shape_of(rng, count) if count else (*node.shape, rng.randint(0, 2))))
        elif dims:
            dim = rng.choice(dims)
            if step == "narrow":
                start = rng.randint(0, node.shape[dim])
                pool.append(narrow_node(node, dim, start, rng.randint(0, node.shape[dim] - start)))
            else:
                other_sizes = [*node.shape[:dim], *node.shape[dim + 1 :]]
                fits = [
                    o
                    for o in pool
                    if len(o.shape) == len(dims) and [*o.shape[:dim], *o.shape[dim + 1 :]] == other_sizes
                ]
                pool.append(cat_nodes([rng.choice(fits) for _ in range(rng.randint(1, 3))], dim))
    return env, offsets, pool


def test_maps_are_the_index_tensors_and_equal_when_they_are():
    blocks = elements = 0
    for seed in range(1500):
        env, offsets, pool = random_node(random.Random(seed))

        def leaf(node, at=offsets):
            return identity_map(node.shape, at[node.name]) if isinstance(node, SourceNode) else None

        maps = [compute_index_map(node, leaf) for node in pool[-4:]]
        tensors = [run_with_torch(node, env) for node in pool[-4:]]
        for left, tensor in zip(maps, tensors, strict=True):
            assert torch.equal(left.to_tensor(), tensor), seed
            blocks += left.base.numel()
            elements += tensor.numel()
            for right, expected in zip(maps, tensors, strict=True):
                assert left.equals(right) == (tensor.shape == expected.shape and torch.equal(tensor, expected)), seed
    assert blocks < elements / 3  # they are small, too


def test_large_tensors_take_few_blocks():
    size = 1 << 20
    node = SourceNode(Spec((size, 4096), torch.bfloat16), "w")
    source_map = identity_map(node.shape)

    def leaf(node):
        return source_map if isinstance(node, SourceNode) else None

    assert compute_index_map(permute_node(node, (1, 0)), leaf).base.numel() == 1
    halves = reshape_node(permute_node(reshape_node(node, (size // 128, 2, 64, 4096)), (0, 2, 1, 3)), node.shape)
    assert compute_index_map(halves, leaf).base.numel() == size // 2  # neighbours come from one stride
    parts = [narrow_node(node, 0, 0, size // 4), narrow_node(node, 0, size // 4, 3 * size // 4)]
    joined = cat_nodes([permute_node(permute_node(part, (1, 0)), (1, 0)) for part in parts], 0)
    assert joined is node
