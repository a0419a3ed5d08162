"""What a conversion will do, known and proved before it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from funcnet.checkpoint._dtypes import name_of
from funcnet.checkpoint._lazy import Spec
from funcnet.checkpoint._nodes import Cast, Cat, Constant, Narrow, Node, Permute, Reshape, Source, leaves, nodes
from funcnet.checkpoint._proof import Proof, apply_rules, prove
from funcnet.checkpoint.rules import Cast as CastRule
from funcnet.checkpoint.rules import Claim, Rule, State


@dataclass(frozen=True)
class Plan:
    """A proved conversion. Made by :func:`plan`.

    Attributes:
        rules: what it carries out.
        sources: shape and dtype of what there is.
        source_aliases: ties of what there is.
        targets: how each tensor to be is made.
        aliases: ties of what will be.
        claims: what is checked on the bytes.
        proof: what was shown, and the losses that are declared.
    """

    rules: tuple[Rule, ...]
    sources: dict[str, Spec]
    source_aliases: dict[str, str]
    targets: dict[str, Node]
    aliases: dict[str, str]
    claims: tuple[Claim, ...]
    proof: Proof

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and dtype of every tensor to be."""
        return {name: node.spec for name, node in self.targets.items()}

    @property
    def target_bytes(self) -> int:
        """Bytes of all tensors to be."""
        return sum(node.spec.nbytes for node in self.targets.values())

    @property
    def largest_group(self) -> int:
        """Bytes of the largest set of sources that one target is made of."""
        groups = ({leaf.name for leaf in leaves(node) if isinstance(leaf, Source)} for node in self.targets.values())
        return max((sum(self.sources[name].nbytes for name in group) for group in groups), default=0)

    def steps(self) -> list[Step]:
        """What becomes of each tensor, as rows for people."""
        return [Step(name, node.spec, _sources(node), _how(node)) for name, node in self.targets.items()]


@dataclass(frozen=True)
class Step:
    """One row of a plan: a target, what it is made of, and how."""

    target: str
    spec: Spec
    sources: tuple[str, ...]
    how: str


def plan(specs: Mapping[str, Spec], rules: Sequence[Rule], aliases: Mapping[str, str] | None = None) -> Plan:
    """Apply rules to descriptions of tensors, and prove that they lose nothing but what they declare.

    Args:
        specs: shape and dtype by name, as ``load(path).specs``.
        rules: applied one after the other.
        aliases: ties, as ``load(path).aliases``.

    Raises:
        RuleError: if a rule does not fit, or the plan is no bijection; names the tensors at fault.

    >>> import torch
    >>> from funcnet.checkpoint import Fuse, Rename, Spec
    >>> specs = {f"h.0.{name}": Spec((size, 4), torch.float32) for name, size in {"q": 4, "k": 2, "v": 2}.items()}
    >>> made = plan(specs, [Fuse([f"h.{{i}}.{name}" for name in "qkv"], "h.{i}.qkv", [4, 2, 2])])
    >>> made.specs, made.proof.bijection
    ({'h.0.qkv': Spec(shape=(8, 4), dtype=torch.float32)}, True)
    """
    rules = tuple(rules)
    ties = dict(aliases or {})
    state = apply_rules(State.from_specs(specs, ties), rules)
    proof = prove(specs, ties, rules)
    return Plan(rules, dict(specs), ties, state.tensors, state.aliases, state.claims, proof)


def _sources(node: Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys(leaf.name for leaf in leaves(node) if isinstance(leaf, Source)))


def _how(node: Node) -> str:
    if isinstance(node, Source):
        return "copy"
    words = {_word(step) for step in nodes(node)} - {""}
    return ", ".join(word for word in ("fill", "part", "permute", "reshape", "join", "cast") if word in words)


def _word(node: Node) -> str:
    kinds = {Cat: "join", Narrow: "part", Permute: "permute", Reshape: "reshape", Cast: "cast", Constant: "fill"}
    return kinds.get(type(node), "")


def casts(specs: Mapping[str, Spec], dtype: str, lossy: bool) -> list[Rule]:
    """The rules that give every floating tensor one dtype.

    Where several dtypes become one, exact rules name each tensor, for else the way back could not tell them apart.
    """
    there: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.dtype.is_floating_point and name_of(spec.dtype) != dtype:
            there.setdefault(name_of(spec.dtype), []).append(name)
    already = any(name_of(spec.dtype) == dtype for spec in specs.values())
    if lossy or (len(there) == 1 and not already):
        return [CastRule("{name**}", before, dtype, lossy) for before in there]
    return [CastRule(name, before, dtype) for before, names in there.items() for name in names]
