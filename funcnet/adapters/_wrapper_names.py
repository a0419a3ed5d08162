"""Keys of a state_dict without the names that wrappers put into them: DataParallel, torch.compile, FSDP and others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from funcnet._torch import TRANSPARENT_NAMES

_COMMON_NAME = "module"
"""What DataParallel, DistributedDataParallel and DeepSpeed call what they wrap. Modules have such a part too."""

_WRAPPER_NAMES = TRANSPARENT_NAMES | {_COMMON_NAME}


def rename_unwrapped(keys: Collection[str], expected: Collection[str]) -> dict[str, str]:
    """Key -> the name in the module itself; keys that fit are not renamed.

    A name of a wrapper is left out where that gives an expected key, in front or between others, in any nesting. Where
    it would give one key twice, or could give several, all keys stay as they are.

    >>> rename_unwrapped(["_orig_mod.module.fc.weight", "_orig_mod.module.fc.bias"], ["fc.weight", "fc.bias"])
    {'_orig_mod.module.fc.weight': 'fc.weight', '_orig_mod.module.fc.bias': 'fc.bias'}
    >>> rename_unwrapped(["encoder.module.weight"], ["encoder.weight"])
    {'encoder.module.weight': 'encoder.weight'}
    """
    unchanged = {key: key for key in keys}
    if not keys or all(key in expected for key in keys):
        return unchanged
    prefix = _common_wrapper_prefix(keys)
    for count in range(1, len(prefix) + 1):
        names = {key: ".".join(key.split(".")[count:]) for key in keys}
        if set(names.values()) == set(expected):
            return names
    expected_by_bare: dict[str, list[str]] = {}
    for key in expected:
        expected_by_bare.setdefault(_without(key, _WRAPPER_NAMES), []).append(key)
    names = {key: _find_expected(key, expected_by_bare, len(prefix)) for key in keys}
    return names if len(set(names.values())) == len(names) else unchanged


def rename_metadata(metadata: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The metadata that torch stores with a state_dict, under the paths of the module itself."""
    by_bare = {_without(path, _WRAPPER_NAMES): value for path, value in metadata.items()}  # the innermost comes last
    renamed: dict[str, Any] = {}
    for path in paths:
        bare = _without(path, _WRAPPER_NAMES)
        if path in metadata or bare in by_bare:
            renamed[path] = metadata[path] if path in metadata else by_bare[bare]
    return renamed


def _find_expected(key: str, expected_by_bare: Mapping[str, list[str]], common: int) -> str:
    candidates = [
        name for name in expected_by_bare.get(_without(key, _WRAPPER_NAMES), []) if _is_subsequence(name, key)
    ]
    if key in candidates:
        return key
    if len(candidates) == 1:
        return candidates[0]
    return _without(".".join(key.split(".")[common:]), TRANSPARENT_NAMES)  # for the message: no name of the net fits


def _common_wrapper_prefix(keys: Collection[str]) -> list[str]:
    """The names of wrappers with which all keys begin."""
    prefix: list[str] = []
    for names in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(names)) > 1 or names[0] not in _WRAPPER_NAMES:
            break
        prefix.append(names[0])
    return prefix


def _without(key: str, names: Collection[str]) -> str:
    return ".".join(name for name in key.split(".") if name not in names)


def _is_subsequence(name: str, key: str) -> bool:
    """Whether a key is a name with more names in front and in between."""
    remaining = iter(key.split("."))
    return all(part in remaining for part in name.split("."))
