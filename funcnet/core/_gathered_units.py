"""Parts of a net whose params are whole only while they run: in a call whose params lie in pieces on many ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from funcnet._typing import Tree, TreeLike
from funcnet.core._draw_source import call_and_path
from funcnet.core._facts import iter_bodies
from funcnet.core._kinds import ForeignNet, TransparentNet
from funcnet.core._net import Net
from funcnet.core._ties import resolve_aliases
from funcnet.core._view import EMPTY_TREE, View
from funcnet.ranks import current_run
from funcnet.tree import flatten, map_with_path

if TYPE_CHECKING:
    from funcnet.core._net_plan import NetPlan
    from funcnet.ranks.internals import Units


class GatheringView(View):
    """The ``p.block`` of a body for a part that gathers its params: its names are those of the net, and read whole."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        from funcnet.ranks.internals import whole_params

        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with whole_params(self._params, None) as params:
            return getattr(_open_view(self, params), name)


class GatheredUnit(TransparentNet):
    """A net that gathers its params when it is called."""

    def view_base(self) -> type[View]:
        return GatheringView

    @staticmethod
    def forward(p: View, *inputs: Any, **kwargs: Any) -> Any:
        from funcnet.ranks.internals import whole_params

        run = current_run()
        with whole_params(p._params, None if run is None else run.units) as params:
            return _open_view(p, params)(*inputs, **kwargs)


def _open_view(view: View, params: Tree) -> View:
    """The view of the net in a gathered unit, in the place of that one's and with other params."""
    prepared = view.net_._prepared()
    inner = prepared.open_view(
        prepared.view_class, params, getattr(view, "_buffers", EMPTY_TREE), call_and_path(view)[0]
    )
    inner._up, inner._name = view._up, view._name
    return inner


def gather_at(net: Net, paths: Collection[str]) -> Net:
    """A net with parts at some paths, or itself at "", that gather their params when they are called."""
    if "" in paths:
        return GatheredUnit(net)._with_edits(net._edits.beside_parts())
    paths_by_child: dict[str, list[str]] = {}
    for path in paths:
        name, _, subpath = path.partition(".")
        paths_by_child.setdefault(name, []).append(subpath)
    children = {name: net._children[name]._gathering(subpaths) for name, subpaths in paths_by_child.items()}
    gathering = net._with_children(children, children)
    return gathering._with_edits(replace(net._edits, replaced=gathering._edits.replaced))


def plan_gathering(plan: NetPlan, params: TreeLike, units: Units) -> tuple[Net, TreeLike]:
    """The net whose parts gather the params of units, and the params with all others whole.

    A part is a unit of the net if all its params are of one unit. What belongs to a unit and to no such part is
    gathered here. Where ranks share layers, it is the net of this rank's share.
    """
    from funcnet.ranks.internals import gather_wholes

    if units.take_share is not None:
        return units.take_share(plan.net, params)
    full_params = resolve_aliases(params, plan.net.aliases) if plan.net.aliases else params
    unit_by_path = {path: units.unit_of(leaf) for path, leaf in flatten(full_params).items()}
    placed = frozenset((path, unit) for path, unit in unit_by_path.items() if unit is not None)
    if not placed:
        return plan.net, params
    gathering = plan.gathering_nets.get(placed)
    parts = _find_unit_parts(plan.net, unit_by_path)
    if gathering is None:
        gathering = plan.net._gathering(parts) if parts else plan.net
        gathering._prepared().gathers_units = bool(parts)
        plan.gathering_nets[placed] = gathering
    early = {
        path: leaf
        for path, leaf in flatten(params).items()
        if unit_by_path[path] is not None and not any(_is_within(path, part) for part in parts)
    }
    if not early:
        return gathering, params
    wholes = dict(zip(early, gather_wholes(list(early.values())), strict=True))
    return gathering, map_with_path(lambda path, leaf: wholes.get(path, leaf), params)


def _find_unit_parts(net: Net, unit_by_path: Mapping[str, str | None]) -> list[str]:
    """The paths of the outermost parts whose params are all of one unit."""
    parts: list[str] = []
    for path, body in iter_bodies(net):
        if any(_is_within(path, part) for part in parts):
            continue
        units = {unit for leaf, unit in unit_by_path.items() if _is_within(leaf, path)}
        is_recurrent = isinstance(body, ForeignNet) and body.is_recurrent()  # whose kernels have lists of weights
        if len(units) == 1 and None not in units and not is_recurrent:
            parts.append(path)
    return parts


def _is_within(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(f"{part}.")
