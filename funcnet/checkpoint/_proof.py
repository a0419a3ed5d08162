"""Proves that rules lose nothing, by following positions, before any tensor is read.

The rules take the sources to targets, and their inverses take the targets back. What comes back must be the sources:
the same names, ties, shapes and dtypes, and every element at its place. Then the same is shown the other way round,
from the targets over the sources back to the targets. Both together show that every element of a source arrives exactly
once, and that every element of a target comes from exactly one place. Places are compared as index maps, which are
exact.

Where no rule makes a claim, sets anything aside or adds anything, the second direction follows from the first. Every
element of a source has come back from an element of a target, and no two from the same one. If there are as many
elements in the targets as in the sources, those are all of them, so each is taken from there to its own place.

A loss that a rule declares is followed too: what is dropped lies outside of the targets, from where the way back takes
it, and what a rule adds on its own comes from outside. So the proof covers every other element, and the places that
the lost ones had.

Rules may rest on claims (two tied tensors are equal; a dropped mask holds a mask). A claim on the way out is an
assumption, which is checked later on the bytes. A claim on the way back has to follow from the plan.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._index_maps import IndexMap, compute_index_map, identity_map
from funcnet.checkpoint._node_forms import FormTable
from funcnet.checkpoint._nodes import CastNode, ComputedNode, ConstantNode, Node, SourceNode, iter_leaves, iter_nodes
from funcnet.checkpoint.rules import Cast, Rule, State, inverse, to_plain
from funcnet.checkpoint.rules._rule import Outside, OutsideKey, apply_each, outside_name

METHOD = "index maps of every tensor, there and back in both directions"
_CACHED_BLOCKS = 1 << 24  # blocks of index maps that are cached at one time


@dataclass(frozen=True)
class Proof:
    """What was proved about a list of rules.

    Attributes:
        elements: number of elements of all sources.
        lost: names of tensors that a rule declares to drop for good.
        rounded: names of targets whose values may change, as a rule declares.
        computed: names of targets that are the result of arithmetic, as averages are.
    """

    elements: int
    lost: tuple[str, ...]
    rounded: tuple[str, ...]
    computed: tuple[str, ...] = ()

    @property
    def bijection(self) -> bool:
        """Whether nothing at all is lost."""
        return not self.lost and not self.rounded and not self.computed


def apply_rules(state: State, rules: Sequence[Rule]) -> State:
    """The state after all rules.

    Raises:
        RuleError: from the first rule that does not fit, with its number and text.
    """
    states = apply_each(state, rules)
    for number, rule in enumerate(rules, 1):
        try:
            state = next(states)
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


def prove(specs: Mapping[str, Spec], aliases: Mapping[str, str], rules: Sequence[Rule], state: State) -> Proof:
    """Prove that rules lose nothing, but what they declare, of tensors with these shapes and dtypes.

    Args:
        specs, aliases: shape and dtype by name, and the ties, of the sources.
        rules: the rules.
        state: the state after the rules.

    Raises:
        RuleError: if they lose more; lists the names at fault.
    """
    made = [(name, node) for name, node in state.tensors.items() if not isinstance(node, SourceNode)]
    rounded = tuple(name for name, node in made if any(map(_is_lossy_cast, iter_nodes(node))))
    computed = tuple(name for name, node in made if any(map(_is_computed, iter_nodes(node))))
    # A lossy cast moves nothing, and what it loses is declared: positions are proved without it.
    exact_rules = tuple(rule for rule in rules if not (isinstance(rule, Cast) and rule.lossy))
    inverse_rules = inverse(exact_rules)
    start = replace(State.from_specs(specs, aliases), outside=Outside())
    if exact_rules == tuple(rules) and not _is_anything_outside(state):
        forward = replace(state, outside=Outside())
    else:
        forward = apply_rules(start, exact_rules)
    middle, returned = _check_round_trip(start, forward, inverse_rules)
    elements = _count_elements(specs)
    is_there_and_back_enough = (
        not (forward.claims or returned.claims or _is_anything_outside(forward) or _is_anything_outside(returned))
        and elements == _count_elements({name: node.spec for name, node in middle.tensors.items()})
        and inverse(inverse_rules) == exact_rules
    )
    if not is_there_and_back_enough:
        _check_round_trip(middle, apply_rules(middle, inverse_rules), inverse(inverse_rules))
    return Proof(elements, tuple(state.lost), rounded, computed)


def _count_elements(specs: Mapping[str, Spec]) -> int:
    return sum(math.prod(spec.shape) for spec in specs.values())


def _is_anything_outside(state: State) -> bool:
    """Whether a rule has set something aside, or added what does not come from the sources."""
    return bool(state.lost) or state.has_additions or (state.outside is not None and bool(state.outside.nodes))


def _is_computed(node: Node) -> bool:
    return isinstance(node, ComputedNode)


def _is_lossy_cast(node: Node) -> bool:
    return isinstance(node, CastNode) and node.lossy


def _find_invented(state: State, specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Shape and dtype of the sources that rules have added on their own."""
    leaves = (leaf for node in _all_nodes(state).values() for leaf in iter_leaves(node))
    return {leaf.name: leaf.spec for leaf in leaves if isinstance(leaf, SourceNode) and leaf.name not in specs}


