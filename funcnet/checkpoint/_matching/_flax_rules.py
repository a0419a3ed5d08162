"""Rules from the conventions of Flax to those of torch. Axes: I in, O out, H heads, E features of a head, * space."""

from __future__ import annotations

import re
from collections.abc import Mapping

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._matching._families import Family, group_families
from funcnet.checkpoint._matching._roles import find_attention_part
from funcnet.checkpoint._ready._layer_rules import flax_cell_rules
from funcnet.checkpoint.rules import Fill, Permute, Rename, Reshape, Rule, State, Transpose

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_COLLECTIONS = ("params", "batch_stats")


def flax_rules(source: Checkpoint | Mapping[str, Spec]) -> tuple[Rule, ...]:
    """The rules that give a checkpoint of Flax the names and axes of torch; their inverse goes back.

    ``kernel`` (I, O) becomes ``weight`` (O, I), and (*, I, O) of a convolution becomes (O, I, *). Projections with an
    axis for heads, (I, H, E) and (H, E, O), become matrices. ``scale`` and ``embedding`` become ``weight``; ``mean``
    and ``var`` become ``running_mean`` and ``running_var``, with a ``num_batches_tracked`` of 0, which Flax does not
    have. The collections ``params`` and ``batch_stats`` are removed from the names, and slashes become dots.

    The gates of a cell of an LSTM or GRU become the tensors of nn.LSTMCell and nn.GRUCell.

    Names of modules stay as they are: ``match`` proposes rules from there to a net.

    Args:
        source: the checkpoint, or shapes and dtypes by name.

    Raises:
        RuleError: if there are transposed convolutions, because torch has their kernels mirrored; lists them.

    >>> import torch
    >>> specs = {"params/fc/kernel": Spec((3, 2), torch.float32), "params/fc/bias": Spec((2,), torch.float32)}
    >>> for rule in flax_rules(specs):
    ...     print(rule)
    Rename(source='params/fc/kernel', target='fc.weight', optional=False)
    Transpose(names='fc.weight', dims=(0, 1), optional=False)
    Rename(source='params/fc/bias', target='fc.bias', optional=False)
    """
    specs = source.specs if isinstance(source, Checkpoint) else source
    mirrored = [name for name in specs if re.search(r"(^|[./])ConvTranspose(_\d+)?[./]kernel$", name)]
    if mirrored:
        raise RuleError(
            f"torch has the kernels of transposed convolutions mirrored, and no rule does:{truncated_list(mirrored)}"
        )
    families = group_families({name: spec.shape for name, spec in specs.items()})
    rules = [rule for family in families for rule in _family_rules(family)]
    state = State.from_specs(specs, {})
    for rule in rules:
        state = rule.apply(state)
    return (*rules, *flax_cell_rules({name: node.spec for name, node in state.tensors.items()}))


def _family_rules(family: Family) -> list[Rule]:
    *parents, leaf = re.split(r"[./]", family.pattern)
    if parents[:1] and parents[0] in _COLLECTIONS:
        parents = parents[1:]
    target = ".".join([*parents, _LEAVES.get(leaf, leaf)])
    rules: list[Rule] = [Rename(family.pattern, target)] if target != family.pattern else []
    module = find_attention_part(parents[-1]) if parents else None
    rules += _axis_rules(leaf, module, family.shape, target)
    if leaf == "mean":
        prefix = target.removesuffix("running_mean")
        # Training in torch counts on; Flax has no place for it, and the way back declares that.
        rules.append(Fill(f"{prefix}num_batches_tracked", 0, (), "int64", target, lossy=True))
    return rules


def _axis_rules(leaf: str, module: str | None, shape: Shape, name: str) -> list[Rule]:
    """The rules for the axes of a tensor, which follow from its last key, its module and its number of axes."""
    rank = len(shape)
    if leaf == "bias" and rank == 2 and module in ("q", "k", "v"):
        return [Reshape(name, ("heads", "size"), ("heads*size",), {"heads": shape[0]})]
    if leaf != "kernel" or rank < 2:
        return []
    if rank == 3 and module in ("q", "k", "v"):
        return [Reshape(name, ("in", "heads", "size"), ("in", "heads*size"), {"heads": shape[1]}), Transpose(name)]
    if rank == 3 and module == "out":
        return [Reshape(name, ("heads", "size", "out"), ("heads*size", "out"), {"heads": shape[0]}), Transpose(name)]
    if rank == 2:
        return [Transpose(name)]
    return [Permute(name, (rank - 1, rank - 2, *range(rank - 2)))]
