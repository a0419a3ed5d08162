"""Random checkpoints, and random lists of rules that fit them."""

from __future__ import annotations

import math

from funcnet.checkpoint import (
    Cast,
    Drop,
    Fill,
    Fuse,
    Interleave,
    Permute,
    Prefix,
    Rename,
    Replicate,
    Reshape,
    RuleError,
    Shard,
    Split,
    Stack,
    Tie,
    Transpose,
    Unstack,
    Untie,
    Within,
)
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._dtypes import DTYPES, dtype_name
from funcnet.checkpoint._nodes import ConstantNode
from funcnet.checkpoint.rules import State
from tests.checkpoint.trees import random_tensor, tensor_bits

SIZES = [1, 1, 2, 3, 4, 6, 8, 12]


def random_checkpoint(rng, dtypes=None):
    """Tensors by name, and ties: layers of one form, and others of any."""
    dtypes = dtypes or list(DTYPES.values())

    def shape():
        return tuple(rng.choice(SIZES) for _ in range(rng.randint(0, 3)))

    kinds = {f"attn.{key}": (shape(), rng.choice(dtypes)) for key in rng.sample("qkvo", rng.randint(1, 3))}
    form = {f"layers.{i}.{key}": kind for i in range(rng.randint(1, 12)) for key, kind in kinds.items()}
    form |= {name: (shape(), rng.choice(dtypes)) for name in rng.sample(["embed.weight", "norm", "head.w"], 2)}
    if rng.random() < 0.3:
        form["none"] = ((rng.choice([0, 2]), 0), rng.choice(dtypes))
    names = list(form)
    rng.shuffle(names)
    flat = {name: random_tensor(*form[name], seed=rng.randrange(2**31)) for name in names}
    aliases = {"tied.weight": rng.choice(names)} if rng.random() < 0.4 else {}
    if rng.random() < 0.4:
        flat["copy.weight"] = flat[rng.choice(names)].clone()
    return flat, aliases


def random_rules(rng, flat, aliases, count):
    """Rules of all kinds, each of which fits what the ones before it leave."""
    state = State.from_specs({name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in flat.items()}, aliases)
    rules = []
    for number in range(count):
        rule = _draw(rng, state, flat, number)
        try:
            state = rule.apply(state)
        except RuleError:
            continue  # a tie or a name is in its way
        rules.append(rule)
    return rules


def _draw(rng, state, flat, number):
    while True:
        name = rng.choice([*state.tensors])
        spec = state.tensors[name].spec
        layered = name if not name.startswith("layers.") else ".".join(["layers", "{i}", *name.split(".")[2:]])
        kind = rng.choice(KINDS)
        rule = kind(rng, state, flat, number, name, spec, layered)
        if rule is not None:
            return rule


def _rename(rng, state, flat, number, name, spec, layered):
    return Rename(layered, f"r{number}.{{i}}.w" if "{i}" in layered else f"r{number}.w")


def _prefix(rng, state, flat, number, name, spec, layered):
    return Prefix(add=f"p{number}.")


def _transpose(rng, state, flat, number, name, spec, layered):
    count = len(spec.shape)
    return Transpose(layered, (rng.randrange(count), rng.randrange(-count, 0))) if count else None


def _permute(rng, state, flat, number, name, spec, layered):
    dims = list(range(len(spec.shape)))
    rng.shuffle(dims)
    return Permute(layered, dims)


def _divisor(rng, size):
    return rng.choice([d for d in range(1, size + 1) if size % d == 0])


def _reshape(rng, state, flat, number, name, spec, layered):
    if not spec.shape or 0 in spec.shape:
        return None
    dim = rng.randrange(len(spec.shape))
    before = list(spec.shape)
    if rng.random() < 0.5:
        part = _divisor(rng, spec.shape[dim])
        return Reshape(
            layered,
            [*before[:dim], "a*b", *before[dim + 1 :]],
            [*before[:dim], "a", "b", *before[dim + 1 :]],
            {"a": part},
        )
    if dim + 1 == len(before):
        return Reshape(layered, [*before[:dim], "n"], [*before[:dim], 1, "n"])
    return Reshape(layered, before, [*before[:dim], before[dim] * before[dim + 1], *before[dim + 2 :]])


def _interleave(rng, state, flat, number, name, spec, layered):
    if not spec.shape or 0 in spec.shape:
        return None
    dim = rng.randrange(len(spec.shape))
    size = _divisor(rng, spec.shape[dim])
    return Interleave(layered, size, _divisor(rng, size), dim)


