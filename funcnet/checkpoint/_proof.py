"""Proves that rules lose nothing, by following positions, before any tensor is read.

The rules take the sources to targets, and their inverses take the targets back. What comes back must be the sources:
the same names, ties, shapes and dtypes, and every element at its place. Then the same is shown the other way round,
from the targets over the sources back to the targets. Both together show that every element of a source arrives exactly
once, and that every element of a target comes from exactly one place. Places are compared as index maps, which are
exact.

Rules may rest on claims (two tied tensors are equal; a dropped mask holds a mask). A claim on the way out is an
assumption, which is checked later on the bytes. A claim on the way back has to follow from the plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._index_maps import IndexMap, compute_index_map, identity_map
from funcnet.checkpoint._nodes import CastNode, ConstantNode, Node, SourceNode, iter_leaves, iter_nodes
from funcnet.checkpoint.rules import Cast, Rule, State, inverse, to_plain

METHOD = "index maps of every tensor, there and back in both directions"
_CACHED_BLOCKS = 1 << 24  # blocks of index maps that are cached at one time


@dataclass(frozen=True)
class Proof:
    """What was proved about a list of rules.

    Attributes:
        elements: number of elements of all sources.
        lost: names of tensors that a rule declares to drop for good.
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
        except RuleError as error:  # noqa: PERF203  the message needs the number of the rule
            raise RuleError(f"rule {number}, {_format_rule(rule)}: {error}") from None
    return state


def _format_rule(rule: Rule) -> str:
    """A rule in one line.

    >>> from funcnet.checkpoint.rules import Rename
    >>> _format_rule(Rename("a", "b"))
    "rename(source='a', target='b')"
    """
    (table,) = to_plain([rule])
    op = table.pop("op")
    return f"{op}({', '.join(f'{name}={value!r}' for name, value in table.items())})"


def prove(specs: Mapping[str, Spec], aliases: Mapping[str, str], rules: Sequence[Rule]) -> Proof:
    """Prove that rules lose nothing, but what they declare, of tensors with these shapes and dtypes.

    Raises:
        RuleError: if they lose more; lists the names at fault.
    """
    state = apply_rules(State.from_specs(specs, aliases), rules)
    rounded = tuple(name for name, node in state.tensors.items() if any(map(_is_lossy_cast, iter_nodes(node))))
    lost = tuple(state.lost)
    # A lossy cast moves nothing, and what it loses is declared: positions are proved without it.
    exact_rules = [rule for rule in rules if not (isinstance(rule, Cast) and rule.lossy)]
    state = apply_rules(State.from_specs(specs, aliases), exact_rules)
    target_specs = {name: node.spec for name, node in state.tensors.items()}
    declared = {leaf.name for node in state.lost.values() for leaf in iter_leaves(node) if isinstance(leaf, SourceNode)}
    inverse_rules = inverse(exact_rules)
    _check_round_trip(specs, aliases, exact_rules, inverse_rules, declared)
    _check_round_trip(target_specs, state.aliases, inverse_rules, inverse(inverse_rules), set())
    return Proof(sum(math.prod(spec.shape) for spec in specs.values()), lost, rounded)


def _is_lossy_cast(node: Node) -> bool:
    return isinstance(node, CastNode) and node.lossy


def _check_round_trip(
    specs: Mapping[str, Spec],
    aliases: Mapping[str, str],
    rules: Sequence[Rule],
    inverse_rules: Sequence[Rule],
    declared_lost: set[str],
) -> None:
    """Refuse rules whose inverses do not bring every tensor back, but those that are declared lost."""
    forward = apply_rules(State.from_specs(specs, aliases), rules)
    target_specs = {name: node.spec for name, node in forward.tensors.items()}
    try:
        returned = apply_rules(State.from_specs(target_specs, forward.aliases), inverse_rules)
    except RuleError as error:
        raise RuleError(f"the rules do not lead back, so something is lost or mixed up. Going back, {error}") from None
    problems = _find_name_problems(specs, aliases, returned, declared_lost)
    problems += _find_place_problems(specs, forward, returned)
    if problems:
        raise RuleError(
            f"the rules are no bijection; going there and back:{truncated_list(problems)}\n"
            f"Make the patterns tell these names apart, or declare the loss with drop or lossy = true."
        )


