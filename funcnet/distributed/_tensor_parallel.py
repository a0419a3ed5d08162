"""Tensor parallelism of the models of ``funcnet.models``: which params are cut, and the net of a rank's share."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import TreeLike
from funcnet.core import Net
from funcnet.distributed._tensor_parallel_nets import (
    HeadsOfRank,
    LogitsOfRank,
    RowsOfLinear,
    SharedLayerNorm,
    SharedRMSNorm,
    TokensOfRank,
)
from funcnet.layers import LayerNorm
from funcnet.models import GPT2, Llama
from funcnet.ranks.internals import ShardedAxis, gather_wholes, read_placement
from funcnet.tree import flatten, map_with_path, select

_CUT_AXES: dict[str | tuple[str, ...], int] = {
    ("layers.*.attn.q", "layers.*.attn.k", "layers.*.attn.v"): 0,
    "layers.*.attn.out.weight": 1,
    ("layers.*.mlp.up", "layers.*.mlp.gate"): 0,
    "layers.*.mlp.down.weight": 1,
    "embed.token.weight": 0,
    "head.weight": 0,
}


def tensor_parallel_plan(net: Net, mesh: DeviceMesh, axis: str) -> dict[str, tuple[Placement, ...]]:
    """The plan by which the ranks of one axis of a mesh share every layer of a model, for :func:`shard`.

    Attention is cut by heads, the MLP by inner features, the embedding and the head by tokens; the ranks have all other
    params whole. Run the loss by ``value_and_grad(loss, mesh, tensor_parallel=axis)``. The net in the loss is this one.

    Args:
        net: a GPT2 or Llama of ``fn.models``, with ``fused_qkv=False`` and ``stacked=False``.
        mesh: the ranks.
        axis: the name of the axis of the mesh.

    Raises:
        TreeError: if the mesh has no such axis, or the net has no such plan, with all the reasons.

    >>> import funcnet as fn
    >>> net = fn.models.GPT2(50, 16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, fused_qkv=False)
    >>> with fn.distributed.world_mesh((1, 1), names=("data", "model")) as mesh:
    ...     plan = fn.distributed.tensor_parallel_plan(net, mesh, "model")
    >>> plan["layers.0.attn.out.weight"]
    (Replicate(), Shard(dim=1))
    """
    position = find_mesh_axis(mesh, axis)
    _refuse_unplanned(net, mesh.size(position))
    copied = (Replicate(),) * mesh.ndim
    plan: dict[str, tuple[Placement, ...]] = {"**": copied}
    for path, cut in _cut_paths(net).items():
        plan[path] = (*copied[:position], Shard(cut), *copied[position + 1 :])
    return plan


def find_mesh_axis(mesh: DeviceMesh, axis: str) -> int:
    """The position of an axis of a mesh.

    Raises:
        TreeError: if the mesh has no axis of this name.
    """
    names = mesh.mesh_dim_names or ()
    if axis not in names:
        raise TreeError(
            f"the mesh has no axis {axis!r}: its axes are {list(names)}. Name them where it is made: "
            f"fn.distributed.world_mesh((2, 2), names=('data', {axis!r}))."
        )
    return names.index(axis)


def _cut_paths(net: Net) -> dict[str, int]:
    """The paths of the params that are cut, with the axis."""
    tests = [(select(selector), axis) for selector, axis in _CUT_AXES.items()]
    paths = [entry.path for entry in net.entries() if entry.kind == "params" and entry.path not in net.aliases]
    return {path: axis for path in paths for is_cut, axis in tests if is_cut(path)}


def _refuse_unplanned(net: Net, ranks: int) -> None:
    """Refuse a net that has no plan for so many ranks."""
    if not isinstance(net, (GPT2, Llama)) or type(net) not in (GPT2, Llama):
        raise TreeError(
            f"{net.title()} has no plan by which ranks share its layers: GPT2 and Llama of fn.models have one. "
            f"For any other net, use fn.distributed.shard with units."
        )
    problems = []
    as_made: Net = type(net)(**_fields(net))
    if list(net.named_nets()) != list(as_made.named_nets()) or net.aliases != as_made.aliases:
        problems.append("parts of it were replaced, or tensors tied: use a net as GPT2 or Llama makes it")
    if net.stacked:
        problems.append("its layers are stacked: make the net with stacked=False")
    if net.fused_qkv:
        problems.append(
            "queries, keys and values are fused, and a piece of the rows is not that of some heads: make the net with "
            "fused_qkv=False, and split each attn.qkv into attn.q, attn.k and attn.v"
        )
    heads = net.num_attention_heads
    sizes = {"num_attention_heads": heads, "intermediate_size": net.intermediate_size or 4 * net.hidden_size}
    if isinstance(net, Llama):
        sizes["num_key_value_heads"] = net.num_key_value_heads or heads
    problems += [f"{name} = {size} is not divisible by {ranks} ranks" for name, size in sizes.items() if size % ranks]
    if ShardedAxis(0, net.vocab_size).piece(ranks, ranks - 1)[1] < 1:
        problems.append(f"vocab_size = {net.vocab_size} leaves no token for the last of {ranks} ranks")
    if problems:
        raise TreeError(f"{ranks} ranks cannot share the layers of {net.title()}:{bullet_list(problems)}")


def _make_share(net: Any, ranks: int, rank: int) -> Net:
    """The net of the share that a rank has."""
    rows = ShardedAxis(0, net.vocab_size).piece(ranks, rank)[1]
    nets: dict[str, Net] = {
        "embed.token": TokensOfRank(net.vocab_size, rows, net.hidden_size, getattr(net, "padding_idx", None))
    }
    if net.head:
        nets["norm"] = _share_norm(net.norm)
        nets["head"] = LogitsOfRank(net.hidden_size, net.vocab_size, rows)
    for number in range(net.num_hidden_layers):
        layer = net.layers[number]
        nets[f"layers.{number}.norm1"] = _share_norm(layer.norm1)
        nets[f"layers.{number}.norm2"] = _share_norm(layer.norm2)
        sizes = _fields(layer.attn)
        sizes["num_heads"] //= ranks
        sizes["num_kv_heads"] //= ranks
        attention = HeadsOfRank(**sizes)
        out = RowsOfLinear(attention.qkv_sizes[0], net.hidden_size, attention.bias)
        nets[f"layers.{number}.attn"] = attention.replaced({"out": out})
        inner = layer.mlp.intermediate_size // ranks
        down = RowsOfLinear(inner, net.hidden_size, getattr(layer.mlp, "bias", True))
        nets[f"layers.{number}.mlp"] = replace(layer.mlp, intermediate_size=inner).replaced({"down": down})
    return net.replaced(nets)


def _fields(net: Any) -> dict[str, Any]:
    return {field.name: getattr(net, field.name) for field in fields(net)}


def _share_norm(norm: Any) -> Net:
    return (SharedLayerNorm if isinstance(norm, LayerNorm) else SharedRMSNorm)(**_fields(norm))


class Shares:
    """Turns calls of a net whose params ranks share into calls of this rank's share of it.

    Args:
        mesh: the ranks.
        axis: the position of the axis whose ranks share each layer.
    """

    def __init__(self, mesh: DeviceMesh, axis: int) -> None:
        self._mesh, self._axis = mesh, axis
        self._nets: dict[Net, Net] = {}

    def is_cut(self, leaf: object) -> bool:
        """Whether a leaf lies in pieces on the ranks that share layers."""
        placement = read_placement(leaf)
        if placement is None or placement.mesh != self._mesh:
            return False
        return isinstance(placement.placements[self._axis], Shard)

    def gather(self, tensors: list[Tensor]) -> list[Tensor]:
        """This rank's share of DTensors, gathered over the other axes of the mesh."""
        return gather_wholes(tensors, (self._mesh, self._axis))

    def take(self, net: Net, params: TreeLike) -> tuple[Net, TreeLike]:
        """The net of this rank's share and its params; the same net for params of which none is cut.

        Raises:
            TreeError: if the net has no plan, or the params do not lie as it says; names all of them.
        """
        leaves = {path: leaf for path, leaf in flatten(params).items() if read_placement(leaf) is not None}
        if not any(map(self.is_cut, leaves.values())):
            return net, params
        ranks = self._mesh.size(self._axis)
        _refuse_unplanned(net, ranks)
        self._refuse_misplaced(net, flatten(params))
        if net not in self._nets:
            self._nets[net] = _make_share(net, ranks, self._mesh.get_local_rank(self._axis))
        shares = dict(zip(leaves, self.gather(list(leaves.values())), strict=True))
        return self._nets[net], map_with_path(lambda path, leaf: shares.get(path, leaf), params)

    def _refuse_misplaced(self, net: Net, leaves: dict[str, Any]) -> None:
        cuts = _cut_paths(net)
        problems = []
        for path, leaf in leaves.items():
            placement = read_placement(leaf)
            placements = () if placement is None else placement.placements
            here = placements[self._axis] if self.is_cut(leaf) else None
            if here != (Shard(cuts[path]) if path in cuts else None):
                problems.append(f"{path!r} is placed as {placements or 'a plain tensor'}")
            elif here is not None and placements.count(here) > 1:
                problems.append(f"{path!r} is cut along axis {cuts[path]} over another axis of the mesh too")
        if problems:
            raise TreeError(
                f"these params do not lie as the shares of ranks do:{bullet_list(problems)}\n"
                f"Place them by fn.distributed.shard(params, mesh, fn.distributed.tensor_parallel_plan(net, mesh, "
                f"{self._mesh.mesh_dim_names[self._axis]!r}))."  # type: ignore[index]
            )