def _restart(state: State) -> State:
    """The state in which the tensors of another state are the sources."""
    assert state.outside is not None
    specs = {name: node.spec for name, node in state.tensors.items()}
    nodes: dict[OutsideKey, Node] = {
        key: SourceNode(node.spec, outside_name(key)) for key, node in state.outside.nodes.items()
    }
    outside = Outside(is_back=not state.outside.is_back, nodes=nodes)
    return replace(State.from_specs(specs, state.aliases), outside=outside)


def _all_nodes(state: State) -> dict[str, Node]:
    """All tensors of a state, and what lies outside of it, by name."""
    assert state.outside is not None
    return {**state.tensors, **{outside_name(key): node for key, node in state.outside.nodes.items()}}


def _check_round_trip(start: State, forward: State, inverse_rules: Sequence[Rule]) -> tuple[State, State]:
    """Refuse rules whose inverses do not bring every tensor back.

    Args:
        start: the state before the rules.
        forward: the state after them.
        inverse_rules: the rules that lead back.

    Returns:
        The state from which the way back starts, and the one where it ends.
    """
    middle = _restart(forward)
    try:
        returned = apply_rules(middle, inverse_rules)
    except RuleError as error:
        raise RuleError(f"the rules do not lead back, so something is lost or mixed up. Going back, {error}") from None
    specs = {name: node.spec for name, node in _all_nodes(start).items()}
    specs |= _find_invented(forward, specs)
    problems = _find_name_problems(specs, start.aliases, returned)
    problems += _find_place_problems(specs, forward, returned)
    if problems:
        raise RuleError(
            f"the rules are no bijection; going there and back:{truncated_list(problems)}\n"
            f"Make the patterns tell these names apart, or declare the loss with drop or lossy = true."
        )
    return middle, returned


def _find_name_problems(specs: Mapping[str, Spec], aliases: Mapping[str, str], returned: State) -> list[str]:
    """Differences between the sources and what came back, in names, shapes, dtypes and ties."""
    nodes = _all_nodes(returned)
    problems = [f"{name!r} does not come back" for name in specs if name not in nodes]
    problems += [f"{name!r} comes back, and was not there" for name in nodes if name not in specs]
    problems += [
        f"{name!r} was {spec} and comes back as {nodes[name].spec}"
        for name, spec in specs.items()
        if name in nodes and nodes[name].spec != spec
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
    forward_nodes, returned_nodes = _all_nodes(forward), _all_nodes(returned)
    forward_maps = _IndexMapCache(lambda name: compute_index_map(forward_nodes[name], numbering.map_leaf))

    def map_target(node: Node) -> IndexMap | None:
        return forward_maps(node.name) if isinstance(node, SourceNode) else numbering.map_leaf(node)

    returned_maps = _IndexMapCache(lambda name: compute_index_map(returned_nodes[name], map_target))

    def map_returned(node: Node) -> IndexMap | None:
        return returned_maps(node.name) if isinstance(node, SourceNode) else numbering.map_leaf(node)

    claims_by_name: dict[str, list[int]] = {}
    for number, claim in enumerate(forward.claims):
        for leaf in iter_leaves(claim.node):
            if isinstance(leaf, SourceNode):
                claims_by_name.setdefault(leaf.name, []).append(number)

    table = FormTable()
    forward_forms = functools.cache(lambda name: table.find_form(forward_nodes[name]))
    answers: dict[tuple[int, int], bool] = {}  # one for all tensors that are made in the same way, there and back

    def is_at_place(name: str) -> bool:
        """Whether a tensor is where it was."""
        if isinstance(node := returned_nodes[name], SourceNode):
            origin = forward_nodes.get(node.name)
            if isinstance(origin, SourceNode) and origin.name == name:
                return True  # it was given other names and nothing else
        outer = table.find_form(returned_nodes[name])
        form = table.compose(outer, [forward_forms(source) for source in outer.sources])
        key = form.number, form.sources.get(name, -1)
        if key not in answers:
            answers[key] = returned_maps(name).equals(numbering.map_source(name))
        return answers[key]

    def comes_back(name: str) -> bool:
        """Whether a tensor is at its place, or the claims say that what is there is equal to it."""
        if is_at_place(name):
            return True
        claims = [forward.claims[number] for number in claims_by_name.get(name, ())]
        return bool(claims) and all(
            compute_index_map(claim.node, map_returned).equals(compute_index_map(claim.equal, map_returned))
            for claim in claims
        )

    names = [name for name, spec in specs.items() if name in returned_nodes and returned_nodes[name].spec == spec]
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

    def _find_offset(self, key: object, spec: Spec) -> int:
        if key not in self.offsets:
            self.offsets[key] = self.next_offset
            self.next_offset += math.prod(spec.shape)
        return self.offsets[key]

    def map_source(self, name: str) -> IndexMap:
        spec = self.specs[name]
        return identity_map(spec.shape, self._find_offset(("source", name), spec))

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
