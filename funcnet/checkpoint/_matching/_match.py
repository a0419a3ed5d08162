"""Rules proposed for two layouts whose names differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._load import load
from funcnet.checkpoint._matching._assign import assigned
from funcnet.checkpoint._matching._families import Family, families
from funcnet.checkpoint._matching._links import Link
from funcnet.checkpoint._net_layout import NetLayout, state_dict_shapes
from funcnet.checkpoint._proof import apply_rules
from funcnet.checkpoint.rules import Fill, Prefix, Rename, Rule, State, Tie, Untie, to_toml


@dataclass(frozen=True)
class Proposal:
    """Some rules, and why they are proposed.

    Attributes:
        rules: what leads from the sources to the targets.
        certain: whether names or shapes leave no other choice. If not, a person has to look.
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
    """What :func:`match` has found.

    Attributes:
        proposals: in the order in which their rules apply.
        same: how many tensors have their name and shape already.
        left: names in the source for which there is no place.
        missing: names in the target for which there is no tensor.
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
        """The rules for a person to edit: guesses have a line ``guess = true``, without which alone they are loaded."""
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
            ("certain" if one.certain else "GUESS", ", ".join(one.sources), ", ".join(one.targets), one.why)
            for one in self.proposals
        ]
        rows += [("LEFT", name, "", "no place in the target") for name in self.left]
        rows += [("MISSING", "", name, "nothing in the source fits") for name in self.missing]
        widths = [max([0, *(len(row[column]) for row in rows)]) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows]
        return "\n".join([*lines, f"{self.same} tensors have their name and shape already"])


def match(source: Any, target: Any) -> Match:
    """Propose rules that lead from a checkpoint to the layout of another, or of a net.

    Tensors with their name and shape need no rule. For others it looks at a prefix that all names have, at shapes
    (also of what would be turned, fused, split, stacked or unstacked), at words in names and at the order. What
    leaves no choice is certain, everything else is marked as a guess, and a guess is never applied by itself.

    Args:
        source: a checkpoint, its path, or shapes by name.
        target: a net, a module, a checkpoint, its path, or shapes by name.

    Raises:
        TypeError: if one of them is none of these.

    >>> found = match({"module.a.weight": (3, 2), "module.b": (3,)}, {"a.weight": (3, 2), "c": (3,)})
    >>> print(found)
    certain  module.{name**}  {name**}  all names have it
    certain  b                c         the only ones of their shape
    1 tensors have their name and shape already
    >>> found.rules
    (Prefix(add='', remove='module.', optional=False), Rename(source='b', target='c', optional=False))
    """
    before, after = _shapes(source), _shapes(target)
    found = _matched(*before, *after, numbered=True)
    # a pattern of one rule may mean what another has made, or what has its name already
    return found if _leads(found, *before, after[0]) else _matched(*before, *after, numbered=False)


def _matched(
    before: dict[str, Shape], ties: dict[str, str], after: dict[str, Shape], wanted: dict[str, str], numbered: bool
) -> Match:
    proposals = list(_prefix(before, {**after, **dict.fromkeys(wanted)}))
    for proposal in proposals:
        rule: Any = proposal.rules[0]
        before = {_moved(name, rule): shape for name, shape in before.items()}
        ties = {_moved(alias, rule): _moved(owner, rule) for alias, owner in ties.items()}
    proposals += [_forget(alias, owner) for alias, owner in ties.items() if alias not in wanted]
    same = [name for name, shape in before.items() if after.get(name, ...) == shape]
    kept = set(same)
    others = ({name: shape for name, shape in side.items() if name not in kept} for side in (before, after))
    pairs = assigned(*(families(side, numbered) for side in others))
    moved, pairs = _out_of_the_way(pairs)
    proposals += moved
    for link, why in pairs:
        plain = all(one.pattern == two.pattern for one, two in zip(link.sources, link.targets, strict=False))
        reason = why or ("by its name" if plain else f"{link.how()}, by names, shapes and order")
        proposals.append(
            Proposal(tuple(link.rules()), bool(why), reason, _patterns(link.sources), _patterns(link.targets))
        )
    used = {name for link, _ in pairs for family in link.sources for name in family.names}
    made = {name for link, _ in pairs for family in link.targets for name in family.names}
    left = [name for name in before if name not in kept and name not in used]
    missing = [name for name in after if name not in kept and name not in made]
    for alias, owner in wanted.items():
        if alias not in ties and owner not in missing:
            proposals.append(_tie(alias, owner, stored=alias in left))
            left = [name for name in left if name != alias]
    counters, missing = _counters(missing, after)
    return Match((*proposals, *counters), len(same), tuple(left), tuple(missing))


def _leads(found: Match, before: Mapping[str, Shape], ties: Mapping[str, str], after: Mapping[str, Shape]) -> bool:
    """Whether the rules give every tensor of the target that is not missing."""
    specs = {name: Spec(shape, torch.float32) for name, shape in before.items()}
    try:
        made = apply_rules(
            State.from_specs(specs, ties), [rule for one in found.proposals for rule in one.rules]
        ).tensors
    except RuleError:
        return False
    missing = set(found.missing)
    return all(name in missing or (name in made and made[name].shape == shape) for name, shape in after.items())


def _shapes(given: Any) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes by name, and ties."""
    if isinstance(given, (str, os.PathLike)):
        given = load(given)
    if isinstance(given, Checkpoint):
        return {name: spec.shape for name, spec in given.specs.items()}, dict(given.aliases)
    if isinstance(given, nn.Module):
        return _of_state(given.state_dict(keep_vars=True))
    if isinstance(given, NetLayout):
        return state_dict_shapes(given), dict(given.aliases)
    if isinstance(given, Mapping):
        shapes: dict[str, Any] = {name: getattr(shape, "shape", shape) for name, shape in given.items()}
        return {name: tuple(shape) for name, shape in shapes.items()}, {}
    raise TypeError(f"match takes checkpoints, paths, nets, modules and shapes by name, not {type(given).__name__}.")


