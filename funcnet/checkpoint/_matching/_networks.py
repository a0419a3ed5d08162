"""Which of several networks in a file is meant, and the prefix that its names have beside those of the target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from funcnet._typing import Shape
from funcnet.checkpoint._matching._layouts import Layout
from funcnet.checkpoint.rules import Prefix

_MAX_DEPTH = 4
_COPIES = re.compile(
    r"ema|teacher|momentum|(^|_)k$|key_encoder|target|shadow|averag|(^|_)avg|swa|frozen|(^|_)ref|slow|_m$|_old$|copy"
)


@dataclass(frozen=True)
class PrefixChoice:
    """A prefix to remove or to add, and the prefixes that would do as well."""

    prefix: Prefix
    rivals: tuple[str, ...]
    is_of_all: bool


def find_prefix(source: Layout, target: Layout) -> PrefixChoice | None:
    """The prefix with which most of the target is there under its own names and shapes; None if none is needed.

    One prefix that covers more of the target wins, so that two networks in a file are not mixed.
    """
    best: tuple[int, int] = (_count_fitting(source.shapes, target.shapes), 0)
    enough = (min(len(source.shapes), len(target.shapes)) + 1) // 2
    choice: Prefix | None = None
    rivals: list[str] = []
    stripped_targets = {
        add: {name.removeprefix(add): shape for name, shape in target.shapes.items() if name.startswith(add)}
        for add in ["", *_common_prefixes(target.shapes)]
    }
    for remove in ["", *_common_prefixes(source.shapes)]:
        stripped = {
            name.removeprefix(remove): shape for name, shape in source.shapes.items() if name.startswith(remove)
        }
        for add, expected in stripped_targets.items():
            if add == remove or (remove and add and (remove.endswith(add) or add.endswith(remove))):
                continue
            fitting = _count_fitting(stripped, expected)
            rank = fitting, -len(remove) - len(add)
            least = len(target.shapes) if remove and add else max(enough, 1)
            if fitting < least or fitting < best[0]:
                continue
            if choice is not None and fitting == best[0] and add == choice.add and remove and choice.remove:
                rivals += [remove]
                if _is_preferred(remove, choice.remove):
                    choice = Prefix(add, remove)
            elif fitting > best[0]:
                best, choice, rivals = rank, Prefix(add, remove), [remove]
    if choice is None or _collides(choice, source):
        return None
    others = tuple(rival for rival in rivals if rival != choice.remove)
    is_of_all = all(name.startswith(choice.remove) for name in source.shapes)
    return PrefixChoice(choice, others, is_of_all)


def _count_fitting(left: Mapping[str, Shape], right: Mapping[str, Shape]) -> int:
    fewer, more = (left, right) if len(left) < len(right) else (right, left)
    return sum(more.get(name) == shape for name, shape in fewer.items())


def _common_prefixes(shapes: Mapping[str, Shape]) -> list[str]:
    """The prefixes that a fifth of the names or more have, each with the separator that ends it."""
    counts: dict[str, int] = {}
    for name in shapes:
        depth = 0
        for end, sign in enumerate(name):
            if sign in "./":
                depth += 1
                if depth > _MAX_DEPTH or name[end - 1].isdigit():
                    break
                prefix = name[: end + 1]
                counts[prefix] = counts.get(prefix, 0) + 1
    return [prefix for prefix, count in counts.items() if 5 * count >= len(shapes)]


def _is_preferred(prefix: str, other: str) -> bool:
    """Whether a prefix is that of the network that is trained, and the other that of its average or copy."""
    return not _is_copy(prefix) and _is_copy(other)


def _is_copy(prefix: str) -> bool:
    return any(_COPIES.search(key) for key in prefix.strip("./").lower().split("."))


def _collides(prefix: Prefix, source: Layout) -> bool:
    names = {prefix.add + name.removeprefix(prefix.remove) for name in source.shapes if name.startswith(prefix.remove)}
    return any(name in names for name in source.shapes if not name.startswith(prefix.remove))


def find_copies(source: Layout, target: Layout) -> tuple[str, list[str]] | None:
    """The prefix of the network that is meant, and those of others with the same names and shapes; None if it is alone.

    >>> shapes = {f"{net}.{i}.w": (i + 1,) for net in ("teacher", "student") for i in range(4)}
    >>> find_copies(Layout(shapes, {}), Layout({f"net.{i}.w": (i + 1,) for i in range(4)}, {}))
    ('student.', ['teacher.'])
    """
    networks: dict[frozenset[tuple[str, Shape]], list[str]] = {}
    for prefix in _common_prefixes(source.shapes):
        content = frozenset(
            (name[len(prefix) :], shape) for name, shape in source.shapes.items() if name.startswith(prefix)
        )
        if len(content) >= max(4, len(target.shapes) / 2) and 1.5 * len(content) >= len(target.shapes):
            networks.setdefault(content, []).append(prefix)
    largest = max((content for content, prefixes in networks.items() if _are_apart(prefixes)), key=len, default=None)
    if largest is None:
        return None
    prefixes = networks[largest]
    meant = next((prefix for prefix in prefixes if not _is_copy(prefix)), prefixes[0])
    return meant, [prefix for prefix in prefixes if prefix != meant]


def _are_apart(prefixes: Sequence[str]) -> bool:
    return len(prefixes) > 1 and not any(
        left != right and left.startswith(right) for left in prefixes for right in prefixes
    )
