"""Typed, invertible operations on the names and tensors of a checkpoint.

from_toml    reads rules from a text.
to_toml      writes rules as a text.
to_plain     writes rules as dicts of plain values, for JSON.
inverse      returns the rules that lead back.

A list of rules describes a conversion. The inverse of the list is the inverse of each rule in reverse order, so nobody
writes it. Rules work on descriptions of tensors and not on tensors: ``funcnet.checkpoint.plan`` proves what they do
before any tensor is read.
"""

from funcnet.checkpoint.rules._joins import Fuse, Split, Stack, Unstack
from funcnet.checkpoint.rules._merge_lora import MergeLora
from funcnet.checkpoint.rules._mixtures import Mix, Slerp
from funcnet.checkpoint.rules._names import Prefix, Rename, Tie, Untie
from funcnet.checkpoint.rules._ranks import Replicate, Shard, Unreplicate, Unshard
from funcnet.checkpoint.rules._rows import Cut, Grow
from funcnet.checkpoint.rules._rule import Claim, Rule, State
from funcnet.checkpoint.rules._shapes import Interleave, Permute, Reshape, Transpose
from funcnet.checkpoint.rules._toml import from_toml, inverse, to_plain, to_toml
from funcnet.checkpoint.rules._values import Cast, Drop, Fill
from funcnet.checkpoint.rules._within import Label, Number, Within

__all__ = [
    "Cast",
    "Claim",
    "Cut",
    "Drop",
    "Fill",
    "Fuse",
    "Grow",
    "Interleave",
    "Label",
    "MergeLora",
    "Mix",
    "Number",
    "Permute",
    "Prefix",
    "Rename",
    "Replicate",
    "Reshape",
    "Rule",
    "Shard",
    "Slerp",
    "Split",
    "Stack",
    "State",
    "Tie",
    "Transpose",
    "Unreplicate",
    "Unshard",
    "Unstack",
    "Untie",
    "Within",
    "from_toml",
    "inverse",
    "to_plain",
    "to_toml",
]


def __dir__() -> list[str]:
    return [*__all__]
