"""Rules that change names: rename, prefix, tie and untie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint.rules._patterns import Pattern, check_same_holes
from funcnet.checkpoint.rules._rule import Claim, Rule, State


@dataclass(frozen=True)
class Rename(Rule):
    """Change the form of names.

    Args:
        source: pattern of the present names, as ``"h.{i}.attn.{rest**}"``.
        target: pattern of the new names, with the same holes.
        optional: whether it is allowed that no name matches.

    >>> Rename("h.{i}.w", "layers.{i}.weight").inverse()
    Rename(source='layers.{i}.weight', target='h.{i}.w', optional=False)
    """

    source: str
    target: str
    optional: bool = False

    def __post_init__(self) -> None:
        check_same_holes(Pattern(self.source), Pattern(self.target))

    def apply(self, state: State) -> State:
        source, target = Pattern(self.source), Pattern(self.target)
        ambiguous: list[str] = []
        has_match = False

        def rename(name: str) -> str:
            nonlocal has_match
            holes = source.match(name)
            if holes is None:
                return name
            has_match = True
            new_name = target.format(holes)
            if target.match(new_name) != holes:
                ambiguous.append(f"{name!r} -> {new_name!r}")
            return new_name

        new_names = {name: rename(name) for name in state.names}
        if not has_match:
            return self.unchanged_if_optional(state, self.source)
        renamed = rename_all(state, new_names)
        if ambiguous:
            narrowed = [
                f"{{{hole}**}}" for hole in source.holes if source.spans_keys(hole) and not target.spans_keys(hole)
            ]
            hint = f"\n  A hole stands for one key: write {', '.join(narrowed)} on both sides." if narrowed else ""
            lines = truncated_list(list(dict.fromkeys(ambiguous)))
            raise RuleError(f"{self.target!r} does not tell how to come back from these names:{lines}{hint}")
        return renamed

    def inverse(self) -> Rename:
        return Rename(self.target, self.source, self.optional)


@dataclass(frozen=True)
class Prefix(Rule):
    """Replace the prefix ``remove`` of names by the prefix ``add``.

    Args:
        add: new prefix.
        remove: prefix of the names to change; the empty prefix is one that all names have.
        optional: whether it is allowed that no name has the prefix.

    >>> Prefix(remove="module.").inverse()
    Prefix(add='module.', remove='', optional=False)
    """

    add: str = ""
    remove: str = ""
    optional: bool = False

    def apply(self, state: State) -> State:
        if not any(name.startswith(self.remove) for name in state.names):
            return self.unchanged_if_optional(state, self.remove)
        length = len(self.remove)
        new_names = {name: self.add + name[length:] if name.startswith(self.remove) else name for name in state.names}
        return rename_all(state, new_names)

    def inverse(self) -> Prefix:
        return Prefix(self.remove, self.add, self.optional)


def rename_all(state: State, new_names: Mapping[str, str]) -> State:
    """The state with a new name for every name.

    Raises:
        RuleError: if two tensors would get one name; lists them.
    """
    if len({*new_names.values()}) < len(new_names):
        origins: dict[str, list[str]] = {}
        for name, new_name in new_names.items():
            origins.setdefault(new_name, []).append(name)
        collisions = [f"{new!r} from {', '.join(map(repr, names))}" for new, names in origins.items() if len(names) > 1]
        raise RuleError(f"several tensors would get one name:{truncated_list(collisions)}")
    return replace(
        state,
        tensors={new_names[name]: node for name, node in state.tensors.items()},
        aliases={new_names[alias]: new_names[owner] for alias, owner in state.aliases.items()},
    )


@dataclass(frozen=True)
class Tie(Rule):
    """Make a name an alias of another tensor.

    Args:
        alias: the name that will own no tensor.
        owner: the name of the tensor.
        stored: whether the file stores the tensor a second time under ``alias``. Then both must have the same bytes,
            which is checked. If false, ``alias`` must be a new name.
        optional: whether ``owner``, and ``alias`` where it should be stored, may be missing.

    >>> Tie("head.weight", "embed.weight").inverse()
    Untie(alias='head.weight', owner='embed.weight', stored=True, optional=False)
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
            return self.unchanged_if_optional(state, owner)
        if alias in state.aliases:
            raise RuleError(f"{alias!r} is a tie already, to {state.aliases[alias]!r}.")
        if not self.stored:
            if alias in state.tensors:
                raise RuleError(f"{alias!r} is stored; tie it with stored = true, which checks that both are equal.")
            return replace(state, aliases={**state.aliases, alias: owner})
        if alias not in state.tensors:
            return self.unchanged_if_optional(state, alias)
        tensors = {name: node for name, node in state.tensors.items() if name != alias}
        second, first = state.tensors[alias], state.tensors[owner]
        if second.spec != first.spec:
            raise RuleError(f"{alias!r} is {second.spec}, and {owner!r} is {first.spec}: they are no tie.")
        aliases = {name: owner if to == alias else to for name, to in state.aliases.items()} | {alias: owner}
        claim = Claim(f"{alias!r} and {owner!r}, which are tied, are equal", second, first)
        return replace(state, tensors=tensors, aliases=aliases, claims=(*state.claims, claim))

    def inverse(self) -> Untie:
        return Untie(self.alias, self.owner, self.stored, self.optional)


@dataclass(frozen=True)
class Untie(Rule):
    """Inverse of :class:`Tie`: store the tensor under ``alias`` too or, if ``stored`` is false, remove the alias.

    >>> Untie("head.weight", "embed.weight").inverse()
    Tie(alias='head.weight', owner='embed.weight', stored=True, optional=False)
    """

    alias: str
    owner: str
    stored: bool = True
    optional: bool = False

    def apply(self, state: State) -> State:
        if state.aliases.get(self.alias) != self.owner:
            return self.unchanged_if_optional(state, self.alias)
        aliases = {name: owner for name, owner in state.aliases.items() if name != self.alias}
        if not self.stored:
            return replace(state, aliases=aliases)
        node = state.tensors[self.owner]
        return replace(state, tensors={**state.tensors, self.alias: node}, aliases=aliases)

    def inverse(self) -> Tie:
        return Tie(self.alias, self.owner, self.stored, self.optional)
