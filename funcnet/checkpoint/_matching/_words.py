"""What a name says: its keys, its numbers, and its words, each as the one that stands for all its synonyms."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_SYNONYMS = {
    "norm": "norm ln layernorm rmsnorm batchnorm bn normalization groupnorm batch_normalization layer_norm gn",
    "conv": "conv convolution conv2d conv1d convs conv_layers",
    "linear": "linear dense fc lin proj projection",
    "shortcut": "shortcut downsample skip residual identity conv_shortcut nin_shortcut skip_connection",
    "stage": "stage stages",
    "block": "block blocks layer layers h resblocks encoderblock resblock resnets module_list group groups",
    "stem": "stem embedder",
    "squeeze": "se squeeze_excite squeeze_excitation",
    "reduce": "reduce reduction squeeze",
    "expand": "expand expansion excite",
    "depthwise": "dw depthwise dwconv conv_dw",
    "pointwise": "pw pointwise pwl pwconv conv_pw",
    "vision": "vision visual image img vit",
    "text": "text language lang",
    "encoder": "encoder enc",
    "decoder": "decoder dec",
    "cross": "cross encdec encoder_attn crossattention multihead_attn",
    "attention": (
        "attention attn self_attn self_attention selfattention mha multiheaddotproductattention multiheadattention"
    ),
    "embedding": "embedding embeddings embed emb",
    "position": "position positions positional pos posembed",
    "token": "token tokens tok word words",
    "mlp": "mlp ffn ff feedforward feed_forward mlpblock densereludense",
    "head": "head heads classifier logits fc",
    "experts": "experts expert",
    "router": "router gate",
    "final": "final post last",
    "time": "time temb timestep",
    "down": "down down_blocks input_blocks",
    "up": "up up_blocks output_blocks",
    "middle": "middle mid mid_block middle_block",
}
_WORD_OF = {synonym: word for word, synonyms in _SYNONYMS.items() for synonym in synonyms.split()}
_CONTAINERS = (
    "layer|layers|block|blocks|encoderblock|decoderblock|resblock|resblocks|h|stage|stages|group|groups|encoder_layer"
    "|decoder_layer|transformer_block|transformer_layer|expert|experts|residual|cell"
)
_NUMBERED_CONTAINER = re.compile(rf"^({_CONTAINERS})_?(\d+)$")
COLLECTIONS = frozenset({"params", "batch_stats"})
"""First keys of the names of Flax, which divide the tensors of one module."""
WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", *COLLECTIONS}
)
"""Keys that wrappers and collections put into names, and that say nothing of a tensor."""


class NamePath(NamedTuple):
    """A name in parts.

    Attributes:
        keys: the keys in snake case, without wrappers; "#" stands for a number.
        numbers: the numbers, in order.
        words: all words in the keys, each as the one that stands for its synonyms.
    """

    keys: tuple[str, ...]
    numbers: tuple[int, ...]
    words: frozenset[str]


def split_keys(name: str) -> list[str]:
    """The keys of a name.

    >>> split_keys("params/Dense_0/kernel")
    ['params', 'Dense_0', 'kernel']
    """
    return re.split(r"[./]", name.removesuffix(":0"))


@lru_cache(1 << 16)
def read_path(path: str) -> NamePath:
    """The parts of a path.

    >>> read_path("bert/encoder/layer_11/attention/LayerNorm")[:2]
    (('bert', 'encoder', 'layer', '#', 'attention', 'layer_norm'), (11,))
    """
    keys: list[str] = []
    numbers: list[int] = []
    for key in split_keys(path):
        if key in WRAPPERS:
            continue
        snake = _to_snake_case(key)
        numbered = _NUMBERED_CONTAINER.match(snake)
        if snake.isdecimal():
            keys.append("#")
            numbers.append(int(snake))
        elif numbered:
            keys += [numbered[1], "#"]
            numbers.append(int(numbered[2]))
        else:
            keys.append(snake)
    return NamePath(tuple(keys), tuple(numbers), frozenset(word for key in keys for word in _words_of_key(key)))


@lru_cache(1 << 12)
def _to_snake_case(key: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key)
    return spaced.lower().strip("_")


@lru_cache(1 << 12)
def _words_of_key(key: str) -> tuple[str, ...]:
    """The words in a key, without numbers, which say nothing but an order."""
    if key in _WORD_OF:
        return (_WORD_OF[key],)
    words = re.findall(r"[a-z]+(?:2d|1d|3d)?", key)
    return tuple(_WORD_OF.get(word, word) for word in words)


def find_last_word(text: str) -> str:
    """The last word of the beginning of a path, which says what the number after it counts.

    >>> find_last_word("encoder.layers."), find_last_word("params/Conv_")
    ('block', 'conv')
    """
    keys = [key for key in split_keys(text) if key and not key.isdecimal()]
    words = _words_of_key(_to_snake_case(keys[-1])) if keys else ()
    return words[-1] if words else ""
