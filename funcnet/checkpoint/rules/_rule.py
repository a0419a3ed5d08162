"""What a rule is: a change of a whole checkpoint, described by values, that knows its inverse."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node, SourceNode
from funcnet.checkpoint.rules._patterns import Pattern


@dataclass(frozen=True)
class Claim:
    """Two tensors that a rule takes to be equal, which is checked when their bytes are there."""

    what: str
    node: Node
    equal: Node


@dataclass(frozen=True)
class State:
    """The tensors of a checkpoint between two rules.

    Attributes:
        tensors: how each is made of the sources, by name.
        aliases: further names of them.
        claims: what has to be true of the bytes.
        lost: names a rule removes for good, and why.
        copies: names that hold what another holds too.
    """

    tensors: dict[str, Node]
    aliases: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    lost: dict[str, Node] = field(default_factory=dict)
    copies: tuple[Node, ...] = ()

    @classmethod
    def of(cls, specs: Mapping[str, Spec], aliases: Mapping[str, str]) -> State:
        """The state before the first rule."""
        return cls({name: SourceNode(spec, name) for name, spec in specs.items()}, dict(aliases))

    @property
    def names(self) -> Iterator[str]:
        yield from self.tensors
        yield from self.aliases

    def with_tensors(self, tensors: dict[str, Node]) -> State:
        return replace(self, tensors=tensors)


class Rule(abc.ABC):
    """One typed, invertible operation on the tensors of a checkpoint.

    Rules are records: equal when their fields are, and written to TOML field by field.
    """

    optional: bool

    @abc.abstractmethod
    def apply(self, state: State) -> State:
        """The state after the rule.

        Raises:
            RuleError: if it does not fit; names everything at fault.
        """

    @abc.abstractmethod
    def inverse(self) -> Rule:
        """The rule that undoes this one."""

    def nothing(self, state: State, *patterns: str) -> State:
        """The state unchanged, where that is allowed if no name fits."""
        if self.optional:
            return state
        wanted = " or ".join(map(repr, patterns))
        near = [close for pattern in patterns for close in difflib.get_close_matches(pattern, state.names, 3, 0.3)]
        hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
        raise RuleError(f"no tensor is named {wanted}.{hint} Correct the pattern, or set optional = true.")


def matching(state: State, pattern: Pattern) -> dict[str, dict[str, str]]:
    """Names of tensors that fit, each with what the holes stand for; ties that fit follow their owners.

    Raises:
        RuleError: if a tie fits and its owner does not: the one tensor would have to be two.
    """
    if not pattern.holes:
        found: dict[str, dict[str, str]] = {pattern.text: {}} if pattern.text in state.tensors else {}
    else:
        found = {name: holes for name in state.tensors if (holes := pattern.match(name)) is not None}
    astray = [
        f"{alias!r} is a tie to {owner!r}"
        for alias, owner in state.aliases.items()
        if owner not in found and pattern.match(alias) is not None
    ]
    if astray:
        raise RuleError(
            f"{pattern.text!r} means ties and not the tensors they are tied to:{truncated_list(astray)}\n"
            f"Name the owners, or untie them first."
        )
    return found


def free_of_ties(state: State, names: Iterable[str]) -> None:
    """Refuse tensors that have further names, for an operation after which they would not exist.

    Raises:
        RuleError: lists the ties.
    """
    used = set(names)
    tied = [f"{alias!r} is tied to {owner!r}" for alias, owner in state.aliases.items() if owner in used]
    if tied:
        raise RuleError(
            f"tensors with ties are neither joined, parted nor dropped:{truncated_list(tied)}\nUntie them first."
        )


def replaced(state: State, groups: Mapping[str, tuple[tuple[str, ...], dict[str, Node]]]) -> State:
    """The state with groups of tensors in the place of others, each where the first it replaces was.

    Args:
        groups: first name replaced -> all names replaced, and what comes in their place.

    Raises:
        RuleError: if a name would be there twice; lists them.
    """
    gone = {name for names, _ in groups.values() for name in names}
    free_of_ties(state, gone)
    tensors: dict[str, Node] = {}
    twice: list[str] = []

    def put(name: str, node: Node) -> None:
        if name in tensors or name in state.aliases:
            twice.append(repr(name))
        tensors[name] = node

    for name, node in state.tensors.items():
        if name in groups:
            for new, made in groups[name][1].items():
                put(new, made)
        elif name not in gone:
            put(name, node)
    if twice:
        raise RuleError(f"these names would be there twice:{truncated_list(twice)}")
    return state.with_tensors(tensors)


def each(state: State, rule: Rule, pattern: Pattern, change: Callable[[Node], Node]) -> State:
    """The state with a change made to every tensor that fits.

    Raises:
        RuleError: lists every tensor whose shape or dtype does not fit.
    """
    found = matching(state, pattern)
    if not found:
        return rule.nothing(state, pattern.text)
    tensors = dict(state.tensors)
    wrong = []
    for name in found:
        try:
            tensors[name] = change(tensors[name])
        except ValueError as error:  # noqa: PERF203  all at once
            wrong.append(f"{name!r}: {error}")
    if wrong:
        raise RuleError(f"these tensors do not fit:{truncated_list(wrong)}")
    return state.with_tensors(tensors)
