"""Rules applied to tensors in memory, with the same proof as a conversion of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._live_tensors import find_ties
from funcnet.checkpoint._node_reader import NodeReader, claim_error, have_same_bits
from funcnet.checkpoint._plan import plan
from funcnet.checkpoint._restructure import restructure
from funcnet.checkpoint._structure import fill
from funcnet.checkpoint.rules import Claim, Rule
from funcnet.checkpoint.rules import inverse as inverse_of
from funcnet.checkpoint.rules._toml import read_rules


def apply(
    rules: Sequence[Rule] | str | Path,
    tree: Mapping[str, Any],
    *,
    inverse: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> Any:
    """Tensors in memory after rules: what :func:`funcnet.checkpoint.convert` does to files, with the same proof.

    Nothing is written to what is given. A tensor that a rule only renames is the same tensor in the result. Gradients
    flow through, and under ``vmap`` and ``grad`` rules are as any other function, unless bytes have to be compared.

    Args:
        rules: applied one after the other; or the path of a TOML file of rules.
        tree: nested dicts of tensors, a ``state_dict``, or a whole training checkpoint; or a ``Checkpoint``.
        inverse: go the other way: apply the inverse of each rule, last to first.
        aliases: further ties, as ``net.aliases`` has them: names that are not in the tree -> names that are.

    Returns:
        A tree of the same form: nested if it was nested, flat if it was a ``state_dict``. Values that are not tensors
        come along. Tied names have one tensor.

    Raises:
        RuleError: if a rule does not fit or the plan loses something; names the tensors at fault.
        CheckpointError: if the tensors are not what a rule takes them to be.

    >>> from funcnet.checkpoint import Fuse, apply
    >>> rules = [Fuse(["q", "k", "v"], "qkv", [4, 2, 2])]
    >>> tree = {"q": torch.zeros(4, 8), "k": torch.ones(2, 8), "v": torch.ones(2, 8)}
    >>> fused = apply(rules, tree)
    >>> fused["qkv"].shape, [*apply(rules, fused, inverse=True)]
    (torch.Size([8, 8]), ['q', 'k', 'v'])
    """
    steps = read_rules(rules)
    if inverse:
        steps = inverse_of(steps)
    source = tree.tree() if isinstance(tree, Checkpoint) else tree
    tensors, values, structure = flatten_checkpoint(source)
    owners, ties = find_ties(tensors)
    ties |= {alias: ties.get(owner, owner) for alias, owner in (aliases or {}).items()}
    proved = plan({name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in owners.items()}, steps, ties)
    reader = NodeReader(
        {name: _entry_in_memory(tensor) for name, tensor in owners.items()}, device=_common_device(owners.values())
    )
    for claim in proved.claims:
        _check_claim(reader, claim)
    flat: dict[str, Any] = {}
    used: set[int] = set()
    for name, node in proved.targets.items():
        tensor = reader.compute_tensor(node).contiguous()
        flat[name] = tensor.clone() if id(tensor) in used else tensor  # a copy is no tie
        used.add(id(tensor))
    flat |= {alias: flat[owner] for alias, owner in proved.aliases.items()}
    for rule in steps:
        values = rule.convert_values(values)
    flat |= values
    new_structure = restructure(structure, flat)
    if new_structure is None:
        raise CheckpointError("some of the new names lie below others, so they make no tree. Rename them.")
    return fill(new_structure, flat)


def _entry_in_memory(tensor: Tensor) -> StoredTensor:
    return StoredTensor(Spec(tuple(tensor.shape), tensor.dtype), reader=lambda: tensor)


def _common_device(tensors: Any) -> torch.device | None:
    devices = {tensor.device for tensor in tensors}
    return devices.pop() if len(devices) == 1 else None


def _check_claim(reader: NodeReader, claim: Claim) -> None:
    """Compare the two sides of a claim.

    Raises:
        CheckpointError: if they differ.
    """
    left, right = reader.compute_tensor(claim.node), reader.compute_tensor(claim.equal)
    if left is not right and not have_same_bits(left, right):
        raise claim_error(claim)
