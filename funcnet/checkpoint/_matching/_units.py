"""Units: the tensors of one module, which move together, and the parts of a fused one, which become one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from funcnet._typing import Shape
from funcnet.checkpoint._matching._roles import find_role
from funcnet.checkpoint._matching._words import COLLECTIONS, NamePath, read_path, split_keys

_KINDS = {
    "weight": "weight kernel scale gamma embedding w weights g",
    "bias": "bias beta b",
    "running_mean": "running_mean mean moving_mean",
    "running_var": "running_var var moving_variance moving_var variance",
    "num_batches_tracked": "num_batches_tracked",
    "weight_g": "weight_g original0",
    "weight_v": "weight_v original1",
}
KIND_OF = {key: kind for kind, keys in _KINDS.items() for key in keys.split()}
_JOINED_LEAF = re.compile(r"^(in_proj)_(weight|bias)$")
FUSED_ROLES = {
    "attention.qkv": ("attention.q", "attention.k", "attention.v"),
    "cross.qkv": ("cross.q", "cross.k", "cross.v"),
    "attention.kv": ("attention.k", "attention.v"),
    "cross.kv": ("cross.k", "cross.v"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
}


@dataclass(frozen=True)
class Leaf:
    """What a unit has of one kind: a tensor, or several that are fused in the other layout."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def size(self) -> int:
        """Elements of all tensors."""
        total = 0
        for shape in self.shapes:
            count = 1
            for size in shape:
                count *= size
            total += count
        return total


@dataclass(frozen=True, eq=False)
class Unit:
    """The tensors of one module.

    Attributes:
        path: the path of the module; of a tensor that is no weight or bias of one, its own name.
        leaves: the tensors by kind: "weight", "bias", "running_mean"; "parameter" for a tensor of its own.
        role: what the module does, if its name says so.
        position: the number of the unit in its layout.
    """

    path: str
    leaves: Mapping[str, Leaf]
    role: str | None
    position: int

    @cached_property
    def parts(self) -> NamePath:
        """The keys, numbers and words of the path."""
        return read_path(self.path)

    @cached_property
    def ancestors(self) -> tuple[str, ...]:
        """The paths of the modules that contain it, the nearest first."""
        keys = self.path.replace("/", ".").split(".")
        return tuple(".".join(keys[:end]) for end in range(len(keys) - 1, 0, -1))

    @cached_property
    def main_kind(self) -> str:
        """The kind of the tensor that tells most of the unit."""
        return next(
            (kind for kind in ("weight", "weight_v", "parameter") if kind in self.leaves), next(iter(self.leaves))
        )


def make_units(shapes: Mapping[str, Shape]) -> list[Unit]:
    """The units of a layout, in its order."""
    places = {name: _split_leaf(name) for name in shapes}
    parents = {_join_keys(split_keys(module)[:-1]) for module, _ in places.values()}
    leaves_by_path: dict[str, dict[str, Leaf]] = {}
    for name, (module, kind) in places.items():
        is_alone = kind is None or (_join_keys(split_keys(module)) in parents and kind in ("weight", "bias"))
        path, key = (module if kind is None else name, "parameter") if is_alone else (module, str(kind))
        leaves = leaves_by_path.setdefault(path, {})
        if key in leaves:  # a module with both "scale" and "kernel"
            path, leaves = name, leaves_by_path.setdefault(name, {})
            key = "parameter"
        leaves[key] = Leaf((name,), (shapes[name],))
    units = [
        Unit(path, leaves, _find_role(path, leaves), number)
        for number, (path, leaves) in enumerate(leaves_by_path.items())
    ]
    return _settle_norms(units)


def _find_role(path: str, leaves: Mapping[str, Leaf]) -> str | None:
    """The role that the path tells, unless the shapes contradict it: a norm is often the first module of a head."""
    role = find_role(path)
    is_vector = "weight" in leaves and len(leaves["weight"].shapes[0]) == 1
    return None if is_vector and role in ("head", "mlp.up", "mlp.down") else role


