"""Pairs of layouts of one model by several libraries: how many tensors match proposes right, and that none is wrong
and certain."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from funcnet.checkpoint import Spec, from_toml, match
from funcnet.checkpoint._index_maps import compute_index_map, identity_map
from funcnet.checkpoint._nodes import SourceNode, cat_nodes, iter_leaves, narrow_node, permute_node, reshape_node
from funcnet.checkpoint._proof import apply_rules
from funcnet.checkpoint.rules import State
from funcnet.checkpoint.rules._patterns import Pattern
from tests.checkpoint import name_layouts as a
from tests.checkpoint import name_layouts_more as b
from tests.checkpoint.name_layouts import Row

PARTS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}


class Count(NamedTuple):
    """Tensors of a target by how they were proposed; certain: those that are wrong and called certain."""

    right: int
    wrong: int
    missing: int
    certain: int
    details: tuple[str, ...] = ()


def expected_node(row: Row, sources: dict[str, Row]):
    """How a target has to be made of the sources; None if there is no source for it."""

    def node_of(source: Row, is_turned: bool):
        node = SourceNode(Spec(source.shape, torch.float32), source.name)
        if source.role.endswith("bias"):
            node = reshape_node(node, (math.prod(source.shape),))
        return turn(node, source.is_turned, is_turned)

    if row.role in sources:
        return reshape_node(node_of(sources[row.role], row.is_turned), row.shape)
    for fused, parts in PARTS.items():
        roles = [row.role.replace(f".{fused}.", f".{part}.") for part in parts]
        if f".{fused}." in row.role and all(role in sources for role in roles):
            rows = [node_of(sources[role], False) for role in roles]
            return turn(cat_nodes(rows, 0), False, row.is_turned)
        for number, part in enumerate(parts):
            whole = row.role.replace(f".{part}.", f".{fused}.")
            if f".{part}." in row.role and whole in sources:
                node = node_of(sources[whole], False)
                length = math.prod(row.shape[1:] if row.is_turned else row.shape[: 1 if node.shape[1:] else None])
                start = 0 if number == 0 else node.shape[0] - (len(parts) - number) * length  # k and v have one size
                return reshape_node(turn(narrow_node(node, 0, start, length), False, row.is_turned), row.shape)
    return None


def turn(node, is_turned: bool, should_be: bool):
    """A tensor with the axes of torch, or with those of Flax."""
    if is_turned == should_be or len(node.shape) < 2:
        return node
    if len(node.shape) == 3 and is_turned and node.shape[0] == 1:
        node = reshape_node(node, node.shape[1:])  # GPT-2 of TensorFlow has matrices as convolutions of one step
    if len(node.shape) == 3 and is_turned and node.shape[-1] * node.shape[0] * node.shape[1] == a.D * a.D:
        node = reshape_node(node, (a.D, a.D))  # heads of Flax
    rank = len(node.shape)
    if rank == 2:
        return permute_node(node, (1, 0))
    return permute_node(node, (rank - 1, rank - 2, *range(rank - 2)) if is_turned else (*range(2, rank), 1, 0))


def count_pair(source: list[Row], target: list[Row]) -> Count:
    """Run match, agree to every guess, and compare each tensor of the target with what it should be."""
    result = match({row.name: row.shape for row in source}, {row.name: row.shape for row in target})
    rules = from_toml(result.to_toml().replace("guess = true\n", ""))
    specs = {row.name: Spec(row.shape, torch.float32) for row in source}
    tensors = apply_rules(State.from_specs(specs, {}), rules).tensors
    offsets, total = {}, 0
    for row in source:
        offsets[row.name] = total
        total += math.prod(row.shape)

    def index(node):
        return compute_index_map(
            node, lambda leaf: identity_map(leaf.shape, offsets[leaf.name]) if isinstance(leaf, SourceNode) else None
        )

    guessed = {name for proposal in result.proposals if not proposal.certain for name in targets_of(proposal, target)}
    sources = {row.role: row for row in source}
    right = wrong = missing = certain = 0
    details = []
    for row in target:
        node, expected = tensors.get(row.name), expected_node(row, sources)
        has_source = node is not None and any(isinstance(leaf, SourceNode) for leaf in iter_leaves(node))
        if expected is None and not has_source:
            continue
        if not has_source:
            missing += 1
            details.append(f"missing {row.name}")
        elif expected is not None and node.shape == row.shape and index(node).equals(index(expected)):
            right += 1
        else:
            wrong += 1
            is_certain = row.name not in guessed
            certain += is_certain
            leaves = ", ".join(leaf.name for leaf in iter_leaves(node))
            details.append(f"{'CERTAIN ' * is_certain}wrong {row.name} from {leaves}")
    return Count(right, wrong, missing, certain, tuple(details))


def targets_of(proposal, target):
    """The target tensors that a proposal makes, by its patterns."""
    patterns = [Pattern(text) for text in proposal.targets]
    return [row.name for row in target if any(pattern.match(row.name) is not None for pattern in patterns)]


def with_prefix(rows, prefix):
    return [row._replace(name=f"{prefix}{row.name}") for row in rows]


def other_network(rows, prefix):
    """The same network a second time, whose tensors nothing in the target comes from."""
    return [row._replace(name=f"{prefix}{row.name}", role=f"other.{row.role}") for row in rows]


PAIRS = {
    "resnet18 torchvision transformers": (a.resnet_torchvision, a.resnet_transformers),
    "resnet50 torchvision transformers": (
        lambda: a.resnet_torchvision(False, 2),
        lambda: a.resnet_transformers(False, 2),
    ),
    "resnet18 flax torchvision": (a.resnet_flax, a.resnet_torchvision),
    "resnet50 flax torchvision": (lambda: a.resnet_flax(False, 2), lambda: a.resnet_torchvision(False, 2)),
    "vit timm transformers": (a.vit_timm, a.vit_transformers),
    "vit timm torchvision": (a.vit_timm, a.vit_torchvision),
    "vit torchvision transformers": (a.vit_torchvision, a.vit_transformers),
    "vit jax timm": (a.vit_jax, a.vit_timm),
    "vit jax transformers": (a.vit_jax, a.vit_transformers),
    "gpt2 transformers nanogpt": (lambda: a.gpt2("transformers"), lambda: a.gpt2("nanogpt")),
    "gpt2 tf transformers": (lambda: a.gpt2("tf"), lambda: a.gpt2("transformers")),
    "gpt2 tf nanogpt": (lambda: a.gpt2("tf"), lambda: a.gpt2("nanogpt")),
    "bert tf transformers": (lambda: a.bert("tf"), a.bert),
    "bert flax transformers": (lambda: a.bert("flax"), a.bert),
    "bert gamma transformers": (lambda: a.bert(old_norms=True), a.bert),
    "bert roberta": (a.bert, lambda: a.bert(root="roberta")),
    "distilbert bert": (a.distilbert, a.bert),
    "bert torch.nn": (a.bert, a.bert_torch_encoder),
    "distilbert torch.nn": (a.distilbert, a.bert_torch_encoder),
    "llama transformers meta": (lambda: a.llama("hf"), lambda: a.llama("meta")),
    "llama flax transformers": (lambda: a.llama("flax"), lambda: a.llama("hf")),
    "llama phi3": (lambda: a.llama("hf"), a.phi3),
    "llama meta phi3": (lambda: a.llama("meta"), a.phi3),
    "llama meta phi3, no groups": (lambda: a.llama("meta", kv=a.D), lambda: a.phi3(kv=a.D)),
    "mixtral meta transformers": (lambda: a.mixtral("meta"), lambda: a.mixtral("hf")),
    "t5 flax transformers": (lambda: b.t5("flax"), b.t5),
    "t5x transformers": (b.t5x, b.t5),
    "clip openai transformers": (b.clip_openai, b.clip_transformers),
    "clip openai transformers, one width": (lambda: b.clip_openai(text=a.D), lambda: b.clip_transformers(text=a.D)),
    "whisper openai transformers": (lambda: b.whisper("openai"), lambda: b.whisper("hf")),
    "detr original transformers": (lambda: b.detr("original"), lambda: b.detr("hf")),
    "wav2vec2 fairseq transformers": (lambda: b.wav2vec2("fairseq"), lambda: b.wav2vec2("hf")),
    "convnext timm transformers": (lambda: b.convnext("timm"), lambda: b.convnext("hf")),
    "convnext torchvision timm": (lambda: b.convnext("torchvision"), lambda: b.convnext("timm")),
    "convnext torchvision transformers": (lambda: b.convnext("torchvision"), lambda: b.convnext("hf")),
    "mobilenet timm torchvision": (lambda: b.mobilenet_v2("timm"), lambda: b.mobilenet_v2("torchvision")),
    "efficientnet timm transformers": (lambda: b.efficientnet("timm"), lambda: b.efficientnet("hf")),
    "cnn flax torch": (lambda: b.cnn("flax"), lambda: b.cnn("torch")),
    "cnn keras torch": (lambda: b.cnn("tf"), lambda: b.cnn("torch")),
    "vae compvis diffusers": (lambda: b.vae_encoder("compvis"), lambda: b.vae_encoder("diffusers")),
}
NETWORKS = {
    "ddp": lambda rows: with_prefix(rows, "module."),
    "lightning": lambda rows: [*with_prefix(rows, "model."), Row("x", "loss.weight", (10,))],
    "moco": lambda rows: [
        *with_prefix(rows, "module.encoder_q."), *other_network(rows, "module.encoder_k."), Row("x", "queue", (128, 99))
    ],
    "ema after": lambda rows: [*with_prefix(rows, "model."), *other_network(rows, "ema_model.")],
    "ema before": lambda rows: [*other_network(rows, "ema_model."), *with_prefix(rows, "model.")],
    "teacher": lambda rows: [*other_network(rows, "teacher.backbone."), *with_prefix(rows, "student.backbone.")],
    "compiled": lambda rows: with_prefix(rows, "module._orig_mod."),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_every_tensor_finds_its_place(name):
    source, target = (make() for make in PAIRS[name])
    for count in (count_pair(source, target), count_pair(target, source)):
        assert count.certain == 0, count
        assert (count.wrong, count.missing) == (0, 0), count


@pytest.mark.parametrize("wrap", NETWORKS)
@pytest.mark.parametrize("target", [a.resnet_torchvision, a.resnet_transformers], ids=["same names", "other names"])
def test_one_network_is_taken_of_a_file_with_more(wrap, target):
    count = count_pair(NETWORKS[wrap](a.resnet_torchvision()), target())
    assert (count.wrong, count.missing, count.certain) == (0, 0, 0), count
