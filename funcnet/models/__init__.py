"""Well-known models as nets in one plain layout, and the rules from the checkpoints of transformers.

from_config    makes the net for a config of transformers.
rules          returns the rules from a checkpoint of transformers to the layout of that net.

The layout has the same names in all of them: ``embed``, ``layers`` with ``norm1``, ``attn``, ``norm2`` and ``mlp``,
``norm`` and ``head``; weights are (out, in). It comes in four forms: queries, keys and values fused or split, and
layers separate or stacked.
"""

from funcnet.models._bert import Bert
from funcnet.models._gpt2 import GPT2
from funcnet.models._llama import Llama
from funcnet.models._transformers_config import from_config
from funcnet.models._transformers_rules import rules

__all__ = ["GPT2", "Bert", "Llama", "from_config", "rules"]


def __dir__() -> list[str]:
    return [*__all__]
