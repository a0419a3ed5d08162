"""Rules about names: rename, prefix, tie and untie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint.rules._patterns import Pattern, same_holes
from funcnet.checkpoint.rules._rule import Claim, Rule, State


@dataclass(frozen=True)
class Rename(Rule):
    """Give names of one form another form.

    Args:
        source: pattern of the names there are, as ``"h.{i}.attn.{rest**}"``.
        target: pattern of the new names, with the same holes.
        optional: whether there may be no such name.

    >>> Rename("h.{i}.w", "layers.{i}.weight").inverse()
    Rename(source='layers.{i}.weight', target='h.{i}.w', optional=False)
    """

    source: str
    target: str
    optional: bool = False

    def __post_init__(self) -> None:
        same_holes(Pattern(self.source), Pattern(self.target))

    def apply(self, state: State) -> State:
        source, target = Pattern(self.source), Pattern(self.target)
        unclear: list[str] = []

        def new_name(name: str) -> str:
            holes = source.match(name)
            if holes is None:
                return name
            new = target.format(holes)
            if target.match(new) != holes:
                unclear.append(f"{name!r} -> {new!r}")
            return new

        if not any(source.match(name) is not None for name in state.names):
            return self.nothing(state, self.source)
        renamed = _renamed(state, new_name)
        if unclear:
            unlike = [f"{{{hole}**}}" for hole in source.holes if source.many(hole) and not target.many(hole)]
            hint = f"\n  A hole stands for one key: write {', '.join(unlike)} on both sides." if unlike else ""
            lines = truncated_list(list(dict.fromkeys(unclear)))
            raise RuleError(f"{self.target!r} does not tell how to come back from these names:{lines}{hint}")
        return renamed

    def inverse(self) -> Rename:
        return Rename(self.target, self.source, self.optional)


@dataclass(frozen=True)
class Prefix(Rule):
    """Take ``remove`` off the start of names and put ``add`` there.

    Args:
        add: new start.
        remove: start of the names that are meant; the empty one means all.
        optional: whether there may be no such name.

    >>> Prefix(remove="module.").inverse()
    Prefix(add='module.', remove='', optional=False)
    """

    add: str = ""
    remove: str = ""
    optional: bool = False

    def apply(self, state: State) -> State:
        if not any(name.startswith(self.remove) for name in state.names):
            return self.nothing(state, self.remove)
        length = len(self.remove)
        return _renamed(state, lambda name: self.add + name[length:] if name.startswith(self.remove) else name)

    def inverse(self) -> Prefix:
        return Prefix(self.remove, self.add, self.optional)


def _renamed(state: State, new_name: Callable[[str], str]) -> State:
    came: dict[str, list[str]] = {}
    for name in state.names:
        came.setdefault(new_name(name), []).append(name)
    twice = [f"{new!r} from {', '.join(map(repr, names))}" for new, names in came.items() if len(names) > 1]
    if twice:
        raise RuleError(f"several tensors would get one name:{truncated_list(twice)}")
    return replace(
        state,
        tensors={new_name(name): node for name, node in state.tensors.items()},
        aliases={new_name(alias): new_name(owner) for alias, owner in state.aliases.items()},
    )


@dataclass(frozen=True)
class Tie(Rule):
    """Make a name a further name of another tensor.

    Args:
        alias: the name that will own nothing.
        owner: the name of the tensor.
        stored: whether the file holds the tensor a second time under ``alias``. Then both must have the same bytes,
            which is checked. If false, ``alias`` is not there yet.
        optional: whether ``owner``, and ``alias`` where it should be stored, may be missing.
    """

    alias: str
    owner: str
    stored: bool = True
    optional: bool = False

    def apply(self, state: State) -> State:
        alias, owner = self.alias, self.owner
        if self.optional and (owner not in state.tensors or (self.stored and alias not in state.tensors)):
            return state
        if owner not in state.tensors or owner == alias:
            return self.nothing(state, owner)
        if alias in state.aliases:
            raise RuleError(f"{alias!r} is a tie already, to {state.aliases[alias]!r}.")
        if not self.stored:
            if alias in state.tensors:
                raise RuleError(f"{alias!r} is stored; tie it with stored = true, which checks that both are equal.")
            return replace(state, aliases={**state.aliases, alias: owner})
        if alias not in state.tensors:
            return self.nothing(state, alias)
        kept = {name: node for name, node in state.tensors.items() if name != alias}
        node, equal = state.tensors[alias], state.tensors[owner]
        if node.spec != equal.spec:
            raise RuleError(f"{alias!r} is {node.spec}, and {owner!r} is {equal.spec}: they are no tie.")
        aliases = {name: owner if to == alias else to for name, to in state.aliases.items()} | {alias: owner}
        claim = Claim(f"{alias!r} and {owner!r}, which are tied, are equal", node, equal)
        return replace(state, tensors=kept, aliases=aliases, claims=(*state.claims, claim))

    def inverse(self) -> Untie:
        return Untie(self.alias, self.owner, self.stored, self.optional)


@dataclass(frozen=True)
class Untie(Rule):
    """Inverse of :class:`Tie`: store the tensor under ``alias`` too, or, with ``stored`` false, forget the name."""

    alias: str
    owner: str
    stored: bool = True
    optional: bool = False

    def apply(self, state: State) -> State:
        if state.aliases.get(self.alias) != self.owner:
            return self.nothing(state, self.alias)
        aliases = {name: owner for name, owner in state.aliases.items() if name != self.alias}
        if not self.stored:
            return replace(state, aliases=aliases)
        node = state.tensors[self.owner]
        tensors = {**state.tensors, self.alias: node}
        return replace(state, tensors=tensors, aliases=aliases, copies=(*state.copies, node))

    def inverse(self) -> Tie:
        return Tie(self.alias, self.owner, self.stored, self.optional)
