"""Rules for tensors that several ranks hold: the shards of one tensor, and copies of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node, cat_nodes, narrow_node
from funcnet.checkpoint.rules._joins import find_number_hole
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import Claim, Replacement, Rule, State, match_names, replace_tensors
from funcnet.checkpoint.rules._shapes import normalize_dim


@dataclass(frozen=True)
class Shard(Rule):
    """Split each tensor into equal parts along one axis, which get a number in their names.

    Args:
        source: pattern of the tensors, as ``"layers.{i}.wq.weight"``.
        target: pattern of the parts, with one hole more for the number, as ``"{rank}.layers.{i}.wq.weight"``.
        count: the number of parts.
        dim: the axis.
        optional: whether it is allowed that no tensor matches.

    >>> Shard("wq.weight", "{rank}.wq.weight", 8).inverse()
    Unshard(source='{rank}.wq.weight', target='wq.weight', count=8, dim=0, optional=False)
    """

    source: str
    target: str
    count: int
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.target, self.source)
        _check_count(self.count)

    def apply(self, state: State) -> State:
        def split(node: Node) -> list[Node]:
            dim = normalize_dim(node.shape, self.dim)
            size, rest = divmod(node.shape[dim], self.count)
            if rest:
                raise ValueError(f"has the shape {list(node.shape)}, and {self.count} parts of axis {dim} differ")
            return [narrow_node(node, dim, number * size, size) for number in range(self.count)]

        return _separate(state, self, self.source, self.target, split)

    def inverse(self) -> Unshard:
        return Unshard(self.target, self.source, self.count, self.dim, self.optional)


@dataclass(frozen=True)
class Unshard(Rule):
    """Join the parts of each tensor, which have a number in their names, along one axis; inverse of :class:`Shard`.

    The parts are of one size and their numbers run from 0, as those of the files of tensor parallelism do. Where a part
    holds queries, keys and values of its rank, a :class:`Split` with ``groups`` follows.

    >>> Unshard("{rank}.wq.weight", "wq.weight", 8).inverse()
    Shard(source='wq.weight', target='{rank}.wq.weight', count=8, dim=0, optional=False)
    """

    source: str
    target: str
    count: int
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.source, self.target)
        _check_count(self.count)

    def apply(self, state: State) -> State:
        replacements: list[Replacement] = []
        for name, parts in _iter_complete_sets(state, self, self.source, self.target, self.count):
            try:
                node = cat_nodes([*parts.values()], normalize_dim(next(iter(parts.values())).shape, self.dim))
            except ValueError as error:
                raise RuleError(f"the parts of {name!r} cannot be joined: {next(iter(parts))!r} {error}.") from None
            replacements.append(Replacement(tuple(parts), {name: node}))
        return replace_tensors(state, replacements)

    def inverse(self) -> Shard:
        return Shard(self.target, self.source, self.count, self.dim, self.optional)


@dataclass(frozen=True)
class Replicate(Rule):
    """Store each tensor several times, under names with a number; inverse of :class:`Unreplicate`.

    Args:
        source: pattern of the tensors, as ``"norm.weight"``.
        target: pattern of the copies, with one hole more for the number, as ``"{rank}.norm.weight"``.
        count: the number of copies.
        optional: whether it is allowed that no tensor matches.

    >>> Replicate("norm.weight", "{rank}.norm.weight", 2).inverse()
    Unreplicate(source='{rank}.norm.weight', target='norm.weight', count=2, optional=False)
    """

    source: str
    target: str
    count: int
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.target, self.source)
        _check_count(self.count)

    def apply(self, state: State) -> State:
        return _separate(state, self, self.source, self.target, lambda node: [node] * self.count)

    def inverse(self) -> Unreplicate:
        return Unreplicate(self.target, self.source, self.count, self.optional)


@dataclass(frozen=True)
class Unreplicate(Rule):
    """Store once what several ranks hold alike. That all copies have the same bytes is checked.

    >>> Unreplicate("{rank}.norm.weight", "norm.weight", 8).inverse()
    Replicate(source='norm.weight', target='{rank}.norm.weight', count=8, optional=False)
    """

    source: str
    target: str
    count: int
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.source, self.target)
        _check_count(self.count)

    def apply(self, state: State) -> State:
        replacements: list[Replacement] = []
        claims: list[Claim] = []
        for name, copies in _iter_complete_sets(state, self, self.source, self.target, self.count):
            (first_name, first), *others = copies.items()
            claims += [Claim(f"{other!r} is a copy of {first_name!r}", node, first) for other, node in others]
            replacements.append(Replacement(tuple(copies), {name: first}))
        state = replace_tensors(state, replacements)
        return replace(state, claims=(*state.claims, *claims))

    def inverse(self) -> Replicate:
        return Replicate(self.target, self.source, self.count, self.optional)


def _check_count(count: int) -> None:
    if count < 1:
        raise RuleError(f"{count} is no number of parts.")


def _separate(state: State, rule: Rule, source: str, target: str, divide: Callable[[Node], list[Node]]) -> State:
    """The state with several numbered tensors in place of each that matches."""
    target_pattern, number_hole = Pattern(target), find_number_hole(target, source)
    matches = match_names(state, Pattern(source))
    if not matches:
        return rule.unchanged_if_optional(state, source)
    replacements: list[Replacement] = []
    problems: list[str] = []
    for name, holes in matches.items():
        try:
            nodes = divide(state.tensors[name])
        except ValueError as error:
            problems.append(f"{name!r}: {error}")
            continue
        names = [target_pattern.format({**holes, number_hole: str(number)}) for number in range(len(nodes))]
        replacements.append(Replacement((name,), dict(zip(names, nodes, strict=True))))
    if problems:
        raise RuleError(f"these tensors do not fit:{truncated_list(problems)}")
    return replace_tensors(state, replacements)


def _iter_complete_sets(
    state: State, rule: Rule, source: str, target: str, count: int
) -> Iterator[tuple[str, dict[str, Node]]]:
    """For each new name the numbered tensors it is made of, by name and in order.

    Raises:
        RuleError: lists the sets that are not complete, or whose tensors differ in shape or dtype.
    """
    target_pattern, number_hole = Pattern(target), find_number_hole(source, target)
    names_by_target: dict[str, dict[str, str]] = {}
    for name, holes in match_names(state, Pattern(source)).items():
        names_by_target.setdefault(target_pattern.format(holes), {})[holes[number_hole]] = name
    if not names_by_target:
        rule.unchanged_if_optional(state, source)
    problems = [
        problem
        for target_name, names in names_by_target.items()
        if (problem := _describe_misfit(state, target_name, names, count))
    ]
    if problems:
        raise RuleError(f"these tensors do not belong together:{truncated_list(problems)}")
    for target_name, names in names_by_target.items():
        yield target_name, {names[str(number)]: state.tensors[names[str(number)]] for number in range(count)}


def _describe_misfit(state: State, target_name: str, name_by_number: Mapping[str, str], count: int) -> str | None:
    if set(name_by_number) != {str(number) for number in range(count)}:
        numbers = ", ".join(sorted(name_by_number)[:12])
        return f"{target_name!r}: there are the numbers {numbers}, expected 0 to {count - 1}"
    specs = dict.fromkeys(state.tensors[name].spec for name in name_by_number.values())
    if len(specs) > 1:
        kinds = ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in specs)
        return f"{target_name!r}: its parts are not alike: {kinds}"
    return None
