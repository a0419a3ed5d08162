"""Rules as TOML: one table for each, its fields by name."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from funcnet.checkpoint._errors import RuleError, summarize_error, truncated_list
from funcnet.checkpoint.rules._joins import Fuse, Split, Stack, Unstack
from funcnet.checkpoint.rules._names import Prefix, Rename, Tie, Untie
from funcnet.checkpoint.rules._rule import Rule
from funcnet.checkpoint.rules._shapes import Interleave, Permute, Reshape, Transpose
from funcnet.checkpoint.rules._values import Cast, Drop, Fill

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CLASSES: tuple[type[Rule], ...] = (
    *(Rename, Prefix, Transpose, Permute, Reshape, Split, Fuse, Interleave, Stack, Unstack, Tie, Untie),
    *(Cast, Drop, Fill),
)
OPS: dict[str, type[Rule]] = {kind.__name__.lower(): kind for kind in _CLASSES}
"""Every operation by the name it has in TOML."""


def inverse(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that undo some rules: the inverse of each, in reverse order.

    >>> [type(rule).__name__ for rule in inverse([Rename("a", "b"), Stack("b.{i}", "c")])]
    ['Unstack', 'Rename']
    """
    return tuple(rule.inverse() for rule in reversed(tuple(rules)))


def from_toml(text: str) -> tuple[Rule, ...]:
    """The rules of a TOML text: tables ``[[rule]]`` with an ``op`` and the fields of the operation.

    A table with ``guess = true`` was proposed by ``match`` and not yet looked at by a person, who takes the line out.

    Raises:
        RuleError: lists every table that is not a rule, and every guess, by its number.

    >>> from_toml('[[rule]]\\nop = "rename"\\nsource = "fc.{x}"\\ntarget = "head.{x}"\\n')
    (Rename(source='fc.{x}', target='head.{x}', optional=False),)
    """
    try:
        parsed = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits, or tables too deep
        raise RuleError(f"the rules are not TOML: {summarize_error(error)}.") from None
    tables = parsed.pop("rule", [])
    if parsed or not isinstance(tables, list):
        raise RuleError(f"rules are tables [[rule]], and not {', '.join(map(repr, parsed or ['rule']))}.")
    return from_plain(tables)


def read_toml(path: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """The rules of a TOML file.

    Raises:
        RuleError: as of :func:`from_toml`, and if the file is no text.
        OSError: if it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise RuleError(f"the rules {str(path)!r} are no text in UTF-8: {summarize_error(error)}.") from None
    return from_toml(text)


def from_plain(tables: Sequence[Any]) -> tuple[Rule, ...]:
    """The rules of some parsed tables, as in TOML or in a certificate.

    Raises:
        RuleError: lists every table that is not a rule, by its number.
    """
    rules: list[Rule] = []
    wrong: list[str] = []
    guesses = [
        f"rule {number}: {json.dumps({name: value for name, value in table.items() if name != 'guess'}, default=str)}"
        for number, table in enumerate(tables, 1)
        if isinstance(table, Mapping) and table.get("guess") is True
    ]
    if guesses:
        raise RuleError(
            f"nobody has looked at these guesses:{truncated_list(guesses)}\n"
            f"Look at each, correct it, and take its line guess = true out."
        )
    for number, table in enumerate(tables, 1):
        try:
            rules.append(_rule(table))
        except (ValueError, TypeError) as error:  # noqa: PERF203  all at once
            wrong.append(f"rule {number}: {error}")
    if wrong:
        raise RuleError(f"these are not rules:{truncated_list(wrong)}")
    return tuple(rules)


def _rule(table: Any) -> Rule:
    op = table.get("op") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or not isinstance(op, str) or op not in OPS:
        raise RuleError(f"op = {json.dumps(op, default=str)} is none of {', '.join(OPS)}.")
    kind = OPS[op]
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in table.items() if name != "op" and (name, value) != ("guess", False)}
    unknown = sorted(set(given) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in given and field.default is field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        problems = [f"{table['op']} has no {', '.join(unknown)}"] * bool(unknown)
        problems += [f"{table['op']} needs {', '.join(missing)}"] * bool(missing)
        raise RuleError(f"{'; '.join(problems)}. Its fields are {', '.join(fields)}.")
    hints = typing.get_type_hints(kind)
    misfits = [f"{name} = {value!r}" for name, value in given.items() if not _fits(value, hints[name])]
    if misfits:
        raise RuleError(f"{table['op']} does not take {', '.join(misfits)}.")
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML is one of the annotated type."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, (list, tuple)) and all(_fits(item, inner) for item in value)
    if origin is not None:
        return isinstance(value, Mapping) and all(type(size) is int for size in value.values())
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def to_plain(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as dicts of plain values; fields that have their default are left out."""
    tables: list[dict[str, Any]] = []
    for rule in rules:
        table: dict[str, Any] = {"op": type(rule).__name__.lower()}
        for field in dataclasses.fields(rule):  # type: ignore[arg-type]
            value = getattr(rule, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            if value != default:
                table[field.name] = _plain(value)
        tables.append(table)
    return tables


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def to_toml(rules: Iterable[Rule], comments: Mapping[int, str] | None = None, guesses: Collection[int] = ()) -> str:
    """The TOML of some rules; :func:`from_toml` gives them back.

    Args:
        rules: what to write.
        comments: a remark to put above the rule of that number, counted from 0.
        guesses: numbers of rules that :func:`from_toml` shall refuse until a person has looked at them.

    >>> print(to_toml([Rename("a", "b")], {0: "a guess"}))
    # a guess
    [[rule]]
    op = "rename"
    source = "a"
    target = "b"
    <BLANKLINE>
    """
    blocks = []
    for number, table in enumerate(to_plain(rules)):
        remark = [f"# {line}" for line in (comments or {}).get(number, "").splitlines()]
        if number in guesses:
            table["guess"] = True
        lines = [f"{name} = {_value(value)}" for name, value in table.items()]
        blocks.append("\n".join([*remark, "[[rule]]", *lines]) + "\n")
    return "\n".join(blocks)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=True)
