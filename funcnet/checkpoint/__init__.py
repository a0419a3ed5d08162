"""Checkpoints: read, write, convert and prove.

load               opens any common format as a lazy mapping from names to tensors.
save               writes a tree of tensors to a file or folder, whole or not at all.
convert            goes from one file to another by rules, proved before a tensor is read.
plan_conversion    returns the proved plan of a conversion and carries nothing out.
apply              applies rules to tensors in memory, with the same proof.
plan               proves that rules lose nothing of tensors of given shapes.
verify             checks the certificate of a conversion later, on the files.
differences        lists how two checkpoints differ, name by name.
stats              returns smallest, largest and mean value of every tensor.

match              proposes rules between any two layouts, for a person to look at.
ready_rules        returns the rules between two layouts of a well-known model, as "transformers" and "meta".
list_layouts       returns the layouts there are, by the type of the model.
optimizer_rules    returns rules for a training checkpoint, from those for its model.
adapter_rules      returns the rules that merge an adapter of peft (LoRA, DoRA) into its base.
keras_rules        returns the rules from the conventions of Keras to those of torch.
parametrization_rules  returns the rules from both old forms of weight and spectral norm to the new ones.
flax_rules         returns the rules from the conventions of Flax to those of torch.
from_toml          reads rules from a text.
to_toml            writes rules as a text.
inverse            returns the rules that lead back.

Rules are small, typed, invertible operations: ``Rename``, ``Prefix``, ``Tie``, ``Untie`` change names; ``Transpose``,
``Permute``, ``Reshape``, ``Interleave`` change shapes; ``Fuse``, ``Split``, ``Stack``, ``Unstack`` join and divide;
``Shard``, ``Unshard``, ``Replicate``, ``Unreplicate`` are for the files of several ranks; ``Cast``, ``Drop``, ``Fill``,
``Cut``, ``Grow`` change contents; ``Mix``, ``Slerp``, ``MergeLora`` are arithmetic; ``Within``, ``Label``, ``Number``
reach the parts of a training checkpoint. ``funcnet.models.rules`` knows those of some models of transformers.
"""

from funcnet.checkpoint._adapter_rules import adapter_rules
from funcnet.checkpoint._apply_rules import apply
from funcnet.checkpoint._certificate import Certificate, verify
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._checkpoint import StoredTensor as Entry
from funcnet.checkpoint._conversion import convert, plan_conversion
from funcnet.checkpoint._differences import Difference, differences
from funcnet.checkpoint._errors import CheckpointError, RuleError
from funcnet.checkpoint._load import load
from funcnet.checkpoint._matching import Match, Proposal, flax_rules, match
from funcnet.checkpoint._optimizer_rules import optimizer_rules
from funcnet.checkpoint._pickles._opaque import Opaque
from funcnet.checkpoint._plan import Plan, plan
from funcnet.checkpoint._ready import keras_rules, list_layouts, parametrization_rules, ready_rules
from funcnet.checkpoint._save import save
from funcnet.checkpoint._statistics import Stats, stats
from funcnet.checkpoint.rules import (
    Cast,
    Cut,
    Drop,
    Fill,
    Fuse,
    Grow,
    Interleave,
    Label,
    MergeLora,
    Mix,
    Number,
    Permute,
    Prefix,
    Rename,
    Replicate,
    Reshape,
    Rule,
    Shard,
    Slerp,
    Split,
    Stack,
    Tie,
    Transpose,
    Unreplicate,
    Unshard,
    Unstack,
    Untie,
    Within,
    from_toml,
    inverse,
    to_toml,
)

__all__ = [
    "Cast",
    "Certificate",
    "Checkpoint",
    "CheckpointError",
    "Cut",
    "Difference",
    "Drop",
    "Entry",
    "Fill",
    "Fuse",
    "Grow",
    "Interleave",
    "Label",
    "Match",
    "MergeLora",
    "Mix",
    "Number",
    "Opaque",
    "Permute",
    "Plan",
    "Prefix",
    "Proposal",
    "Rename",
    "Replicate",
    "Reshape",
    "Rule",
    "RuleError",
    "Shard",
    "Slerp",
    "Spec",
    "Split",
    "Stack",
    "Stats",
    "Tie",
    "Transpose",
    "Unreplicate",
    "Unshard",
    "Unstack",
    "Untie",
    "Within",
    "adapter_rules",
    "apply",
    "convert",
    "differences",
    "flax_rules",
    "from_toml",
    "inverse",
    "keras_rules",
    "list_layouts",
    "load",
    "match",
    "optimizer_rules",
    "parametrization_rules",
    "plan",
    "plan_conversion",
    "ready_rules",
    "save",
    "stats",
    "to_toml",
    "verify",
]


def __dir__() -> list[str]:
    return sorted(__all__)
