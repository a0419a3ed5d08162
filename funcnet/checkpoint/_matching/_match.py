"""Proposes rules between two layouts whose names differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._matching._assignment import assign_units
from funcnet.checkpoint._matching._layouts import Layout, read_layout
from funcnet.checkpoint._matching._links import Link, have_one_path, make_links, settle_doubts
from funcnet.checkpoint._matching._networks import PrefixChoice, find_copies, find_prefix
from funcnet.checkpoint._matching._rule_writing import LinkGroup, group_links, make_rules, move_away
from funcnet.checkpoint._matching._stacks import Stacks, unstack_layout
from funcnet.checkpoint._matching._units import fuse_units, make_units
from funcnet.checkpoint._net_layout import NetLayout
from funcnet.checkpoint._plan import plan
from funcnet.checkpoint.rules import Fill, Prefix, Rule, Tie, Untie, to_toml


@dataclass(frozen=True)
class Proposal:
    """Rules that belong together, and why they are proposed.

    Attributes:
        rules: the rules from the sources to the targets.
        certain: whether names or shapes leave no other choice. If not, a person has to look at it.
        why: the reason.
        sources, targets: names or patterns on both sides.

    >>> from funcnet import checkpoint
    >>> found = checkpoint.match({"w": torch.ones(2, 3)}, {"weight": torch.ones(2, 3)})
    >>> found.proposals[0].sources, found.proposals[0].targets
    (('w',), ('weight',))
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

    >>> from funcnet import checkpoint
    >>> found = checkpoint.match({"w": torch.ones(2, 3)}, {"weight": torch.ones(2, 3)})
    >>> found.proposals[0].rules
    (Rename(source='w', target='weight', optional=False),)
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

    Tensors that already have their name and shape need no rule. If the file holds several networks, the one whose names
    or shapes cover the target is taken. Then tensors of one module move together: by what their names say, by shapes
    (also of transposed, fused, split, stacked or unstacked tensors), and by what their neighbours become.

    A proposal is certain where nothing else is possible: the path is the same, or the shape occurs once. It is not
    where shapes or names leave something open, as square matrices in a layout that has them transposed, the order of
    gates or of fused parts, rotary layouts, or a second network that would do. Everything that is not certain is marked
    as a guess, and a guess is never applied by itself.

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
    prefix = find_prefix(source_layout, target_layout)
    if prefix is not None:
        source_layout = source_layout.with_prefix(prefix.prefix)
    pairing = _pair_tensors(source_layout, target_layout)
    proposed = _write_proposals(pairing, prefix, groups_numbers=True)
    if _gives_target(proposed, pairing):
        return proposed
    # The pattern of one rule may match a tensor that another rule made, or one that already has its name.
    return _write_proposals(pairing, prefix, groups_numbers=False)


@dataclass(frozen=True)
class _Pairing:
    """Both layouts, with layers by themselves, and the links between them."""

    source: Layout
    target: Layout
    stacks: tuple[Stacks, Stacks]
    links: tuple[Link, ...]


def _pair_tensors(source: Layout, target: Layout) -> _Pairing:
    stacks = unstack_layout(source.shapes, target.shapes), unstack_layout(target.shapes, source.shapes)
    copies = find_copies(source, target)
    shapes = {
        name: shape
        for name, shape in stacks[0].shapes.items()
        if copies is None or not any(name.startswith(prefix) for prefix in copies[1])
    }
    units, other_units = make_units(shapes), make_units(stacks[1].shapes)
    units, other_units = fuse_units(units, other_units), fuse_units(other_units, units)
    links = make_links(assign_units(units, other_units))
    unit_of_name = {
        name: unit for unit in (*units, *other_units) for leaf in unit.leaves.values() for name in leaf.names
    }
    links = settle_doubts(links, shapes, stacks[1].shapes, unit_of_name)
    if copies is not None:
        doubt = f"{' and '.join(copies[1])} has the same tensors as {copies[0]}"
        links = [replace(link, doubt=f"{link.doubt}; {doubt}" if link.doubt else doubt) for link in links]
    return _Pairing(source, target, stacks, tuple(links))


