"""Plans: which params of a tree lie in pieces on the ranks of a mesh, and along which axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._typing import TreeLike
from funcnet.tree import flatten, select
from funcnet.tree.internals import describe_unmatched

Plan: TypeAlias = "Mapping[str, int | Placement | Sequence[Placement] | None]"
"""Selectors of params, each with the axis that is cut, None for a param that all ranks have, or placements of torch."""

DEFAULT_PLAN: Plan = {"**": 0}
"""Every param is cut along its first axis, as FSDP2 does it."""


def read_plan(tree: TreeLike, mesh: DeviceMesh, plan: Plan | None) -> dict[str, tuple[Placement, ...]]:
    """The placements of each leaf of a tree by path, one for each axis of the mesh.

    Raises:
        TreeError: if a selector matches nothing, or a value fits no param that it is for; names all of them.
    """
    leaves = {path: leaf for path, leaf in flatten(tree).items() if isinstance(leaf, Tensor)}
    rules = DEFAULT_PLAN if plan is None else plan
    problems: list[str] = []
    values: dict[str, Any] = dict.fromkeys(leaves)
    for selector, value in rules.items():
        problems += describe_unmatched(selector, leaves) if plan is not None else []
        if selector.startswith("!") and value is not None:
            problems.append(f"{selector!r} takes params out, so its value is None, and not {value!r}")
        is_selected = select(selector.removeprefix("!"))
        values.update({path: value for path in leaves if is_selected(path)})
    placements: dict[str, tuple[Placement, ...]] = {}
    for path, leaf in leaves.items():
        placed = _read_placements(leaf, mesh, values[path], is_default=plan is None)
        if isinstance(placed, str):
            problems.append(f"{path!r} {placed}")
        else:
            placements[path] = placed
    if problems:
        raise TreeError(f"the plan does not fit the params:{bullet_list(problems)}")
    return placements


def _read_placements(leaf: Tensor, mesh: DeviceMesh, value: Any, is_default: bool) -> tuple[Placement, ...] | str:
    """The placements that a value of a plan stands for; or what is wrong with it."""
    copied = (Replicate(),) * mesh.ndim
    if value is None or (isinstance(value, int) and not is_inexact(leaf)) or (is_default and not leaf.dim()):
        return copied
    if isinstance(value, int) and not isinstance(value, bool):
        if not -leaf.dim() <= value < leaf.dim():
            return f"has shape {tuple(leaf.shape)}, and so no axis {value}"
        return (*copied[1:], Shard(value % leaf.dim()))
    placements = (value,) if isinstance(value, Placement) else tuple(value) if isinstance(value, Sequence) else ()
    if len(placements) != mesh.ndim or not all(type(placement) in (Shard, Replicate) for placement in placements):
        return (
            f"gets {value!r}: expected an axis, None, or a Shard or Replicate for each of the {mesh.ndim} axes of the "
            f"mesh"
        )
    for placement in placements:
        if isinstance(placement, Shard) and not -leaf.dim() <= placement.dim < leaf.dim():
            return f"has shape {tuple(leaf.shape)}, and so no axis {placement.dim}"
    return tuple(
        Shard(placement.dim % leaf.dim()) if isinstance(placement, Shard) else placement for placement in placements
    )
