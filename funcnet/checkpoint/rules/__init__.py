"""Typed, invertible operations on the names and tensors of a checkpoint.

A list of rules describes a conversion; the inverse of the list is the inverse of each in reverse order, and is never
written. Rules work on descriptions of tensors, not on tensors: what they come to is proved before any is read.
"""

from funcnet.checkpoint.rules._joins import Fuse as Fuse
from funcnet.checkpoint.rules._joins import Split as Split
from funcnet.checkpoint.rules._joins import Stack as Stack
from funcnet.checkpoint.rules._joins import Unstack as Unstack
from funcnet.checkpoint.rules._names import Prefix as Prefix
from funcnet.checkpoint.rules._names import Rename as Rename
from funcnet.checkpoint.rules._names import Tie as Tie
from funcnet.checkpoint.rules._names import Untie as Untie
from funcnet.checkpoint.rules._rule import Claim as Claim
from funcnet.checkpoint.rules._rule import Rule as Rule
from funcnet.checkpoint.rules._rule import State as State
from funcnet.checkpoint.rules._shapes import Interleave as Interleave
from funcnet.checkpoint.rules._shapes import Permute as Permute
from funcnet.checkpoint.rules._shapes import Reshape as Reshape
from funcnet.checkpoint.rules._shapes import Transpose as Transpose
from funcnet.checkpoint.rules._toml import from_toml as from_toml
from funcnet.checkpoint.rules._toml import inverse as inverse
from funcnet.checkpoint.rules._toml import to_plain as to_plain
from funcnet.checkpoint.rules._toml import to_toml as to_toml
from funcnet.checkpoint.rules._values import Cast as Cast
from funcnet.checkpoint.rules._values import Drop as Drop
from funcnet.checkpoint.rules._values import Fill as Fill
