"""The base class of all rules, the state that they change, and what they share."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node, SourceNode
from funcnet.checkpoint.rules._patterns import Pattern


@dataclass(frozen=True)
class Claim:
    """Two tensors that a rule assumes to be equal. It is checked when their bytes are read.

    Attributes:
        what: the claim in words.
        node: a tensor of the checkpoint.
        equal: what it must be equal to.

    >>> import torch
    >>> from funcnet import checkpoint
    >>> specs = dict.fromkeys(["a", "b"], checkpoint.Spec((2, 3), torch.float32))
    >>> [claim.what for claim in checkpoint.plan(specs, [checkpoint.Tie("b", "a")]).claims]
    ["'b' and 'a', which are tied, are equal"]
    """

    what: str
    node: Node
    equal: Node


@dataclass(frozen=True)
class State:
    """The tensors of a checkpoint between two rules, described and not read.

    Attributes:
        tensors: name -> how the tensor is computed from the tensors of the source.
        aliases: further names of tensors: alias -> owner.
        claims: what must hold for the bytes.
        lost: tensors that a rule drops for good, by name.
        outside: while a plan is proved, what rules have set aside; see :class:`Outside`.
        has_additions: whether a rule has added what does not come from the sources.

    >>> state = State({})
    >>> state.tensors, state.aliases, state.lost
    ({}, {}, {})
    """

    tensors: dict[str, Node]
    aliases: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    lost: dict[str, Node] = field(default_factory=dict)
    outside: Outside | None = None
    has_additions: bool = False

    @classmethod
    def from_specs(cls, specs: Mapping[str, Spec], aliases: Mapping[str, str]) -> State:
        """The state before the first rule."""
        return cls({name: SourceNode(spec, name) for name, spec in specs.items()}, dict(aliases))

    @property
    def names(self) -> Iterator[str]:
        """The names of all tensors, then the aliases."""
        yield from self.tensors
        yield from self.aliases

    def with_tensors(self, tensors: dict[str, Node]) -> State:
        """This state with other tensors."""
        return replace(self, tensors=tensors)

    def set_aside(self, nodes: Mapping[str, Node]) -> State:
        """This state with a loss that a rule declares: nodes that its targets do not hold, each with a name."""
        if self.outside is None:
            return replace(self, lost={**self.lost, **nodes})
        return replace(self, outside=self.outside.put(nodes))

    def bring_in(self, nodes: Mapping[str, Node]) -> tuple[State, dict[str, Node]]:
        """What a rule adds that does not come from the sources, as constants or computed values: the nodes to add."""
        if self.outside is None:
            return replace(self, has_additions=True), dict(nodes)
        outside, taken = self.outside.take(nodes)
        return replace(self, outside=outside, has_additions=True), taken


@dataclass(frozen=True)
class Outside:
    """What lies outside of the tensors while a plan is proved, so that a declared loss is a bijection too.

    What a rule drops goes here, and its inverse takes it from here. What a rule adds on its own was here before, and
    its inverse puts it back. So there and back must agree on every element, lost or not.

    Attributes:
        rule: the number of the rule that is applied, below those of the rules that it is within.
        is_back: whether rules are applied that are inverses, which are numbered from the last to the first.
        nodes: what lies here, by the number of the rule that it belongs to and its name.
    """

    rule: tuple[int, ...] = ()
    is_back: bool = False
    nodes: dict[OutsideKey, Node] = field(default_factory=dict)

    def at_rule(self, index: int, count: int) -> Outside:
        """The same, while one of the rules of a list is applied."""
        return replace(self, rule=(*self.rule, count - 1 - index if self.is_back else index))

    def put(self, nodes: Mapping[str, Node]) -> Outside:
        """The same with more nodes, which the present rule takes out of the tensors."""
        return replace(self, nodes={**self.nodes, **{(self.rule, name): node for name, node in nodes.items()}})

    def take(self, nodes: Mapping[str, Node]) -> tuple[Outside, dict[str, Node]]:
        """The nodes that lie here under these names, and for the others new sources."""
        keys = {name: (self.rule, name) for name in nodes}
        taken = {
            name: self.nodes.get(keys[name], SourceNode(node.spec, outside_name(keys[name])))
            for name, node in nodes.items()
        }
        taken_keys = set(keys.values())
        return replace(self, nodes={key: node for key, node in self.nodes.items() if key not in taken_keys}), taken

    def take_all(self) -> tuple[Outside, dict[str, Node]]:
        """All nodes that belong to the present rule, by name."""
        return self.take({name: node for (rule, name), node in self.nodes.items() if rule == self.rule})


OutsideKey: TypeAlias = tuple[tuple[int, ...], str]


def outside_name(key: OutsideKey) -> str:
    """A name for something that is no tensor of the source; no file can have it."""
    return "\0".join(["", *map(str, key[0]), key[1]])


def apply_each(state: State, rules: Sequence[Rule]) -> Iterator[State]:
    """The states after each of some rules, which are applied one after the other."""
    for index, rule in enumerate(rules):
        outside = state.outside
        if outside is None:
            state = rule.apply(state)
        else:
            state = rule.apply(replace(state, outside=outside.at_rule(index, len(rules))))
            assert state.outside is not None
            state = replace(state, outside=replace(state.outside, rule=outside.rule))
        yield state


class Rule(abc.ABC):
    """One typed, invertible operation on the tensors of a checkpoint.

    Rules are records: they are equal when their fields are, and TOML has them field by field.

    >>> from funcnet import checkpoint
    >>> rule = checkpoint.Rename("w", "weight")
    >>> isinstance(rule, Rule), rule.inverse()
    (True, Rename(source='weight', target='w', optional=False))
    """

    optional: bool

    @abc.abstractmethod
    def apply(self, state: State) -> State:
        """The state after the rule.

        Raises:
            RuleError: if the rule does not fit; names every tensor at fault.
        """

    @abc.abstractmethod
    def inverse(self) -> Rule:
        """The rule that undoes this one."""

    def convert_values(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a checkpoint that are not tensors, by name, after the rule: mostly as they are."""
        return values

    def unchanged_if_optional(self, state: State, *patterns: str) -> State:
        """The state as it is, for a rule whose patterns match no name, which only an optional rule may do.

        Raises:
            RuleError: if the rule is not optional; suggests names that are similar.
        """
        if self.optional:
            return state
        alternatives = " or ".join(map(repr, patterns))
        similar = [name for pattern in patterns for name in difflib.get_close_matches(pattern, state.names, 3, 0.3)]
        hint = f" The nearest names are {', '.join(map(repr, similar))}." if similar else ""
        if any("*" in pattern.replace("**}", "") for pattern in patterns):
            hint += " A star stands for itself: write {i} for one key, and {rest**} for any number of them."
        raise RuleError(f"no tensor is named {alternatives}.{hint} Correct the pattern, or set optional = true.")


