"""Rules as TOML and as plain tables: each rule is a table with the name of its operation and its fields."""

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
from funcnet.checkpoint.rules._merge_lora import MergeLora
from funcnet.checkpoint.rules._mixtures import Mix, Slerp
from funcnet.checkpoint.rules._names import Prefix, Rename, Tie, Untie
from funcnet.checkpoint.rules._ranks import Replicate, Shard, Unreplicate, Unshard
from funcnet.checkpoint.rules._rows import Cut, Grow
from funcnet.checkpoint.rules._rule import Rule
from funcnet.checkpoint.rules._shapes import Interleave, Permute, Reshape, Transpose
from funcnet.checkpoint.rules._values import Cast, Drop, Fill
from funcnet.checkpoint.rules._within import Label, Number, Within

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CLASSES: tuple[type[Rule], ...] = (
    *(Rename, Prefix, Transpose, Permute, Reshape, Split, Fuse, Interleave, Stack, Unstack, Tie, Untie),
    *(Shard, Unshard, Replicate, Unreplicate),
    *(Cast, Drop, Fill, Cut, Grow),
    *(Mix, Slerp, MergeLora),
    *(Within, Label, Number),
)
RULE_CLASSES: dict[str, type[Rule]] = {rule_class.__name__.lower(): rule_class for rule_class in _CLASSES}
"""Every class of rules, by the name of its operation in TOML."""


def inverse(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that undo a list of rules: the inverse of each, in reverse order.

    >>> [type(rule).__name__ for rule in inverse([Rename("a", "b"), Stack("b.{i}", "c")])]
    ['Unstack', 'Rename']
    """
    return tuple(rule.inverse() for rule in reversed(tuple(rules)))


def from_toml(text: str) -> tuple[Rule, ...]:
    """The rules of a TOML text: tables ``[[rule]]`` with an ``op`` and the fields of the operation.

    ``match`` proposes tables with ``guess = true``. A person has to look at them and take that line out.

    Raises:
        RuleError: lists every table that is not a rule, and every guess, by its number.

    >>> from_toml('[[rule]]\\nop = "rename"\\nsource = "fc.{x}"\\ntarget = "head.{x}"\\n')
    (Rename(source='fc.{x}', target='head.{x}', optional=False),)
    """
    try:
        parsed = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also if a number has thousands of digits or tables nest too deep
        raise RuleError(f"the rules are not TOML: {summarize_error(error)}.") from None
    tables = parsed.pop("rule", [])
    if parsed or not isinstance(tables, list):
        raise RuleError(f"rules are tables [[rule]], and not {', '.join(map(repr, parsed or ['rule']))}.")
    return from_plain(tables)


def read_rules(rules: Sequence[Rule] | str | os.PathLike[str]) -> tuple[Rule, ...]:
    """Rules as they are given: themselves, or the path of a TOML file.

    Raises:
        RuleError: as :func:`from_toml` does, and if the file is not text.
        OSError: if it cannot be read.
    """
    if not isinstance(rules, (str, os.PathLike)):
        return tuple(rules)
    path = rules
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise RuleError(f"the rules {str(path)!r} are no text in UTF-8: {summarize_error(error)}.") from None
    return from_toml(text)


def from_plain(tables: Sequence[object]) -> tuple[Rule, ...]:
    """The rules of parsed tables, which come from TOML or from a certificate.

    Raises:
        RuleError: lists every table that is not a rule, by its number.
    """
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
    rules: list[Rule] = []
    problems: list[str] = []
    for number, table in enumerate(tables, 1):
        try:
            rules.append(_parse_rule(table))
        except (ValueError, TypeError) as error:  # noqa: PERF203  one error lists all tables
            problems.append(f"rule {number}: {error}")
    if problems:
        raise RuleError(f"these are not rules:{truncated_list(problems)}")
    return tuple(rules)


def _parse_rule(table: object) -> Rule:
    op = table.get("op") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or not isinstance(op, str) or op not in RULE_CLASSES:
        raise RuleError(f"op = {json.dumps(op, default=str)} is none of {', '.join(RULE_CLASSES)}.")
    rule_class = RULE_CLASSES[op]
    fields = {field.name: field for field in dataclasses.fields(rule_class)}  # type: ignore[arg-type]
    values = {name: value for name, value in table.items() if name != "op" and (name, value) != ("guess", False)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        problems = [f"{op} has no {', '.join(unknown)}"] * bool(unknown)
        problems += [f"{op} needs {', '.join(missing)}"] * bool(missing)
        raise RuleError(f"{'; '.join(problems)}. Its fields are {', '.join(fields)}.")
    hints = typing.get_type_hints(rule_class)
    misfits = [f"{name} = {value!r}" for name, value in values.items() if not _has_type(value, hints[name])]
    if misfits:
        raise RuleError(f"{op} does not take {', '.join(misfits)}.")
    if "rules" in values:
        values["rules"] = from_plain(values["rules"])
    return rule_class(**values)


def _has_type(value: object, hint: Any) -> bool:
    """Whether a value of TOML fits the annotation of a field."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(hint))
    if hint is Rule:
        return isinstance(value, Mapping)
    if origin is tuple:
        item_hint = typing.get_args(hint)[0]
        return isinstance(value, (list, tuple)) and all(_has_type(item, item_hint) for item in value)
    if origin is not None:  # Mapping[str, int]
        return isinstance(value, Mapping) and all(type(size) is int for size in value.values())
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def to_plain(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as dicts of plain values; fields with their default value are left out.

    >>> from funcnet.checkpoint import Transpose
    >>> to_plain([Transpose("**.kernel")])
    [{'op': 'transpose', 'names': '**.kernel'}]
    """
    tables: list[dict[str, Any]] = []
    for rule in rules:
        table: dict[str, Any] = {"op": type(rule).__name__.lower()}
        for field in dataclasses.fields(rule):  # type: ignore[arg-type]
            value = getattr(rule, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            if value != default:
                table[field.name] = _to_plain_value(value)
        tables.append(table)
    return tables


def _to_plain_value(value: object) -> object:
    if isinstance(value, tuple) and value and all(isinstance(item, Rule) for item in value):
        return to_plain(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def to_toml(rules: Iterable[Rule], comments: Mapping[int, str] | None = None, guesses: Collection[int] = ()) -> str:
    """The rules as TOML; :func:`from_toml` gives them back.

    Args:
        rules: what to write.
        comments: number of a rule, counted from 0 -> a comment to write above it.
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
        comment = [f"# {line}" for line in (comments or {}).get(number, "").splitlines()]
        if number in guesses:
            table["guess"] = True
        lines = [f"{name} = {_format_value(value)}" for name, value in table.items()]
        blocks.append("\n".join([*comment, "[[rule]]", *lines]) + "\n")
    return "\n".join(blocks)


def _format_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_format_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=True)