def _find_name_problems(
    specs: Mapping[str, Spec], aliases: Mapping[str, str], returned: State, declared_lost: set[str]
) -> list[str]:
    """Differences between the sources and what came back, in names, shapes, dtypes and ties."""
    problems = [
        f"{name!r} does not come back" for name in specs if name not in returned.tensors and name not in declared_lost
    ]
    problems += [f"{name!r} comes back, and was not there" for name in returned.tensors if name not in specs]
    problems += [
        f"{name!r} was {spec} and comes back as {returned.tensors[name].spec}"
        for name, spec in specs.items()
        if name in returned.tensors and returned.tensors[name].spec != spec
    ]
    before, after = set(aliases.items()), set(returned.aliases.items())
    problems += [f"the tie {alias!r} to {owner!r} does not come back" for alias, owner in sorted(before - after)]
    problems += [
        f"the tie {alias!r} to {owner!r} comes back, and was not there" for alias, owner in sorted(after - before)
    ]
    return problems


def _find_place_problems(specs: Mapping[str, Spec], forward: State, returned: State) -> list[str]:
    """Tensors whose elements do not come back to their places, and claims of the way back that do not follow."""
    numbering = _ElementNumbering(specs)
    forward_maps = _IndexMapCache(lambda name: compute_index_map(forward.tensors[name], numbering.map_leaf))

    def map_target(node: Node) -> IndexMap | None:
        return forward_maps(node.name) if isinstance(node, SourceNode) else numbering.map_leaf(node)

    returned_maps = _IndexMapCache(lambda name: compute_index_map(returned.tensors[name], map_target))

    def map_returned(node: Node) -> IndexMap | None:
        return returned_maps(node.name) if isinstance(node, SourceNode) else numbering.map_leaf(node)

    claims_by_name: dict[str, list[int]] = {}
    for number, claim in enumerate(forward.claims):
        for leaf in iter_leaves(claim.node):
            if isinstance(leaf, SourceNode):
                claims_by_name.setdefault(leaf.name, []).append(number)

    def comes_back(name: str) -> bool:
        """Whether a tensor is at its place, or the claims say that what is there is equal to it."""
        if returned_maps(name).equals(numbering.map_source(name)):
            return True
        claims = [forward.claims[number] for number in claims_by_name.get(name, ())]
        return bool(claims) and all(
            compute_index_map(claim.node, map_returned).equals(compute_index_map(claim.equal, map_returned))
            for claim in claims
        )

    names = [name for name, spec in specs.items() if name in returned.tensors and returned.tensors[name].spec == spec]
    problems = [f"elements of {name!r} do not come back to their places" for name in names if not comes_back(name)]
    problems += [
        f"it does not follow that {claim.what}"
        for claim in returned.claims
        if not compute_index_map(claim.node, map_target).equals(compute_index_map(claim.equal, map_target))
    ]
    return problems


class _ElementNumbering:
    """A number for every element of every source and constant; equal constants have the same numbers."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self.specs = specs
        self.offsets: dict[object, int] = {}
        self.next_offset = 0
        for name, spec in specs.items():
            self._find_offset(("source", name), spec)

    def _find_offset(self, key: object, spec: Spec) -> int:
        if key not in self.offsets:
            self.offsets[key] = self.next_offset
            self.next_offset += math.prod(spec.shape)
        return self.offsets[key]

    def map_source(self, name: str) -> IndexMap:
        return identity_map(self.specs[name].shape, self.offsets["source", name])

    def map_leaf(self, node: Node) -> IndexMap | None:
        """The map of a source or constant; None for any other node."""
        if isinstance(node, SourceNode):
            return self.map_source(node.name)
        if isinstance(node, ConstantNode):
            return identity_map(node.shape, self._find_offset(("constant", node.spec, str(node.value)), node.spec))
        return None


class _IndexMapCache:
    """Computes index maps by name, and keeps as many as fit into memory."""

    def __init__(self, compute: Callable[[str], IndexMap]) -> None:
        self.compute = compute
        self.maps: dict[str, IndexMap] = {}
        self.blocks = 0

    def __call__(self, name: str) -> IndexMap:
        if name not in self.maps:
            index = self.compute(name)
            self.blocks += index.base.numel()
            if self.blocks > _CACHED_BLOCKS:
                self.maps.clear()
                self.blocks = index.base.numel()
            self.maps[name] = index
        return self.maps[name]
