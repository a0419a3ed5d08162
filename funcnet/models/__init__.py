"""Well-known models as nets in one plain layout, and the rules between it and the checkpoints of transformers.

The layout has the same names in all of them: ``embed``, ``layers`` with ``norm1``, ``attn``, ``norm2`` and ``mlp``,
``norm`` and ``head``; weights are (out, in). It comes in four forms: queries, keys and values fused or split, and
layers separate or stacked. ``from_config`` makes a net and ``rules`` the rules that lead there, from one config.
"""

from funcnet.models._bert import Bert as Bert
from funcnet.models._gpt2 import GPT2 as GPT2
from funcnet.models._llama import Llama as Llama
from funcnet.models._transformers_config import from_config as from_config
from funcnet.models._transformers_rules import rules as rules