def _split(rng, state, flat, number, name, spec, layered):
    dims = [dim for dim, size in enumerate(spec.shape) if size > 1]
    if not dims:
        return None
    dim = rng.choice(dims)
    cuts = sorted(rng.sample(range(1, spec.shape[dim]), rng.randint(1, min(3, spec.shape[dim] - 1))))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, spec.shape[dim]], strict=True)]
    groups = _divisor(rng, math.gcd(*sizes))
    hole = ".{i}" if "{i}" in layered else ""
    return Split(layered, [f"s{number}{hole}.{part}" for part in range(len(sizes))], sizes, dim, groups=groups)


def _fuse(rng, state, flat, number, name, spec, layered):
    if not spec.shape:
        return None
    dim = rng.randrange(len(spec.shape))
    other_sizes = [*spec.shape[:dim], *spec.shape[dim + 1 :]]

    def fits(candidate):
        has_same_kind = candidate.dtype == spec.dtype and len(candidate.shape) == len(spec.shape)
        return has_same_kind and [*candidate.shape[:dim], *candidate.shape[dim + 1 :]] == other_sizes

    candidates = [key for key, node in state.tensors.items() if key != name and fits(node.spec) and node.shape[dim]]
    if not candidates or not spec.shape[dim]:
        return None
    sources = [name, *rng.sample(candidates, rng.randint(1, min(3, len(candidates))))]
    return Fuse(sources, f"f{number}.w", [state.tensors[candidate].shape[dim] for candidate in sources], dim)


def _stack(rng, state, flat, number, name, spec, layered):
    return Stack(layered, f"k{number}.w", rng.randint(0, len(spec.shape))) if "{i}" in layered else None


def _unstack(rng, state, flat, number, name, spec, layered):
    if not spec.shape or "{i}" in layered:
        return None
    return Unstack(layered, f"u{number}.{{j}}.w", rng.randrange(len(spec.shape)))


def _shard(rng, state, flat, number, name, spec, layered):
    if not spec.shape or 0 in spec.shape:
        return None
    dim = rng.randrange(len(spec.shape))
    return Shard(layered, f"{layered}.{{rank}}", _divisor(rng, spec.shape[dim]), dim)


def _replicate(rng, state, flat, number, name, spec, layered):
    return Replicate(layered, f"{layered}.{{rank}}", rng.randint(1, 3))


def _within(rng, state, flat, number, name, spec, layered):
    if not spec.shape or not name.startswith("layers."):
        return None
    return Within("layers.{name**}", [Transpose(layered.removeprefix("layers."), (0, -1)), Prefix(add=f"w{number}.")])


def _untie(rng, state, flat, number, name, spec, layered):
    return Untie(*rng.choice(list(state.aliases.items())), stored=rng.random() < 0.7) if state.aliases else None


def _tie(rng, state, flat, number, name, spec, layered):
    if rng.random() < 0.5:
        return Tie(f"t{number}.w", name, stored=False)
    copy = flat.get("copy.weight")
    if number or copy is None:
        return None
    equal_names = [
        candidate
        for candidate, tensor in flat.items()
        if candidate != "copy.weight" and tensor_bits(tensor) == tensor_bits(copy)
    ]
    return Tie("copy.weight", equal_names[0]) if equal_names[0] in state.tensors else None


def _cast(rng, state, flat, number, name, spec, layered):
    wider = {"bfloat16": "float32", "uint8": "int32", "int16": "int64", "float8_e5m2": "float16"}
    before = dtype_name(spec.dtype)
    return Cast(layered, before, wider[before]) if before in wider else None


def _fill(rng, state, flat, number, name, spec, layered):
    shape = (rng.choice(SIZES), rng.choice(SIZES))
    if "{i}" in layered:
        value = rng.choice([0, 1.5, "arange", "tril"])
        return Fill(f"z{number}.{{i}}.w", value, shape, "float32", beside=layered)
    value, dtype = rng.choice([(0, "bool"), ("tril", "bool"), (-3, "int64"), ("arange", "int64"), (1.5, "float16")])
    return Fill(f"z{number}.w", value, shape, dtype)


def _drop(rng, state, flat, number, name, spec, layered):
    node = state.tensors[name]
    return Drop(name, node.value, spec.shape, dtype_name(spec.dtype)) if isinstance(node, ConstantNode) else None


KINDS = [
    _rename,
    _prefix,
    _transpose,
    _permute,
    _reshape,
    _interleave,
    _split,
    _fuse,
    _stack,
    _unstack,
    _shard,
    _replicate,
    _within,
    _untie,
    _tie,
    _cast,
    _fill,
    _drop,
]
