"""Whether rules lose nothing, shown on positions before any tensor is read.

Rules take sources to targets; their inverses take targets to something. That something must be the sources: the same
names, ties, shapes and dtypes, and every element at its place. Then the other way round, from the targets over the
sources back to the targets. Both together say that every element of a source lands exactly once, and every element of a
target comes from exactly one place. Places are compared as index maps, which are exact.

Rules may rest on claims (two tensors that are tied are equal; a dropped mask is a mask). A claim on the way out is an
assumption, to be checked on the bytes. A claim on the way back has to follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from funcnet.checkpoint._errors import RuleError, some
from funcnet.checkpoint._index import IndexMap, identity, index_map
from funcnet.checkpoint._lazy import Spec
from funcnet.checkpoint._nodes import Cast as CastNode
from funcnet.checkpoint._nodes import Constant, Node, Source, leaves, nodes
from funcnet.checkpoint.rules import Cast, Rule, State, inverse, to_plain

METHOD = "index maps of every tensor, there and back in both directions"
_KEPT = 1 << 24  # blocks of maps that are kept at a time


@dataclass(frozen=True)
class Proof:
    """What was shown.

    Attributes:
        elements: elements of all sources.
        lost: names that a rule declares to drop for good.
        rounded: names of targets whose values may change, as a rule declares.
    """

    elements: int
    lost: tuple[str, ...]
    rounded: tuple[str, ...]

    @property
    def bijection(self) -> bool:
        """Whether nothing at all is lost."""
        return not self.lost and not self.rounded


def apply_rules(state: State, rules: Sequence[Rule]) -> State:
    """The state after all rules.

    Raises:
        RuleError: from the first rule that does not fit, with its number and text.
    """
    for number, rule in enumerate(rules, 1):
        try:
            state = rule.apply(state)
        except RuleError as error:  # noqa: PERF203  its number is the message
            raise RuleError(f"rule {number}, {in_words(rule)}: {error}") from None
    return state


def in_words(rule: Rule) -> str:
    """A rule in one line.

    >>> from funcnet.checkpoint.rules import Rename
    >>> in_words(Rename("a", "b"))
    "rename(source='a', target='b')"
    """
    (table,) = to_plain([rule])
    op = table.pop("op")
    return f"{op}({', '.join(f'{name}={value!r}' for name, value in table.items())})"


def prove(specs: Mapping[str, Spec], aliases: Mapping[str, str], rules: Sequence[Rule]) -> Proof:
    """Show that rules lose nothing of tensors of these shapes but what they declare.

    Raises:
        RuleError: if they do; lists the names at fault.
    """
    there = apply_rules(State.from_specs(specs, aliases), rules)
    rounded = tuple(name for name, node in there.tensors.items() if any(map(_is_lossy, nodes(node))))
    lost = tuple(there.lost)
    # A lossy cast moves nothing, and what it loses is declared: positions are proved without it.
    exact = [rule for rule in rules if not (isinstance(rule, Cast) and rule.lossy)]
    there = apply_rules(State.from_specs(specs, aliases), exact)
    targets = {name: node.spec for name, node in there.tensors.items()}
    exempt = {leaf.name for node in there.lost.values() for leaf in leaves(node) if isinstance(leaf, Source)}
    back = inverse(exact)
    _there_and_back(specs, aliases, exact, back, exempt)
    _there_and_back(targets, there.aliases, back, inverse(back), set())
    return Proof(sum(math.prod(spec.shape) for spec in specs.values()), lost, rounded)


def _is_lossy(node: Node) -> bool:
    return isinstance(node, CastNode) and node.lossy


def _there_and_back(
    specs: Mapping[str, Spec],
    aliases: Mapping[str, str],
    rules: Sequence[Rule],
    back: Sequence[Rule],
    exempt: set[str],
) -> None:
    out = apply_rules(State.from_specs(specs, aliases), rules)
    try:
        home = apply_rules(State.from_specs({name: node.spec for name, node in out.tensors.items()}, out.aliases), back)
    except RuleError as error:
        raise RuleError(f"the rules do not lead back, so something is lost or mixed up. Going back, {error}") from None
    wrong = _names_at_fault(specs, aliases, home, exempt)
    wrong += _places_at_fault(specs, out, home, exempt)
    if wrong:
        raise RuleError(
            f"the rules are no bijection; going there and back:{some(wrong)}\n"
            f"Make the patterns tell these names apart, or declare the loss with drop or lossy = true."
        )


def _names_at_fault(specs: Mapping[str, Spec], aliases: Mapping[str, str], home: State, exempt: set[str]) -> list[str]:
    wrong = [f"{name!r} does not come back" for name in specs if name not in home.tensors and name not in exempt]
    wrong += [f"{name!r} comes back, and was not there" for name in home.tensors if name not in specs]
    wrong += [
        f"{name!r} was {spec} and comes back as {home.tensors[name].spec}"
        for name, spec in specs.items()
        if name in home.tensors and home.tensors[name].spec != spec
    ]
    was, now = ({(alias, owner) for alias, owner in ties.items()} for ties in (aliases, home.aliases))
    wrong += [f"the tie {alias!r} to {owner!r} does not come back" for alias, owner in sorted(was - now)]
    wrong += [f"the tie {alias!r} to {owner!r} comes back, and was not there" for alias, owner in sorted(now - was)]
    return wrong


def _places_at_fault(specs: Mapping[str, Spec], out: State, home: State, exempt: set[str]) -> list[str]:
    number = _Numbering(specs)
    sent = _Cache(lambda name: index_map(out.tensors[name], number.leaf))

    def through(node: Node) -> IndexMap | None:
        return sent(node.name) if isinstance(node, Source) else number.leaf(node)

    returned = _Cache(lambda name: index_map(home.tensors[name], through))

    def substituted(node: Node) -> IndexMap | None:
        return returned(node.name) if isinstance(node, Source) else number.leaf(node)

    assumed: dict[str, list[int]] = {}
    for place, claim in enumerate(out.claims):
        for leaf in leaves(claim.node):
            if isinstance(leaf, Source):
                assumed.setdefault(leaf.name, []).append(place)

    def follows(name: str) -> bool:
        """Whether a tensor is where it was, given the claims."""
        if returned(name).equals(number.source(name)):
            return True
        claims = [out.claims[place] for place in assumed.get(name, ())]
        return bool(claims) and all(
            index_map(claim.node, substituted).equals(index_map(claim.equal, substituted)) for claim in claims
        )

    names = [name for name, spec in specs.items() if name in home.tensors and home.tensors[name].spec == spec]
    wrong = [f"elements of {name!r} do not come back to their places" for name in names if not follows(name)]
    wrong += [
        f"it does not follow that {claim.what}"
        for claim in home.claims
        if not index_map(claim.node, through).equals(index_map(claim.equal, through))
    ]
    return wrong


class _Numbering:
    """A number for every element of every source and constant."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self.specs = specs
        self.offsets: dict[object, int] = {}
        self.reached = 0
        for name, spec in specs.items():
            self._place(("source", name), spec)

    def _place(self, key: object, spec: Spec) -> int:
        if key not in self.offsets:
            self.offsets[key] = self.reached
            self.reached += math.prod(spec.shape)
        return self.offsets[key]

    def source(self, name: str) -> IndexMap:
        return identity(self.specs[name].shape, self.offsets["source", name])

    def leaf(self, node: Node) -> IndexMap | None:
        if isinstance(node, Source):
            return self.source(node.name)
        if isinstance(node, Constant):
            return identity(node.shape, self._place(("constant", node.spec, str(node.value)), node.spec))
        return None


class _Cache:
    """Maps by name, as many as fit."""

    def __init__(self, make: Callable[[str], IndexMap]) -> None:
        self.make = make
        self.kept: dict[str, IndexMap] = {}
        self.blocks = 0

    def __call__(self, name: str) -> IndexMap:
        if name not in self.kept:
            made = self.make(name)
            self.blocks += made.base.numel()
            if self.blocks > _KEPT:
                self.kept.clear()
                self.blocks = made.base.numel()
            self.kept[name] = made
        return self.kept[name]
