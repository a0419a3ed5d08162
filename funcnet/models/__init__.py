"""Well-known models as nets in one plain layout, and the rules between it and the checkpoints of transformers.

from_config    makes a net from the configuration of a model of transformers: an object, a folder, a file or a dict.
rules          returns the rules from the checkpoint of such a model to the params of that net.

``Bert``, ``GPT2`` and ``Llama`` have the same names: ``embed``, ``layers`` with ``norm1``, ``attn``, ``norm2`` and
``mlp``, ``norm`` and ``head``; weights are (out, in). The layout comes in four forms: queries, keys and values fused or
split, and layers separate or stacked.
"""

from funcnet.models._bert import Bert as Bert
from funcnet.models._gpt2 import GPT2 as GPT2
from funcnet.models._llama import Llama as Llama
from funcnet.models._transformers_config import from_config as from_config
from funcnet.models._transformers_rules import rules as rules

__all__ = ["Bert", "GPT2", "Llama", "from_config", "rules"]


def __dir__() -> list[str]:
    return [*__all__]
