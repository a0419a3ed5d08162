"""Checkpoints: read, write, convert and prove.

load               opens any common format as a lazy mapping from names to tensors.
save               writes a tree of tensors to a file or folder, whole or not at all.
convert            goes from one file to another by rules, proved before a tensor is read.
plan_conversion    returns the proved plan of a conversion and carries nothing out.
plan               proves that rules lose nothing of tensors of given shapes.
verify             checks the certificate of a conversion later, on the files.
differences        lists how two checkpoints differ, name by name.
stats              returns smallest, largest and mean value of every tensor.

match              proposes rules between any two layouts, for a person to look at.
flax_rules         returns the rules from the conventions of Flax to those of torch.
from_toml          reads rules from a text.
to_toml            writes rules as a text.
inverse            returns the rules that lead back.

Rules are small, typed, invertible operations: ``Rename``, ``Prefix``, ``Tie``, ``Untie`` change names; ``Transpose``,
``Permute``, ``Reshape``, ``Interleave`` change shapes; ``Fuse``, ``Split``, ``Stack``, ``Unstack`` join and divide;
``Cast``, ``Drop``, ``Fill`` change contents. ``funcnet.models.rules`` knows those of some models of transformers.
"""

from funcnet.checkpoint._certificate import Certificate, verify
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._checkpoint import StoredTensor as Entry
from funcnet.checkpoint._conversion import convert, plan_conversion
from funcnet.checkpoint._differences import Difference, differences
from funcnet.checkpoint._errors import CheckpointError, RuleError
from funcnet.checkpoint._load import load
from funcnet.checkpoint._matching import Match, Proposal, flax_rules, match
from funcnet.checkpoint._plan import Plan, plan
from funcnet.checkpoint._save import save
from funcnet.checkpoint._statistics import Stats, stats
from funcnet.checkpoint.rules import (
    Cast,
    Drop,
    Fill,
    Fuse,
    Interleave,
    Permute,
    Prefix,
    Rename,
    Reshape,
    Rule,
    Split,
    Stack,
    Tie,
    Transpose,
    Unstack,
    Untie,
    from_toml,
    inverse,
    to_toml,
)

__all__ = [
    "Cast",
    "Certificate",
    "Checkpoint",
    "CheckpointError",
    "Difference",
    "Drop",
    "Entry",
    "Fill",
    "Fuse",
    "Interleave",
    "Match",
    "Permute",
    "Plan",
    "Prefix",
    "Proposal",
    "Rename",
    "Reshape",
    "Rule",
    "RuleError",
    "Spec",
    "Split",
    "Stack",
    "Stats",
    "Tie",
    "Transpose",
    "Unstack",
    "Untie",
    "convert",
    "differences",
    "flax_rules",
    "from_toml",
    "inverse",
    "load",
    "match",
    "plan",
    "plan_conversion",
    "save",
    "stats",
    "to_toml",
    "verify",
]


def __dir__() -> list[str]:
    return sorted(__all__)
