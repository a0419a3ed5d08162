"""Checkpoints: read, write, convert and prove.

``load`` opens any common format as a lazy mapping from names to tensors; ``save`` writes one, whole or not at all.
``convert`` goes from one file to another by rules, a small set of typed, invertible operations; ``plan`` proves before
any tensor is read that the rules lose nothing, and the certificate of a conversion lets ``verify`` check it later.
Rules need not be written by hand: ``flax_rules`` knows the conventions of Flax, ``funcnet.models.rules`` those of some
models of transformers, and ``match`` proposes rules between any two layouts for a person to look at.
"""

from funcnet.checkpoint._certificate import Certificate as Certificate
from funcnet.checkpoint._certificate import verify as verify
from funcnet.checkpoint._checkpoint import Checkpoint as Checkpoint
from funcnet.checkpoint._checkpoint import Entry as Entry
from funcnet.checkpoint._checkpoint import Spec as Spec
from funcnet.checkpoint._conversion import convert as convert
from funcnet.checkpoint._conversion import plan_conversion as plan_conversion
from funcnet.checkpoint._differences import Difference as Difference
from funcnet.checkpoint._differences import Stats as Stats
from funcnet.checkpoint._differences import differences as differences
from funcnet.checkpoint._differences import stats as stats
from funcnet.checkpoint._errors import CheckpointError as CheckpointError
from funcnet.checkpoint._errors import RuleError as RuleError
from funcnet.checkpoint._load import load as load
from funcnet.checkpoint._matching import Match as Match
from funcnet.checkpoint._matching import Proposal as Proposal
from funcnet.checkpoint._matching import flax_rules as flax_rules
from funcnet.checkpoint._matching import match as match
from funcnet.checkpoint._plan import Plan as Plan
from funcnet.checkpoint._plan import plan as plan
from funcnet.checkpoint._save import save as save
from funcnet.checkpoint.rules import Cast as Cast
from funcnet.checkpoint.rules import Drop as Drop
from funcnet.checkpoint.rules import Fill as Fill
from funcnet.checkpoint.rules import Fuse as Fuse
from funcnet.checkpoint.rules import Interleave as Interleave
from funcnet.checkpoint.rules import Permute as Permute
from funcnet.checkpoint.rules import Prefix as Prefix
from funcnet.checkpoint.rules import Rename as Rename
from funcnet.checkpoint.rules import Reshape as Reshape
from funcnet.checkpoint.rules import Rule as Rule
from funcnet.checkpoint.rules import Split as Split
from funcnet.checkpoint.rules import Stack as Stack
from funcnet.checkpoint.rules import Tie as Tie
from funcnet.checkpoint.rules import Transpose as Transpose
from funcnet.checkpoint.rules import Unstack as Unstack
from funcnet.checkpoint.rules import Untie as Untie
from funcnet.checkpoint.rules import from_toml as from_toml
from funcnet.checkpoint.rules import inverse as inverse
from funcnet.checkpoint.rules import to_toml as to_toml
