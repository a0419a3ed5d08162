"""Checkpoints of transformers in the layout of the nets here, and back: the same function, the same bytes."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn
from funcnet.checkpoint import Checkpoint, convert, load, save
from tests.checkpoint.trees import bits_by_name
from tests.helpers import assert_identical
from tests.models.published import FORMS, IDS, PADDED, PUBLISHED

pytest.importorskip("transformers")
ROWS = [pytest.param(model, id=model.name) for model in PUBLISHED]
FORM = pytest.mark.parametrize(("fused_qkv", "stacked"), FORMS, ids=[
    f"{'fused' if fused else 'split'}-{'stacked' if stacked else 'separate'}" for fused, stacked in FORMS])  # fmt: skip


def tensors(output):
    """What a model of transformers gives, as what a net gives."""
    if "logits" in output:
        return output.logits
    return output.last_hidden_state if output.get("pooler_output") is None else tuple(output.to_tuple()[:2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each model saved once by transformers."""
    saved_models = {}

    def save_once(published):
        if published.name not in saved_models:
            folder = tmp_path_factory.mktemp("published")
            module = published.module()
            module.save_pretrained(folder)
            saved_models[published.name] = (module, folder)
        return saved_models[published.name]

    return save_once


@pytest.mark.parametrize("published", ROWS)
@FORM
def test_the_net_is_the_same_function(published, fused_qkv, stacked, saved, tmp_path):
    module, folder = saved(published)
    form = {"fused_qkv": fused_qkv, "stacked": stacked}
    rules = fn.models.rules(folder, **form, source=load(folder))
    done = convert(folder, tmp_path / "plain.safetensors", rules)
    assert done.plan.proof.bijection
    net = fn.models.from_config(folder, **form)
    params, _ = fn.from_state_dict(net, load(tmp_path / "plain.safetensors"))
    for ids, mask in ((IDS, None), (IDS, PADDED), (IDS[:1, :1], None)):
        output = module(
            ids, attention_mask=mask, **(cache := {} if "Bert" in published.model else {"use_cache": False})
        )
        assert_identical(net(params, ids, mask), tensors(output))
    torch.manual_seed(3)
    expected = tensors(module.train()(IDS, **cache))
    module.eval()
    assert_identical(net.apply(params, {}, IDS, train=True, rng=3)[0], expected)


@pytest.mark.parametrize("published", ROWS)
@FORM
def test_the_way_back_is_loaded_and_has_the_same_bytes(published, fused_qkv, stacked, saved, tmp_path):
    module, folder = saved(published)
    rules = fn.models.rules(folder, fused_qkv=fused_qkv, stacked=stacked, source=load(folder))
    convert(folder, tmp_path / "plain", rules, shard_size="10kB")
    module.config.save_pretrained(tmp_path / "back")
    convert(tmp_path / "plain", tmp_path / "back", rules, inverse=True)
    assert bits_by_name(load(tmp_path / "back")) == bits_by_name(load(folder))
    reloaded, loading_problems = published.load(tmp_path / "back")
    assert loading_problems == {}
    assert bits_by_name(reloaded.state_dict()) == bits_by_name(module.state_dict())
    assert_identical(tensors(reloaded(IDS)), tensors(module(IDS)))


@pytest.mark.parametrize("published", ROWS)
def test_gradients_are_the_same(published, saved, tmp_path):
    module, folder = saved(published)
    rules = fn.models.rules(folder, stacked=True, source=load(folder))
    convert(folder, tmp_path / "plain.safetensors", rules)
    net = fn.models.from_config(folder, stacked=True)
    params, _ = fn.from_state_dict(net, load(tmp_path / "plain.safetensors"))

    def loss(params):
        output = net(params, IDS)
        return (output[0] if isinstance(output, tuple) else output).sin().sum()

    _, grads = fn.value_and_grad(loss)(params)
    save(tmp_path / "grads.safetensors", grads, aliases=net.aliases)
    convert(tmp_path / "grads.safetensors", tmp_path / "back.safetensors", rules, inverse=True)
    output = tensors(module(IDS, **({} if "Bert" in published.model else {"use_cache": False})))
    (output[0] if isinstance(output, tuple) else output).sin().sum().backward()
    theirs = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    module.zero_grad()
    ours = load(tmp_path / "back.safetensors")
    assert set(theirs) <= set(ours)
    for name, grad in theirs.items():
        assert_identical(ours[name], grad)


@pytest.mark.parametrize("published", ROWS)
@pytest.mark.parametrize("format", ["pt", "npz", "twice"])
def test_heads_that_are_stored_otherwise(published, format, saved, tmp_path):
    """As a tie, as ``torch.save`` of a state_dict keeps it, or a second time."""
    module, folder = saved(published)
    state = {name: tensor.clone() if format == "twice" else tensor for name, tensor in module.state_dict().items()}
    path = tmp_path / ("state.npz" if format == "npz" else "state.pt")
    torch.save(state, path) if format != "npz" else save(path, state)
    source = load(path)
    rules = fn.models.rules(folder, stacked=True, source=source)
    convert(path, tmp_path / "plain.safetensors", rules)
    net = fn.models.from_config(folder, stacked=True)
    params, _ = fn.from_state_dict(net, load(tmp_path / "plain.safetensors"))
    assert_identical(net(params, IDS, PADDED), tensors(module(IDS, attention_mask=PADDED)))
    convert(tmp_path / "plain.safetensors", tmp_path / "back.pt", rules, inverse=True)
    assert bits_by_name(load(tmp_path / "back.pt")).keys() == bits_by_name(source).keys()
    assert all(bits_by_name(load(tmp_path / "back.pt"))[name] == raw for name, raw in bits_by_name(source).items())


def test_what_older_versions_saved_beside_weights(tmp_path):
    published = PUBLISHED[0]
    module = published.module()
    state = {name.removeprefix("transformer."): tensor for name, tensor in module.state_dict().items()}
    del state["lm_head.weight"]
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save(tmp_path / "old.safetensors", state)
    source: Checkpoint = load(tmp_path / "old.safetensors")
    rules = fn.models.rules(module.config, architecture=published.model, source=source)
    convert(source.path, tmp_path / "plain.safetensors", rules)
    params, _ = fn.from_state_dict(fn.models.from_config(module.config), load(tmp_path / "plain.safetensors"))
    assert_identical(fn.models.from_config(module.config)(params, IDS), module(IDS, use_cache=False).logits)
    convert(tmp_path / "plain.safetensors", tmp_path / "back.safetensors", rules, inverse=True)
    assert bits_by_name(load(tmp_path / "back.safetensors")) == bits_by_name(source)
