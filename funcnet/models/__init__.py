"""Well-known models as nets in one plain layout, the rules from the checkpoints of transformers, and decoding.

from_config      makes the net for a config of transformers.
rules            returns the rules from a checkpoint of transformers to the layout of that net.
generate         continues texts token by token.
growing_cache    makes an empty cache of keys and values, which grows with every call.
static_cache     makes an empty cache with room for a number of tokens, so that all calls have the same shapes.
filter_logits    returns logits by temperature, top-k and top-p.
decoding_params  returns params laid out in memory so that single tokens are decoded without copies of weights.

The layout has the same names in all of them: ``embed``, ``layers`` with ``norm1``, ``attn``, ``norm2`` and ``mlp``,
``norm`` and ``head``; weights are (out, in). It comes in four forms: queries, keys and values fused or split, and
layers separate or stacked.

GPT2 and Llama decode as a pure function: ``logits, cache = net(params, tokens, cache=cache)``. A cache is a nested dict
of tensors that no call writes to, so two continuations may go on from one of them.
"""

from funcnet.models._bert import Bert
from funcnet.models._decoder_model import decoding_params
from funcnet.models._generate import generate
from funcnet.models._gpt2 import GPT2
from funcnet.models._kv_cache import growing_cache, static_cache
from funcnet.models._llama import Llama
from funcnet.models._sampling import filter_logits
from funcnet.models._transformers_config import from_config
from funcnet.models._transformers_rules import rules

__all__ = [
    "GPT2",
    "Bert",
    "Llama",
    "decoding_params",
    "filter_logits",
    "from_config",
    "generate",
    "growing_cache",
    "rules",
    "static_cache",
]


def __dir__() -> list[str]:
    return [*__all__]