def _write_proposals(pairing: _Pairing, prefix: PrefixChoice | None, groups_numbers: bool) -> Match:
    source, target, (sources, targets) = pairing.source, pairing.target, pairing.stacks
    proposals = [_prefix_proposal(prefix)] if prefix is not None else []
    proposals += [_untie_proposal(alias, owner) for alias, owner in source.ties.items() if alias not in target.ties]
    # A layer that goes into a stack, or comes out of one, may have its name by itself and yet needs a rule.
    layers = {*sources.stacked_of, *targets.stacked_of}
    changed = [
        link
        for link in pairing.links
        if link.doubt or not link.is_unchanged or not layers.isdisjoint((*link.sources, *link.targets))
    ]
    groups = group_links(changed, sources.shapes, groups_numbers)
    renames, moved = move_away(groups)
    proposals += [Proposal((rule,), True, "out of the way", (rule.source,), (rule.target,)) for rule in renames]
    proposals += [_group_proposal(group, sources, targets) for group in moved]
    used = {sources.stacked_of.get(name, name) for link in pairing.links for name in link.sources}
    made = {targets.stacked_of.get(name, name) for link in pairing.links for name in link.targets}
    left = [name for name in source.shapes if name not in used]
    missing = [name for name in target.shapes if name not in made]
    for alias, owner in target.ties.items():
        if alias not in source.ties and owner not in missing:
            proposals.append(_tie_proposal(alias, owner, stored=alias in left))
            left = [name for name in left if name != alias]
    # BatchNorm's counts of batches, which other frameworks do not keep
    counters = [name for name in missing if name.endswith("num_batches_tracked") and target.shapes[name] == ()]
    proposals += [Proposal((Fill(name, 0, (), "int64"),), False, "filled with 0", (), (name,)) for name in counters]
    missing = [name for name in missing if name not in set(counters)]
    return Match(tuple(proposals), len(pairing.links) - len(changed), tuple(left), tuple(missing))


def _gives_target(proposed: Match, pairing: _Pairing) -> bool:
    """Whether the rules can be proved, and give every tensor of the target that is not missing."""
    specs = {name: Spec(shape, torch.float32) for name, shape in pairing.source.shapes.items()}
    rules = [
        rule for proposal in proposed.proposals for rule in proposal.rules if not isinstance(rule, Prefix)
    ]  # the names of the source are those after it
    try:
        target_specs = plan(specs, rules, pairing.source.ties).specs
    except RuleError:
        return False
    missing = set(proposed.missing)
    return all(
        name in missing or (name in target_specs and target_specs[name].shape == shape)
        for name, shape in pairing.target.shapes.items()
    )


def _prefix_proposal(choice: PrefixChoice) -> Proposal:
    prefix = choice.prefix
    why = "all names lack it" if not prefix.remove else "all names have it"
    if choice.rivals:
        why = f"{', '.join(choice.rivals)} would do as well"
    elif prefix.remove and not choice.is_of_all:
        why = "the only part that has the names and shapes of the target"
    return Proposal((prefix,), not choice.rivals, why, (f"{prefix.remove}{{name**}}",), (f"{prefix.add}{{name**}}",))


def _tie_proposal(alias: str, owner: str, stored: bool) -> Proposal:
    why = "tied in the target, stored twice in the source" if stored else "tied in the target"
    return Proposal((Tie(alias, owner, stored),), True, why, (owner,), (alias,))


def _untie_proposal(alias: str, owner: str) -> Proposal:
    return Proposal((Untie(alias, owner, stored=False),), True, "a tie the target does not have", (alias,), (owner,))


def _group_proposal(group: LinkGroup, sources: Stacks, targets: Stacks) -> Proposal:
    reason = group.first.doubt or "the only ones of their shape"
    if not group.first.doubt and have_one_path(group.first):
        reason = "the same path"
    return Proposal(
        tuple(make_rules(group, sources, targets)), not group.first.doubt, reason, group.sources, group.targets
    )
