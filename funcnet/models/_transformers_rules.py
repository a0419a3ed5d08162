"""Rules between the checkpoints of transformers and the layouts of the nets here, in all their forms."""

from __future__ import annotations

from funcnet.checkpoint import Checkpoint, Fuse, Rule, Stack, ready_rules
from funcnet.checkpoint.internals import ConfigLike, join_rules, read_settings
from funcnet.models._transformers_config import ModelConfig, read_config


def rules(
    config: ConfigLike,
    *,
    architecture: str | None = None,
    fused_qkv: bool = True,
    stacked: bool = False,
    source: Checkpoint | None = None,
) -> tuple[Rule, ...]:
    """The rules that take a checkpoint of transformers to the layout of ``from_config`` with the same arguments.

    ``funcnet.checkpoint.inverse`` of them leads back to a checkpoint that ``from_pretrained`` loads.

    Args:
        config, architecture, fused_qkv, stacked: as in :func:`from_config`.
        source: the checkpoint, if there is one. Files differ in whether a tied head is stored, in whether the names
            have the prefix of the base model, and in what older versions saved besides weights.

    Raises:
        ConversionError: lists every setting of the config that no net here supports.

    >>> fused = rules({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8})
    >>> fused[-1]  # doctest: +ELLIPSIS
    Fuse(sources=('layers.{i}.attn.q.{w}', ...), target='layers.{i}.attn.qkv.{w}', sizes=(8, 4, 4), dim=0, ...)
    """
    model = read_config(config, architecture)
    settings = {**read_settings(config), "architectures": [model.architecture]}
    result = ready_rules(settings, "transformers", "plain", weights=source)
    if fused_qkv:
        result = join_rules(result, [_fuse_rule(model)])
    return (*result, Stack("layers.{i}.{rest**}", "layers.{rest**}")) if stacked else result


def _fuse_rule(model: ModelConfig) -> Rule:
    """The rule that makes one tensor of queries, keys and values."""
    net = model.make_net(fused_qkv=False, stacked=False)
    heads = net.num_attention_heads
    width = getattr(net, "head_dim", None) or net.hidden_size // heads
    key_size = (getattr(net, "num_key_value_heads", None) or heads) * width
    parts = tuple(f"layers.{{i}}.attn.{name}.{{w}}" for name in "qkv")
    return Fuse(parts, "layers.{i}.attn.qkv.{w}", (heads * width, key_size, key_size))
