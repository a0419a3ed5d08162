"""Checkpoints: read, write, convert and prove.

``load`` opens any common format as a lazy mapping from names to tensors; ``save`` writes one, whole or not at all.
"""

from funcnet.checkpoint._detect import load as load
from funcnet.checkpoint._errors import CheckpointError as CheckpointError
from funcnet.checkpoint._errors import RuleError as RuleError
from funcnet.checkpoint._lazy import Checkpoint as Checkpoint
from funcnet.checkpoint._lazy import Entry as Entry
from funcnet.checkpoint._lazy import Spec as Spec
from funcnet.checkpoint._save import save as save
