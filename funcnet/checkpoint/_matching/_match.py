"""Proposes rules between two layouts whose names differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._matching._assignment import Choice, choose_candidates
from funcnet.checkpoint._matching._families import Family, group_families
from funcnet.checkpoint._matching._layouts import Layout, read_layout
from funcnet.checkpoint._net_layout import NetLayout
from funcnet.checkpoint._proof import apply_rules
from funcnet.checkpoint.rules import Fill, Prefix, Rename, Rule, State, Tie, Untie, to_toml


@dataclass(frozen=True)
class Proposal:
    """Rules that belong together, and why they are proposed.

    Attributes:
        rules: the rules from the sources to the targets.
        certain: whether names or shapes leave no other choice. If not, a person has to look at it.
        why: the reason.
        sources, targets: names or patterns on both sides.
    """

    rules: tuple[Rule, ...]
    certain: bool
    why: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """The result of :func:`match`.

    Attributes:
        proposals: the proposals, in the order in which their rules apply.
        same: how many tensors already have their name and shape.
        left: names in the source that no target tensor is made from.
        missing: names in the target for which the source has no tensor.
    """

    proposals: tuple[Proposal, ...]
    same: int
    left: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def certain(self) -> bool:
        """Whether nothing is left, missing or guessed."""
        return not self.left and not self.missing and all(proposal.certain for proposal in self.proposals)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, if none is a guess.

        Raises:
            RuleError: lists the guesses.
        """
        guesses = [
            f"{', '.join(proposal.sources)} -> {', '.join(proposal.targets)}: {proposal.why}"
            for proposal in self.proposals
            if not proposal.certain
        ]
        if guesses:
            raise RuleError(
                f"these are guesses, and no guess is applied by itself:{truncated_list(guesses)}\n"
                f"Write to_toml() to a file, look at each, and load the file."
            )
        return tuple(rule for proposal in self.proposals for rule in proposal.rules)

    def to_toml(self) -> str:
        """The rules for a person to edit. A guess has a line ``guess = true``, and is refused until it is taken out."""
        rules: list[Rule] = []
        comments: dict[int, str] = {}
        guesses: set[int] = set()
        for proposal in self.proposals:
            comments[len(rules)] = f"{'certain' if proposal.certain else 'A GUESS'}: {proposal.why}"
            if not proposal.certain:
                guesses |= set(range(len(rules), len(rules) + len(proposal.rules)))
            rules += proposal.rules
        head = [f"# left over, with no place in the target: {name}" for name in self.left]
        head += [f"# missing, with nothing in the source that fits: {name}" for name in self.missing]
        text = to_toml(rules, comments, guesses)
        return "\n".join([*head, ""] * bool(head)) + ("\n" if head else "") + text

    def __str__(self) -> str:
        rows = [
            (
                "certain" if proposal.certain else "GUESS",
                ", ".join(proposal.sources),
                ", ".join(proposal.targets),
                proposal.why,
            )
            for proposal in self.proposals
        ]
        rows += [("LEFT", name, "", "no place in the target") for name in self.left]
        rows += [("MISSING", "", name, "nothing in the source fits") for name in self.missing]
        widths = [max([0, *(len(row[column]) for row in rows)]) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows]
        return "\n".join([*lines, f"{self.same} tensors have their name and shape already"])


def match(
    source: Checkpoint | NetLayout | nn.Module | str | os.PathLike[str] | Mapping[str, object],
    target: Checkpoint | NetLayout | nn.Module | str | os.PathLike[str] | Mapping[str, object],
) -> Match:
    """Propose rules that lead from a checkpoint to the layout of another, or of a net.

    Tensors that already have their name and shape need no rule. For the others it looks at a prefix that all names
    have, at shapes (also those of transposed, fused, split, stacked or unstacked tensors), at words in names and at the
    order. A proposal is certain where nothing else is possible. Everything else is marked as a guess, and a guess is
    never applied by itself.

    Args:
        source: a checkpoint, its path, or shapes by name.
        target: a net, a module, a checkpoint, its path, or shapes by name.

    Raises:
        TypeError: if one of them has any other type.

    >>> proposed = match({"module.a.weight": (3, 2), "module.b": (3,)}, {"a.weight": (3, 2), "c": (3,)})
    >>> print(proposed)
    certain  module.{name**}  {name**}  all names have it
    certain  b                c         the only ones of their shape
    1 tensors have their name and shape already
    >>> proposed.rules
    (Prefix(add='', remove='module.', optional=False), Rename(source='b', target='c', optional=False))
    """
    source_layout, target_layout = read_layout(source), read_layout(target)
    proposed = _propose_rules(source_layout, target_layout, groups_numbers=True)
    if _gives_target(proposed, source_layout, target_layout):
        return proposed
    # The pattern of one rule may match a tensor that another rule made, or one that already has its name.
    return _propose_rules(source_layout, target_layout, groups_numbers=False)


