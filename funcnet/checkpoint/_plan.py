"""The plan of a conversion: what it will do, proved before any tensor is read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._dtypes import dtype_from_name, dtype_name
from funcnet.checkpoint._nodes import (
    CastNode,
    CatNode,
    ComputedNode,
    ConstantNode,
    NarrowNode,
    Node,
    PermuteNode,
    ReshapeNode,
    SourceNode,
    iter_leaves,
    iter_nodes,
)
from funcnet.checkpoint._proof import Proof, apply_rules, prove
from funcnet.checkpoint.rules import Cast, Claim, Rule, State


@dataclass(frozen=True)
class Plan:
    """A proved conversion. Made by :func:`plan`.

    Attributes:
        rules: the rules of the conversion.
        sources: shape and dtype of each source tensor.
        source_aliases: ties of the source.
        targets: how each target tensor is computed.
        aliases: ties of the target.
        claims: what will be checked on the bytes.
        proof: what was proved, and the losses that rules declare.

    >>> import torch
    >>> from funcnet import checkpoint
    >>> planned = checkpoint.plan({"w": checkpoint.Spec((2, 3), torch.float32)}, [checkpoint.Rename("w", "weight")])
    >>> list(planned.targets), planned.proof.bijection
    (['weight'], True)
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
        """Shape and dtype of every target tensor."""
        return {name: node.spec for name, node in self.targets.items()}

    @property
    def target_bytes(self) -> int:
        """Bytes of all target tensors."""
        return sum(node.spec.nbytes for node in self.targets.values())

    @property
    def largest_group(self) -> int:
        """Bytes of the largest set of sources that one target needs."""
        groups = (
            {leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode)} for node in self.targets.values()
        )
        return max((sum(self.sources[name].nbytes for name in group) for group in groups), default=0)

    def steps(self) -> list[PlanStep]:
        """The steps of the plan for people to read, one for each target tensor."""
        return [
            PlanStep(name, node.spec, _source_names(node), _describe_operations(node))
            for name, node in self.targets.items()
        ]


@dataclass(frozen=True)
class PlanStep:
    """One step of a plan: a target tensor, the sources it is computed from, and how."""

    target: str
    spec: Spec
    sources: tuple[str, ...]
    how: str


def plan(specs: Mapping[str, Spec], rules: Sequence[Rule], aliases: Mapping[str, str] | None = None) -> Plan:
    """Apply rules to descriptions of tensors, and prove that they lose nothing but what they declare.

    Args:
        specs: shape and dtype by name, as ``load(path).specs``.
        rules: the rules, which are applied one after the other.
        aliases: ties of the source, as ``load(path).aliases``.

    Raises:
        RuleError: if a rule does not fit, or the plan is not a bijection; names the tensors at fault.

    >>> import torch
    >>> from funcnet.checkpoint import Fuse, Rename, Spec
    >>> specs = {f"h.0.{name}": Spec((size, 4), torch.float32) for name, size in {"q": 4, "k": 2, "v": 2}.items()}
    >>> fusion = plan(specs, [Fuse([f"h.{{i}}.{name}" for name in "qkv"], "h.{i}.qkv", [4, 2, 2])])
    >>> fusion.specs, fusion.proof.bijection
    ({'h.0.qkv': Spec(shape=(8, 4), dtype=torch.float32)}, True)
    """
    rules = tuple(rules)
    ties = dict(aliases or {})
    state = apply_rules(State.from_specs(specs, ties), rules)
    proof = prove(specs, ties, rules, state)
    return Plan(rules, dict(specs), ties, state.tensors, state.aliases, state.claims, proof)


def _source_names(node: Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys(leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode)))


_OPERATIONS = {
    ConstantNode: "fill",
    NarrowNode: "part",
    PermuteNode: "permute",
    ReshapeNode: "reshape",
    CatNode: "join",
    CastNode: "cast",
}


def _describe_operations(node: Node) -> str:
    """The operations that compute a tensor, in words; "copy" if there are none."""
    if isinstance(node, SourceNode):
        return "copy"
    steps = list(iter_nodes(node))
    node_types = {type(step) for step in steps}
    words = [word for node_type, word in _OPERATIONS.items() if node_type in node_types]
    return ", ".join(dict.fromkeys([*words, *(step.how for step in steps if isinstance(step, ComputedNode))]))


def cast_rules(specs: Mapping[str, Spec], dtype: str, lossy: bool) -> list[Rule]:
    """The rules that give every floating tensor one dtype.

    Where several dtypes become one, exact rules name each tensor, because the inverse could not tell them apart.
    """
    with contextlib.suppress(ValueError):  # the rule says what is wrong with the name
        dtype = dtype_name(dtype_from_name(dtype))
    names_by_dtype: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.dtype.is_floating_point and dtype_name(spec.dtype) != dtype:
            names_by_dtype.setdefault(dtype_name(spec.dtype), []).append(name)
    has_target_dtype = any(dtype_name(spec.dtype) == dtype for spec in specs.values())
    if lossy or (len(names_by_dtype) == 1 and not has_target_dtype):
        return [Cast("{name**}", before, dtype, lossy) for before in names_by_dtype]
    return [Cast(name, before, dtype) for before, names in names_by_dtype.items() for name in names]
