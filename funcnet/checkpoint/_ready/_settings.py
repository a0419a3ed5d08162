"""What ready rules know of a model: its config, and the names of a file of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from funcnet._errors import ConversionError
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError
from funcnet.checkpoint.rules import Rename, Rule, Tie, Untie


class ConfigObject(Protocol):
    """A config object of transformers."""

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""


ConfigLike: TypeAlias = "ConfigObject | Mapping[str, Any] | str | os.PathLike[str]"
"""A config object, its dict, or the path of a ``config.json`` or of the folder that it is in."""
WeightsLike: TypeAlias = "Checkpoint | Mapping[str, Spec]"
"""A checkpoint, or shapes and dtypes by name."""


def read_settings(config: ConfigLike) -> Mapping[str, Any]:
    """The settings of a config by name, from wherever it is.

    Raises:
        ConversionError: if a file is no config.
        OSError: if it cannot be read.
    """
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, (str, os.PathLike)):
        return config.to_dict()
    path = Path(config)
    try:
        settings = json.loads((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{str(config)!r} is no config: {error}") from None
    if not isinstance(settings, dict):
        raise ConversionError(f"{str(config)!r} is no config: it holds a {type(settings).__name__}, not an object.")
    return settings


@dataclass(frozen=True)
class ModelFacts:
    """A model and a file of it, as rules need them.

    Attributes:
        settings: the config.
        specs: shapes and dtypes of the tensors that the file stores; None if there is no file.
        aliases: ties of the file.
    """

    settings: Mapping[str, Any]
    specs: Mapping[str, Spec] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], weights: WeightsLike | None) -> ModelFacts:
        """The facts of a config and of a file, if there is one."""
        if isinstance(weights, Checkpoint):
            return cls(settings, weights.specs, weights.aliases)
        return cls(settings, weights)

    def number(self, *names: str, default: int | None = None) -> int:
        """The first setting of these names that is there.

        Raises:
            RuleError: if there is none and no default.
        """
        for name in names:
            node: Any = self.settings
            for key in name.split("."):
                node = node.get(key) if isinstance(node, Mapping) else None
            if isinstance(node, int):
                return node
        if default is None:
            raise RuleError(f"the config has no {' or '.join(names)}, which the rules need.")
        return default

    @property
    def head_size(self) -> int:
        """Size of one head of attention."""
        heads = self.number("num_attention_heads", "n_head")
        return self.number("head_dim", default=self.number("hidden_size", "n_embd") // heads)

    @property
    def query_size(self) -> int:
        """Size of the queries of all heads."""
        return self.number("num_attention_heads", "n_head") * self.head_size

    @property
    def key_size(self) -> int:
        """Size of the keys of all heads, of which there may be fewer than of queries."""
        heads = self.number("num_attention_heads", "n_head")
        return self.number("num_key_value_heads", default=heads) * self.head_size

    def has(self, prefix: str) -> bool:
        """Whether a name of the file begins like this; true if there is no file."""
        return self.specs is None or any(name.startswith(prefix) for name in (*self.specs, *self.aliases))

    def find(self, name: str) -> Spec | None:
        """Shape and dtype of a tensor that the file stores."""
        return None if self.specs is None else self.specs.get(name)

    def rules_of_tie(self, stored_name: str, owner: str, is_stored: bool = False) -> list[Rule]:
        """Rules after which a name is a tie and not stored: a file may lack it, have it as a tie, or store it twice.

        Args:
            stored_name: the name.
            owner: the name of the tensor it is tied to.
            is_stored: whether files of this layout have the name, where none is at hand.
        """
        if (self.specs is None and is_stored) or stored_name in self.aliases:
            return []
        if self.find(stored_name) is not None:
            return [Tie(stored_name, owner)]
        return [Tie(stored_name, owner, stored=False)]

    def rules_without_tie(self, alias: str, owner: str) -> list[Rule]:
        """Rules after which a name is not there, which is a tie to another one wherever it is."""
        if alias in self.aliases:
            return [Untie(alias, owner, stored=False)]
        if self.find(alias) is not None:
            return [Tie(alias, owner), Untie(alias, owner, stored=False)]
        return []


def rename_rules(old_prefix: str, new_prefix: str, names: Mapping[str, str], *, optional: bool = False) -> list[Rule]:
    """Rules that give names below a prefix new names below another one."""
    return [Rename(old_prefix + old, new_prefix + new, optional) for old, new in names.items()]