def _propose_rules(source: Layout, target: Layout, groups_numbers: bool) -> Match:
    proposals: list[Proposal] = []
    prefix = _find_prefix(source, target)
    if prefix is not None:
        proposals.append(_prefix_proposal(prefix))
        source = source.with_prefix(prefix)
    proposals += [_untie_proposal(alias, owner) for alias, owner in source.ties.items() if alias not in target.ties]
    unchanged = {name for name, shape in source.shapes.items() if target.shapes.get(name) == shape}
    families = (
        group_families({name: shape for name, shape in layout.shapes.items() if name not in unchanged}, groups_numbers)
        for layout in (source, target)
    )
    detours, choices = _avoid_collisions(choose_candidates(*families))
    proposals += detours
    proposals += [_choice_proposal(choice) for choice in choices]
    used = unchanged | {name for choice in choices for family in choice.candidate.sources for name in family.names}
    covered_targets = unchanged | {
        name for choice in choices for family in choice.candidate.targets for name in family.names
    }
    left = [name for name in source.shapes if name not in used]
    missing = [name for name in target.shapes if name not in covered_targets]
    for alias, owner in target.ties.items():
        if alias not in source.ties and owner not in missing:
            proposals.append(_tie_proposal(alias, owner, stored=alias in left))
            left = [name for name in left if name != alias]
    # BatchNorm's counts of batches, which other frameworks do not keep
    counters = [name for name in missing if name.endswith("num_batches_tracked") and target.shapes[name] == ()]
    proposals += [Proposal((Fill(name, 0, (), "int64"),), False, "filled with 0", (), (name,)) for name in counters]
    missing = [name for name in missing if name not in counters]
    return Match(tuple(proposals), len(unchanged), tuple(left), tuple(missing))


def _gives_target(proposed: Match, source: Layout, target: Layout) -> bool:
    """Whether the rules give every tensor of the target that is not missing."""
    specs = {name: Spec(shape, torch.float32) for name, shape in source.shapes.items()}
    rules = [rule for proposal in proposed.proposals for rule in proposal.rules]
    try:
        tensors = apply_rules(State.from_specs(specs, source.ties), rules).tensors
    except RuleError:
        return False
    missing = set(proposed.missing)
    return all(
        name in missing or (name in tensors and tensors[name].shape == shape) for name, shape in target.shapes.items()
    )


def _find_prefix(source: Layout, target: Layout) -> Prefix | None:
    """The prefix to remove or to add that makes half of the source or more fit the target; None if there is none."""

    def count_fitting(prefix: Prefix) -> int:
        return sum(target.shapes.get(name) == shape for name, shape in source.with_prefix(prefix).shapes.items())

    removable = [
        start for start in _prefixes_of_first_name(source) if all(name.startswith(start) for name in source.shapes)
    ]
    options = [Prefix(remove=start) for start in removable]
    options += [Prefix(add=start) for start in _prefixes_of_first_name(target)]
    best = max(options, key=count_fitting, default=None)
    if best is None or count_fitting(best) <= max(count_fitting(Prefix()), (len(source.shapes) - 1) // 2):
        return None
    return best


def _prefixes_of_first_name(layout: Layout) -> list[str]:
    """The prefixes of the first name, each with the separator that ends it."""
    first = next(iter(layout.shapes), "")
    return [first[: end + 1] for end, sign in enumerate(first) if sign in "./"]


def _prefix_proposal(prefix: Prefix) -> Proposal:
    why = "all names have it" if prefix.remove else "all names lack it"
    return Proposal((prefix,), True, why, (f"{prefix.remove}{{name**}}",), (f"{prefix.add}{{name**}}",))


def _tie_proposal(alias: str, owner: str, stored: bool) -> Proposal:
    why = "tied in the target, stored twice in the source" if stored else "tied in the target"
    return Proposal((Tie(alias, owner, stored),), True, why, (owner,), (alias,))


def _untie_proposal(alias: str, owner: str) -> Proposal:
    return Proposal((Untie(alias, owner, stored=False),), True, "a tie the target does not have", (alias,), (owner,))


def _choice_proposal(choice: Choice) -> Proposal:
    candidate = choice.candidate
    sources, targets = _family_patterns(candidate.sources), _family_patterns(candidate.targets)
    same_name = all(source == target for source, target in zip(sources, targets, strict=False))
    guess = "by its name" if same_name else f"{candidate.describe_change()}, by names, shapes and order"
    return Proposal(tuple(candidate.make_rules()), bool(choice.reason), choice.reason or guess, sources, targets)


def _family_patterns(families: Sequence[Family]) -> tuple[str, ...]:
    return tuple(family.pattern for family in families)


def _avoid_collisions(choices: Sequence[Choice]) -> tuple[list[Proposal], list[Choice]]:
    """First give temporary names to sources whose names other tensors will take; rules are applied in order.

    Returns:
        The proposals that rename them, and the choices with the new names.
    """
    target_of = {name: candidate for candidate, _ in choices for family in candidate.targets for name in family.names}
    proposals: list[Proposal] = []
    renamed: list[Choice] = []
    for candidate, reason in choices:
        sources = []
        for family in candidate.sources:
            if any(target_of.get(name, candidate) is not candidate for name in family.names):
                pattern = f"source.{family.pattern}"
                rename = Rename(family.pattern, pattern)
                proposals.append(Proposal((rename,), True, "out of the way", (family.pattern,), (pattern,)))
                family = replace(family, pattern=pattern)
            sources.append(family)
        renamed.append(Choice(replace(candidate, sources=tuple(sources)), reason))
    return proposals, renamed
