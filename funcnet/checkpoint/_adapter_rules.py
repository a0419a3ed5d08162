"""Rules that merge an adapter of the library peft into the model that it is for: LoRA and DoRA."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, file_error, truncated_list
from funcnet.checkpoint._load import load
from funcnet.checkpoint.rules import Drop, MergeLora, Prefix, Rename, Rule
from funcnet.checkpoint.rules._patterns import Pattern

ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<path>.*)\.(?P<key>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?")


@dataclass(frozen=True)
class _Change:
    """The change of one weight.

    Attributes:
        weight: name of the weight.
        down, up, magnitude: names in the adapter.
        scale: factor of the change.
        transposed: whether the weight is (in, out).
    """

    weight: str
    down: str
    up: str
    magnitude: str | None
    scale: float
    transposed: bool


def adapter_rules(
    base: Checkpoint | Mapping[str, Spec],
    adapter: str | os.PathLike[str] | Mapping[str, Spec],
    config: Mapping[str, Any] | None = None,
    *,
    precision: str | None = None,
    keep: bool = False,
) -> tuple[Rule, ...]:
    """The rules that merge an adapter of peft into its base, which are sources named ``base`` and ``adapter``.

    ``convert({"base": base, "adapter": adapter}, dst, rules)`` writes the merged model, with the bits of peft's
    ``merge_and_unload``. It cannot be undone. With ``keep`` there are two targets, ``{"merged": ..., "kept": ...}``:
    the model, and what went into it; from both the inverse makes the base and the adapter again, bit for bit.

    Args:
        base: the checkpoint of the base, or shapes and dtypes by name.
        adapter: the folder of the adapter, with ``adapter_model.safetensors`` and ``adapter_config.json``; or shapes
            and dtypes by name.
        config: the content of ``adapter_config.json``; it is needed if there is no folder.
        precision: "float64" or "float32" to compute in; as peft computes without it.
        keep: whether to keep what goes in.

    Raises:
        RuleError: if adapter and base do not fit; names all tensors at fault.
        CheckpointError: if the folder holds no adapter.

    >>> import torch
    >>> base = {"q.weight": Spec((4, 3), torch.float32)}
    >>> factors = {"lora_A": (2, 3), "lora_B": (4, 2)}
    >>> adapter = {f"base_model.model.q.{name}.weight": Spec(s, torch.float32) for name, s in factors.items()}
    >>> rules = adapter_rules(base, adapter, {"peft_type": "LORA", "r": 2, "lora_alpha": 8})
    >>> rules[0].scale, rules[-1]
    (4.0, Prefix(add='', remove='base.', optional=False))
    """
    base_specs = base.specs if isinstance(base, Checkpoint) else base
    if isinstance(adapter, Mapping):
        adapter_specs: Mapping[str, Spec] = adapter.specs if isinstance(adapter, Checkpoint) else adapter
    else:
        adapter_specs = load(adapter).specs
        config = read_adapter_config(adapter) if config is None else config
    if config is None:
        raise RuleError("an adapter without a folder needs config=, the content of its adapter_config.json.")
    _check_config(config)
    changes = list(_iter_changes(base_specs, adapter_specs, config))
    replaced = [name.removeprefix(_PREFIX) for name in adapter_specs if _FACTOR.fullmatch(name) is None]
    unknown = [repr(name) for name in replaced if name not in base_specs]
    if unknown:
        raise RuleError(f"the base has no tensors that the adapter replaces:{truncated_list(unknown)}")
    return tuple(
        _kept_rules(changes, replaced, base_specs, precision)
        if keep
        else _merge_rules(changes, replaced, base_specs, precision)
    )


def read_adapter_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of the ``adapter_config.json`` in a folder.

    Raises:
        CheckpointError: if there is none, or it is not one.
    """
    path = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    path = path / ADAPTER_CONFIG
    if not path.is_file():
        raise file_error(path, "is not there, and an adapter of peft has it", "Say config=.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise file_error(path, f"is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise file_error(path, f"holds a {type(config).__name__}, not an object")
    return config


def _check_config(config: Mapping[str, Any]) -> None:
    """Refuse adapters whose change is not a low-rank product of the weights alone."""
    supported: dict[str, tuple[object, ...]] = {
        "bias": ("none", None),
        "lora_bias": (False, None),
        "layer_replication": (None, []),
        "target_parameters": (None, []),
        "alora_invocation_tokens": (None,),
        "arrow_config": (None,),
    }
    problems = list_unsupported_settings(config, supported)
    if problems:
        raise RuleError(f"only the weights of LoRA and DoRA are merged, and this adapter has {', '.join(problems)}.")


def list_unsupported_settings(config: Mapping[str, Any], supported: Mapping[str, Sequence[object]]) -> list[str]:
    """What the config of an adapter of peft asks for besides LoRA with supported values of some settings, in words.

    Args:
        config: the content of ``adapter_config.json``.
        supported: values of settings; None, and a setting that is not there, are supported besides.

    >>> list_unsupported_settings({"peft_type": "LORA", "bias": "all"}, {"bias": ["none"]})
    ["bias = 'all'"]
    """
    problems = [f"peft_type {config['peft_type']!r}"] if config.get("peft_type", "LORA") != "LORA" else []
    settings = {name: config.get(name) for name in supported}
    return problems + [
        f"{name} = {value!r}" for name, value in settings.items() if value not in (*supported[name], None)
    ]


def _iter_changes(
    base: Mapping[str, Spec], adapter: Mapping[str, Spec], config: Mapping[str, Any]
) -> Iterator[_Change]:
    names_by_path: dict[str, dict[str, str]] = {}
    for name in adapter:
        if (match := _FACTOR.fullmatch(name)) is not None:
            names_by_path.setdefault(match["path"].removeprefix(_PREFIX), {})[match["key"]] = name
    problems: list[str] = []
    for path, names in names_by_path.items():
        is_table = "lora_embedding_A" in names
        down, up = (names.get(f"lora_{'embedding_' if is_table else ''}{factor}") for factor in "AB")
        weight = f"{path}.weight"
        if weight not in base or down is None or up is None:
            missing = repr(weight) if weight not in base else f"the other factor of {path!r}"
            problems.append(f"{path!r}: there is no {missing}")
            continue
        rank = adapter[down].shape[0]
        alpha = _find_setting(config.get("alpha_pattern"), path, config.get("lora_alpha", 8))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        out_in = (adapter[up].shape[0], *adapter[down].shape[1:])
        transposed = is_table or bool(config.get("fan_in_fan_out")) or base[weight].shape != out_in
        yield _Change(weight, down, up, names.get("lora_magnitude_vector"), scale, transposed and len(out_in) == 2)
    if problems:
        raise RuleError(f"the adapter does not fit the base:{truncated_list(problems)}")


def _find_setting(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The setting of a layer: that of the first pattern that fits the end of its path."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _merge_rules(
    changes: list[_Change], replaced: list[str], base: Mapping[str, Spec], precision: str | None
) -> Iterator[Rule]:
    for change in _group_changes(changes, base):
        yield _merge_rule(change, "base.", "adapter.", "base.", precision, keep=False)
    for name in replaced:
        yield Drop(f"base.{name}")
        yield Rename(f"adapter.{_PREFIX}{name}", f"base.{name}")
    yield Prefix(remove="base.")


def _kept_rules(
    changes: list[_Change], replaced: list[str], base: Mapping[str, Spec], precision: str | None
) -> Iterator[Rule]:
    grouped = list(_group_changes(changes, base))
    for name in (*(change.weight for change in grouped), *replaced):
        yield Rename(f"base.{name}", f"kept.base.{name}")
    for name in replaced:
        yield Rename(f"adapter.{_PREFIX}{name}", f"base.{name}")
    yield Prefix("kept.adapter.", "adapter.")
    yield Prefix("merged.", "base.", optional=True)
    for change in grouped:
        yield _merge_rule(change, "kept.base.", "kept.adapter.", "merged.", precision, keep=True)


def _merge_rule(
    change: _Change, base: str, adapter: str, target: str, precision: str | None, *, keep: bool
) -> MergeLora:
    return MergeLora(
        base + change.weight,
        adapter + change.down,
        adapter + change.up,
        target + change.weight,
        change.scale,
        None if change.magnitude is None else adapter + change.magnitude,
        change.transposed,
        precision,
        keep,
    )


def _group_changes(changes: list[_Change], base: Mapping[str, Spec]) -> Iterator[_Change]:
    """The changes with patterns for the layers that have the same ones, where these are all layers there are."""
    groups: dict[_Change, list[_Change]] = {}
    for change in changes:
        pattern = replace(
            change,
            weight=_number_holes(change.weight),
            down=_number_holes(change.down),
            up=_number_holes(change.up),
            magnitude=None if change.magnitude is None else _number_holes(change.magnitude),
        )
        groups.setdefault(pattern, []).append(change)
    for pattern, group in groups.items():
        matches = Pattern(pattern.weight)
        is_whole = sum(matches.match(name) is not None for name in base) == len(group)
        yield from ([pattern] if is_whole else group)


def _number_holes(name: str) -> str:
    """A name with a hole for each key that is a number.

    >>> _number_holes("base_model.model.h.12.attn.lora_A.weight")
    'base_model.model.h.{n0}.attn.lora_A.weight'
    """
    keys = name.split(".")
    numbers = [index for index, key in enumerate(keys) if key.isdecimal()]
    for count, index in enumerate(numbers):
        keys[index] = f"{{n{count}}}"
    return ".".join(keys)
