"""Layouts: the names, shapes and ties of a checkpoint, a net or a module, without its values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._errors import truncated_list
from funcnet.checkpoint._load import load
from funcnet.checkpoint._net_layout import NetLayout, state_dict_shapes
from funcnet.checkpoint.rules import Prefix


@dataclass(frozen=True)
class Layout:
    """The names and shapes of some tensors, and their ties: alias -> owner."""

    shapes: dict[str, Shape]
    ties: dict[str, str]

    def with_prefix(self, prefix: Prefix) -> Layout:
        """This layout after a rule that removes or adds a prefix."""

        def rename(name: str) -> str:
            return prefix.add + name.removeprefix(prefix.remove)

        shapes = {rename(name): shape for name, shape in self.shapes.items()}
        return Layout(shapes, {rename(alias): rename(owner) for alias, owner in self.ties.items()})


def read_layout(value: object) -> Layout:
    """The layout of a checkpoint, a path, a module, a net, or shapes by name.

    Raises:
        TypeError: if the value is none of these, or lists the entries of a mapping that have no shape.
    """
    if isinstance(value, (str, os.PathLike)):
        value = load(value)
    if isinstance(value, Checkpoint):
        return Layout({name: spec.shape for name, spec in value.specs.items()}, dict(value.aliases))
    if isinstance(value, nn.Module):
        return _read_state_dict(value.state_dict(keep_vars=True))
    if isinstance(value, NetLayout):
        return Layout(state_dict_shapes(value), dict(value.aliases))
    if isinstance(value, Mapping):
        return Layout(_read_shapes(value), {})
    raise TypeError(f"match takes checkpoints, paths, nets, modules and shapes by name, not {type(value).__name__}.")


def _read_shapes(leaves: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes by name, without the leaves that are None.

    Raises:
        TypeError: lists what is neither a shape nor has one.
    """
    shapes: dict[str, Shape] = {}
    problems: list[str] = []
    for name, leaf in leaves.items():
        shape = getattr(leaf, "shape", leaf)
        if isinstance(shape, (tuple, list)) and all(isinstance(size, int) for size in shape):
            shapes[name] = tuple(shape)
        elif shape is not None:
            problems.append(f"{name}: {type(leaf).__name__}")
    if problems:
        raise TypeError(
            f"match takes tensors or shapes by name, as {{'a.weight': (3, 2)}}; these are neither:"
            f"{truncated_list(problems)}\nOf nested dicts give fn.tree.flatten(params)."
        )
    return shapes


def _read_state_dict(state_dict: Mapping[str, object]) -> Layout:
    """The layout of a state_dict that holds the parameters themselves, in which a tensor under two names is a tie."""
    owners: dict[int, str] = {}
    layout = Layout({}, {})
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            continue
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            layout.shapes[name] = tuple(tensor.shape)
        else:
            layout.ties[name] = owner
    return layout
