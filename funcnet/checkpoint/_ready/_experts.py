"""Ready rules for decoders whose layers have experts: one tensor for each expert, or all of them stacked."""

from __future__ import annotations

from funcnet.checkpoint._ready._decoders import META_MLP, is_sparse, llama_of_meta, llama_of_transformers
from funcnet.checkpoint._ready._settings import ModelFacts, rename_rules
from funcnet.checkpoint.rules import Fuse, Rename, Rule, Stack

_SHARED = ("gate", "up", "down")


def experts_of_transformers(facts: ModelFacts) -> list[Rule]:
    """From the files of transformers, which have a tensor for each expert."""
    prefix = _prefix(facts)
    layers = f"{prefix}layers.{{i}}."
    if facts.settings.get("model_type") == "mixtral":
        rules = rename_rules(f"{layers}block_sparse_moe.experts.{{j}}.", f"{layers}experts.{{j}}.", {
            f"{old}.weight": f"{new}.weight" for old, new in META_MLP.items()
        })  # fmt: skip
        rules.append(Rename(f"{layers}block_sparse_moe.gate.weight", f"{layers}router.weight"))
    else:
        rules = rename_rules(f"{layers}mlp.experts.{{j}}.", f"{layers}experts.{{j}}.", {
            f"{name}_proj.weight": f"{name}.weight" for name in _SHARED
        })  # fmt: skip
        rules += _qwen_rules(layers)
    return [*rules, *_to_plain(facts, prefix)]


def experts_of_modules(facts: ModelFacts) -> list[Rule]:
    """From the modules of transformers 5, whose experts are stacked, with gates and ups fused."""
    prefix = _prefix(facts)
    layers = f"{prefix}layers.{{i}}."
    inner = facts.number("moe_intermediate_size", "intermediate_size")
    gate_up = tuple(f"{layers}experts.{{j}}.{name}.weight" for name in ("gate", "up"))
    stack: list[Rule] = [
        Fuse(gate_up, f"{layers}experts.{{j}}.gate_up.weight", (inner, inner)),
        Stack(f"{layers}experts.{{j}}.gate_up.weight", f"{layers}mlp.experts.gate_up_proj"),
        Stack(f"{layers}experts.{{j}}.down.weight", f"{layers}mlp.experts.down_proj"),
    ]
    rules = [rule.inverse() for rule in reversed(stack)]
    return [*rules, *_qwen_rules(layers), *_to_plain(facts, prefix)]


def experts_of_meta(facts: ModelFacts) -> list[Rule]:
    """From the names of Meta's and Mistral's files."""
    rules = llama_of_meta(facts)
    names = {f"{old}.weight": f"{new}.weight" for old, new in META_MLP.items()}
    rules += rename_rules("layers.{i}.feed_forward.experts.{j}.", "layers.{i}.experts.{j}.", names)
    rules.append(Rename("layers.{i}.feed_forward.gate.weight", "layers.{i}.router.weight"))
    if facts.settings.get("model_type") == "qwen2_moe":
        shared = {f"{old}.weight": f"{new}.weight" for old, new in META_MLP.items()}
        rules += rename_rules("layers.{i}.feed_forward.shared_expert.", "layers.{i}.shared_expert.", shared)
        rules.append(Rename("layers.{i}.feed_forward.shared_expert_gate.weight", "layers.{i}.shared_gate.weight"))
    return rules


def _prefix(facts: ModelFacts) -> str:
    assert is_sparse(facts)
    return "model." if facts.has("model.") else ""


def _qwen_rules(layers: str) -> list[Rule]:
    """Rules for the router, and for the expert that all tokens go to, which Qwen 2 has."""
    rules = [Rename(f"{layers}mlp.gate.weight", f"{layers}router.weight")]
    shared = {f"{name}_proj.weight": f"{name}.weight" for name in _SHARED}
    more = rename_rules(f"{layers}mlp.shared_expert.", f"{layers}shared_expert.", shared, optional=True)
    gate = Rename(f"{layers}mlp.shared_expert_gate.weight", f"{layers}shared_gate.weight", optional=True)
    return [*rules, *more, gate]


def _to_plain(facts: ModelFacts, prefix: str) -> list[Rule]:
    moved: list[Rule] = []
    if prefix:
        for name in ("experts", "router", "shared_expert", "shared_gate"):
            source, target = f"model.layers.{{i}}.{name}.{{rest**}}", f"layers.{{i}}.{name}.{{rest**}}"
            moved.append(Rename(source, target, optional=name.startswith("shared")))
    return [*moved, *llama_of_transformers(facts)]