def _of_state(state: Mapping[str, Any]) -> tuple[dict[str, Shape], dict[str, str]]:
    first: dict[int, str] = {}
    shapes: dict[str, Shape] = {}
    ties: dict[str, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            shapes[name] = tuple(tensor.shape)
    return shapes, ties


def _prefix(before: Mapping[str, Shape], after: Mapping[str, Any]) -> list[Proposal]:
    """One prefix off or on that gives half of the names or more what they should be."""

    def fitting(rule: Prefix) -> int:
        return sum(after.get(_moved(name, rule), ...) == shape for name, shape in before.items())

    starts = {name[: dot + 1] for name in [*before][:1] for dot, sign in enumerate(name) if sign in "./"}
    ends = {name[: dot + 1] for name in [*after][:1] for dot, sign in enumerate(name) if sign in "./"}
    offers = [Prefix(remove=start) for start in starts if all(name.startswith(start) for name in before)]
    offers += [Prefix(add=end) for end in ends]
    best = max(offers, key=fitting, default=None)
    if best is None or fitting(best) <= max(fitting(Prefix()), (len(before) - 1) // 2):
        return []
    ways = (f"{best.remove}{{name**}}", f"{best.add}{{name**}}")
    why = "all names have it" if best.remove else "all names lack it"
    return [Proposal((best,), True, why, ways[:1], ways[1:])]


def _moved(name: str, rule: Prefix) -> str:
    return rule.add + name.removeprefix(rule.remove)


def _patterns(given: Sequence[Family]) -> tuple[str, ...]:
    return tuple(family.pattern for family in given)


def _tie(alias: str, owner: str, stored: bool) -> Proposal:
    why = "tied in the target, stored twice in the source" if stored else "tied in the target"
    return Proposal((Tie(alias, owner, stored),), True, why, (owner,), (alias,))


def _forget(alias: str, owner: str) -> Proposal:
    return Proposal((Untie(alias, owner, stored=False),), True, "a tie the target does not have", (alias,), (owner,))


def _counters(missing: Sequence[str], after: Mapping[str, Shape]) -> tuple[list[Proposal], list[str]]:
    """BatchNorm's counts of batches, which other frameworks do not keep, as zeros."""
    counts = [name for name in missing if name.endswith("num_batches_tracked") and after[name] == ()]
    made = [Proposal((Fill(name, 0, (), "int64"),), False, "filled with 0", (), (name,)) for name in counts]
    return made, [name for name in missing if name not in counts]


def _out_of_the_way(taken: Sequence[tuple[Link, str]]) -> tuple[list[Proposal], list[tuple[Link, str]]]:
    """Give families whose names other tensors will have names of their own first, so that rules can follow in a row."""
    made = {name: link for link, _ in taken for family in link.targets for name in family.names}
    moved: list[Proposal] = []
    links: list[tuple[Link, str]] = []
    for link, why in taken:
        sources = []
        for family in link.sources:
            if any(made.get(name, link) is not link for name in family.names):
                aside = f"source.{family.pattern}"
                moved.append(
                    Proposal((Rename(family.pattern, aside),), True, "out of the way", (family.pattern,), (aside,))
                )
                family = replace(family, pattern=aside)
            sources.append(family)
        links.append((replace(link, sources=tuple(sources)), why))
    return moved, links