def _split_leaf(name: str) -> tuple[str, str | None]:
    """The path of the module of a tensor, and the kind of the tensor; None if it is no usual one."""
    keys = split_keys(name)
    if keys[0] in COLLECTIONS and len(keys) > 1:
        keys = keys[1:]
    joined = _JOINED_LEAF.match(keys[-1])
    if joined:
        return _join_keys([*keys[:-1], joined[1]]), joined[2]
    kind = KIND_OF.get(keys[-1])
    if kind is None:
        return _join_keys(keys), None
    if keys[-3:-1] == ["parametrizations", "weight"]:
        keys = [*keys[:-3], keys[-1]]
    return _join_keys(keys[:-1]), kind


def _join_keys(keys: Sequence[str]) -> str:
    return ".".join(keys)


def _settle_norms(units: list[Unit]) -> list[Unit]:
    """Give roles to norms whose neighbours tell them: beside an attention, or the third of a decoder layer."""
    roles_by_parent: dict[str, set[str]] = {}
    names_by_parent: dict[str, set[str]] = {}
    for unit in units:
        for ancestor in unit.ancestors[:2]:
            roles_by_parent.setdefault(ancestor, set()).add((unit.role or "").partition(".")[0])
        if unit.ancestors:
            names_by_parent.setdefault(unit.ancestors[0], set()).add(unit.parts.keys[-1] if unit.parts.keys else "")
    settled: list[Unit] = []
    for unit in units:
        last = unit.parts.keys[-1] if unit.parts.keys else ""
        parent = unit.ancestors[0] if unit.ancestors else ""
        role = unit.role
        if role == "mlp.norm" and re.fullmatch(r"norm_?2", last) and re.sub("2", "3", last) in names_by_parent[parent]:
            role = "cross.norm"
        elif role is None and re.fullmatch(r"norm_?3", last):
            role = "mlp.norm"
        elif role is None and re.search(r"norm|^ln", last) and re.fullmatch(r".*[._]\d+", parent):
            beside = roles_by_parent.get(parent, set()) & {"attention", "cross", "mlp"}
            if len(beside) == 1:
                role = f"{beside.pop()}.norm"
        settled.append(unit if role == unit.role else replace(unit, role=role))
    return settled


def fuse_units(units: list[Unit], others: Iterable[Unit]) -> list[Unit]:
    """The units, where those that are one in the other layout are one: queries, keys and values; gate and up."""
    roles, other_roles = {unit.role for unit in units}, {unit.role for unit in others}
    for fused_role, part_roles in FUSED_ROLES.items():
        if fused_role in other_roles and fused_role not in roles and not other_roles & set(part_roles):
            units = _fuse_role(units, fused_role, part_roles)
    return [replace(unit, position=position) for position, unit in enumerate(units)]


def _fuse_role(units: list[Unit], fused_role: str, part_roles: tuple[str, ...]) -> list[Unit]:
    groups: dict[str, dict[str, Unit]] = {}
    for unit in units:
        if unit.role in part_roles:
            groups.setdefault(unit.ancestors[0] if unit.ancestors else "", {})[unit.role] = unit
    fused_of: dict[Unit, Unit | None] = {}
    for parent, unit_of_role in groups.items():
        if set(unit_of_role) != set(part_roles):
            continue
        parts = [unit_of_role[role] for role in part_roles]
        kinds = [kind for kind in parts[0].leaves if all(kind in part.leaves for part in parts)]
        leaves = {
            kind: Leaf(
                tuple(name for part in parts for name in part.leaves[kind].names),
                tuple(shape for part in parts for shape in part.leaves[kind].shapes),
            )
            for kind in kinds
        }
        path = f"{parent}.{fused_role.partition('.')[2]}" if parent else fused_role.partition(".")[2]
        first = min(parts, key=lambda part: part.position)
        fused_of |= dict.fromkeys(parts)
        fused_of[first] = Unit(path, leaves, fused_role, first.position)
    return [fused for unit in units if (fused := fused_of.get(unit, unit)) is not None]