def match_names(state: State, pattern: Pattern) -> dict[str, dict[str, str]]:
    """The names of tensors that match a pattern, each with the values of the holes.

    A tie needs no match of its own: it follows its owner.

    Raises:
        RuleError: if an alias matches and its owner does not, because one tensor would have to become two.
    """
    if not pattern.holes:
        matches: dict[str, dict[str, str]] = {pattern.text: {}} if pattern.text in state.tensors else {}
    else:
        matches = {name: holes for name in state.tensors if (holes := pattern.match(name)) is not None}
    lone_aliases = [
        f"{alias!r} is a tie to {owner!r}"
        for alias, owner in state.aliases.items()
        if owner not in matches and pattern.match(alias) is not None
    ]
    if lone_aliases:
        raise RuleError(
            f"{pattern.text!r} means ties and not the tensors they are tied to:{truncated_list(lone_aliases)}\n"
            f"Name the owners, or untie them first."
        )
    return matches


def refuse_ties(state: State, names: Iterable[str]) -> None:
    """Refuse tensors that have aliases, for an operation that removes the tensors.

    Raises:
        RuleError: lists the ties.
    """
    removed = set(names)
    ties = [f"{alias!r} is tied to {owner!r}" for alias, owner in state.aliases.items() if owner in removed]
    if ties:
        raise RuleError(
            f"tensors with ties are neither joined, parted nor dropped:{truncated_list(ties)}\nUntie them first."
        )


@dataclass(frozen=True)
class Replacement:
    """Tensors that leave a state together, and the tensors that take their place."""

    names: tuple[str, ...]
    tensors: dict[str, Node]


def replace_tensors(state: State, replacements: Sequence[Replacement]) -> State:
    """The state after some replacements; new tensors stand where the first of those they replace stood.

    Raises:
        RuleError: if two tensors would have one name; lists the names.
    """
    replacement_of = {name: replacement for replacement in replacements for name in replacement.names}
    refuse_ties(state, replacement_of)
    pending = {id(replacement) for replacement in replacements}
    tensors: dict[str, Node] = {}
    duplicates: list[str] = []
    for name, node in state.tensors.items():
        replacement = replacement_of.get(name)
        if replacement is None:
            new_tensors = {name: node}
        elif id(replacement) in pending:
            pending.remove(id(replacement))
            new_tensors = replacement.tensors
        else:
            new_tensors = {}
        duplicates += [repr(new) for new in new_tensors if new in tensors or new in state.aliases]
        tensors |= new_tensors
    if duplicates:
        raise RuleError(f"these names would be there twice:{truncated_list(duplicates)}")
    return state.with_tensors(tensors)


def map_matches(state: State, rule: Rule, pattern: Pattern, change: Callable[[Node], Node]) -> State:
    """The state with every tensor that matches a pattern changed.

    Raises:
        RuleError: lists every tensor that ``change`` refused with a ValueError.
    """
    matches = match_names(state, pattern)
    if not matches:
        return rule.unchanged_if_optional(state, pattern.text)
    tensors = dict(state.tensors)
    problems = []
    for name in matches:
        try:
            tensors[name] = change(tensors[name])
        except ValueError as error:  # noqa: PERF203  one error lists all tensors
            problems.append(f"{name!r}: {error}")
    if problems:
        raise RuleError(f"these tensors do not fit:{truncated_list(problems)}")
    return state.with_tensors(tensors)
