"""Adapters of peft merged into their base as files: the bits of peft, and out again where both are kept."""

from __future__ import annotations

import json

import pytest
import torch

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import CheckpointError, RuleError, adapter_rules, convert, load, save
from funcnet.low_rank import load_peft_adapter, peft_config, save_peft_adapter
from tests.checkpoint.trees import bits_by_name
from tests.helpers import assert_identical


class Model(torch.nn.Module):
    """An embedding, two layers and a head."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({"q": torch.nn.Linear(4, 6)}) for _ in range(2))
        self.head = torch.nn.Linear(6, 4)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = self.head(layer["q"](x))
        return x


def make_folders(tmp_path, dtype=torch.float32, dora=False):
    """A base and the folder of an adapter, as peft writes them."""
    torch.manual_seed(0)
    base = Model().to(dtype).state_dict()
    save(tmp_path / "base.safetensors", base)
    adapter = {}
    for i in range(2):
        path = f"base_model.model.layers.{i}.q"
        adapter |= {f"{path}.lora_A.weight": torch.randn(2, 4), f"{path}.lora_B.weight": torch.randn(6, 2)}
        if dora:
            adapter[f"{path}.lora_magnitude_vector"] = torch.rand(6) + 1
    adapter |= {"base_model.model.embed.lora_embedding_A": torch.randn(2, 7)}
    adapter |= {"base_model.model.embed.lora_embedding_B": torch.randn(4, 2)}
    adapter |= {"base_model.model.head.weight": torch.randn(4, 6).to(dtype)}
    folder = tmp_path / "adapter"
    folder.mkdir()
    save(folder / "adapter_model.safetensors", {name: tensor.to(dtype) for name, tensor in adapter.items()})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3}))
    return load(tmp_path / "base.safetensors"), folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_by_files(dtype, tmp_path):
    base, folder = make_folders(tmp_path, dtype)
    rules = adapter_rules(base, folder)
    paths = {"base": tmp_path / "base.safetensors", "adapter": folder}
    certificate = tmp_path / "certificate.json"
    record = convert(paths, tmp_path / "merged.safetensors", rules, certificate=certificate)
    assert not record.plan.proof.bijection
    assert record.plan.proof.computed == ("embed.weight", "layers.0.q.weight", "layers.1.q.weight")
    assert checkpoint.verify(certificate) == []
    merged, factors = load(tmp_path / "merged.safetensors"), load(folder)
    assert set(merged) == set(base)
    a, b = (factors[f"base_model.model.layers.1.q.lora_{name}.weight"] for name in "AB")
    change = ((b.float() @ a.float()) * 1.5).to(dtype)
    assert_identical(merged["layers.1.q.weight"], base["layers.1.q.weight"] + change)
    assert_identical(merged["head.weight"], factors["base_model.model.head.weight"])
    assert_identical(merged["layers.0.q.bias"], base["layers.0.q.bias"])
    assert len([rule for rule in rules if type(rule).__name__ == "MergeLora"]) == 2  # layers are one rule


@pytest.mark.parametrize("dora", [False, True])
def test_what_was_kept_comes_out_again_bit_for_bit(dora, tmp_path):
    base, folder = make_folders(tmp_path, dora=dora)
    rules = adapter_rules(base, folder, keep=True)
    sources = {"base": tmp_path / "base.safetensors", "adapter": folder}
    targets = {"merged": tmp_path / "merged.safetensors", "kept": tmp_path / "kept.safetensors"}
    convert(sources, targets, rules)
    convert(sources, tmp_path / "plain.safetensors", adapter_rules(base, folder))
    assert bits_by_name(load(targets["merged"])) == bits_by_name(load(tmp_path / "plain.safetensors"))
    back = {"base": tmp_path / "b.safetensors", "adapter": tmp_path / "a.safetensors"}
    convert(targets, back, rules, inverse=True)
    assert bits_by_name(load(back["base"])) == bits_by_name(base)
    assert bits_by_name(load(back["adapter"])) == bits_by_name(load(folder))


def test_double_precision_is_rounded_once(tmp_path):
    base, folder = make_folders(tmp_path, torch.bfloat16)
    paths = {"base": tmp_path / "base.safetensors", "adapter": folder}
    convert(paths, tmp_path / "m.safetensors", adapter_rules(base, folder, precision="float64"))
    a, b = (load(folder)[f"base_model.model.layers.0.q.lora_{name}.weight"].double() for name in "AB")
    exact = base["layers.0.q.weight"].double() + 1.5 * (b @ a)
    assert_identical(load(tmp_path / "m.safetensors")["layers.0.q.weight"], exact.bfloat16())


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_the_bits_are_those_of_peft(dora, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    module = Model()
    save(tmp_path / "base.safetensors", module.state_dict())
    targets = ["q", "head"] if dora else ["q", "embed", "head"]
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, use_dora=dora)
    theirs = peft.get_peft_model(module, config)
    for name, param in theirs.named_parameters():
        if "lora_" in name:
            param.data = torch.randn_like(param)
    theirs.save_pretrained(tmp_path / "adapter")
    rules = adapter_rules(load(tmp_path / "base.safetensors"), tmp_path / "adapter")
    paths = {"base": tmp_path / "base.safetensors", "adapter": tmp_path / "adapter"}
    convert(paths, tmp_path / "merged.safetensors", rules)
    assert_identical(dict(load(tmp_path / "merged.safetensors")), dict(theirs.merge_and_unload().state_dict()))


def test_adapters_that_do_not_fit_are_told(tmp_path):
    base, folder = make_folders(tmp_path)
    with pytest.raises(RuleError, match=r"'layers\.1\.q': there is no 'layers\.1\.q\.weight'"):
        adapter_rules({name: spec for name, spec in base.specs.items() if "layers.1" not in name}, folder)
    with pytest.raises(RuleError, match="this adapter has peft_type 'IA3'"):
        adapter_rules(base, folder, {"peft_type": "IA3"})
    with pytest.raises(RuleError, match="needs config="):
        adapter_rules(base, load(folder).specs)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="is not there, and an adapter of peft has it"):
        adapter_rules(base, folder)


def test_a_net_writes_the_folder_that_merges(tmp_path):
    plain = fn.Sequential({"body": fn.Linear(4, 6), "head": fn.Linear(6, 2)})
    params, _ = plain.init(0)
    net, adapters = fn.lora(plain, "body", rank=2, alpha=3, rng=0)
    adapters = fn.tree.map(torch.randn_like, adapters)
    assert peft_config(net, task_type="CAUSAL_LM")["task_type"] == "CAUSAL_LM"
    save_peft_adapter(tmp_path / "adapter", net, adapters)
    loaded_net, loaded = load_peft_adapter(tmp_path / "adapter", plain)
    assert loaded_net == net
    assert_identical(loaded, adapters)
    save(tmp_path / "base.safetensors", params)
    rules = adapter_rules(load(tmp_path / "base.safetensors"), tmp_path / "adapter")
    paths = {"base": tmp_path / "base.safetensors", "adapter": tmp_path / "adapter"}
    convert(paths, tmp_path / "merged.safetensors", rules)
    _, merged = fn.merge_lora(net, fn.tree.combine(params, adapters))
    assert_identical(load(tmp_path / "merged.safetensors").tree(), merged)
