"""``funcnet match`` and ``funcnet rules``: what they print and write, and their exit codes."""

from __future__ import annotations

import json

import pytest
import torch

import funcnet as fn
from funcnet.checkpoint import from_toml, load, save
from tests.checkpoint.trees import bits_by_name
from tests.cli.test_checkpoints import run, words
from tests.models.published import IDS, PUBLISHED


def test_a_model_goes_to_the_plain_layout_and_back_by_commands_alone(tmp_path):
    pytest.importorskip("transformers")
    published = next(published for published in PUBLISHED if published.name == "Llama, grouped, tied")
    module = published.module()
    module.save_pretrained(tmp_path / "theirs")
    rules = tmp_path / "rules.toml"
    assert run("rules", tmp_path / "theirs", "--stacked", "-o", rules).exit_code == 0
    printed = run("rules", tmp_path / "theirs" / "config.json", "--stacked")
    assert printed.stdout == rules.read_text()
    assert run("convert", tmp_path / "theirs", tmp_path / "plain.safetensors", "--rules", rules).exit_code == 0
    net = fn.models.from_config(tmp_path / "theirs", stacked=True)
    params, _ = fn.from_state_dict(net, load(tmp_path / "plain.safetensors"))
    assert torch.equal(net(params, IDS), module(IDS, use_cache=False).logits)
    back = tmp_path / "back.safetensors"
    assert run("convert", tmp_path / "plain.safetensors", back, "--rules", rules, "--inverse").exit_code == 0
    assert run("diff", tmp_path / "theirs", back).exit_code == 0
    matched = run("match", tmp_path / "theirs", tmp_path / "plain.safetensors", "--json")
    assert matched.exit_code == 1
    assert json.loads(matched.stdout)["missing"] == []


def test_rules_between_layouts_by_name(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama", "num_attention_heads": 4, "hidden_size": 32}')
    listed = run("rules", "--list").stdout
    assert "gpt2: transformers, nanogpt, plain" in listed
    done = run("rules", config, "--to", "meta")
    assert from_toml(done.stdout) == fn.checkpoint.ready_rules(config, "transformers", "meta")
    done = run("rules", config, "--from", "meta", "--to", "hf")
    assert done.exit_code == 2
    assert "llama has no layout 'hf'; there are transformers, meta, plain" in done.stderr


def test_rules_of_flax(tmp_path):
    save(tmp_path / "a.npz", {"params": {"fc": {"kernel": torch.ones(3, 2)}}})
    done = run("rules", tmp_path / "a.npz", "--flax")
    assert done.exit_code == 0
    assert [type(rule).__name__ for rule in from_toml(done.stdout)] == ["Rename", "Transpose"]


def test_match_shows_a_table_and_writes_what_convert_refuses_until_it_is_reviewed(tmp_path):
    src, rules, dst = tmp_path / "a.npz", tmp_path / "rules.toml", tmp_path / "b.pt"
    save(src, {"fc": {"w": torch.ones(3, 2)}, "one": torch.ones(2), "two": torch.zeros(2), "more": torch.ones(9)})
    save(tmp_path / "like.pt", {"fc.weight": torch.ones(2, 3), "eins": torch.ones(2), "zwei": torch.ones(2)})
    done = run("match", src, tmp_path / "like.pt", "--output", rules)
    assert done.exit_code == 1
    text = words(done.stdout)
    for part in (
        "certain fc.w fc.weight the same path",
        "guess one eins by its name, shape and order",
        "left more no place in the target",
        "0 tensors have their name and shape already; 1 certain, 2 guesses.",
    ):
        assert part in text
    refused = run("convert", src, dst, "--rules", rules)
    assert refused.exit_code == 2
    assert "nobody has looked at these guesses" in refused.stderr
    assert not dst.exists()
    rules.write_text(rules.read_text().replace("guess = true\n", ""))
    assert run("convert", src, dst, "--rules", rules).exit_code == 0
    assert list(load(dst)) == ["fc.weight", "eins", "zwei", "more"]
    assert run("convert", dst, tmp_path / "c.npz", "--rules", rules, "--inverse").exit_code == 0
    assert bits_by_name(load(tmp_path / "c.npz")) == bits_by_name(load(src))


def test_match_with_a_net_or_a_module(tmp_path):
    save(tmp_path / "a.pt", {"module": torch.nn.Linear(3, 2).state_dict()})
    for target in ("funcnet:Linear(3, 2)", "torch.nn:Linear(3, 2)"):
        done = run("match", tmp_path / "a.pt", target, "--json")
        assert done.exit_code == 0
        printed = json.loads(done.stdout)
        assert printed["certain"] is True
        assert [rule for proposal in printed["proposals"] for rule in proposal["rules"]] == [
            {"op": "prefix", "remove": "module."}
        ]
    assert run("match", tmp_path / "a.pt", "torch.nn:Linear(3, 2)", "--part", "module").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["match", "nothing.pt", "funcnet:Linear(3, 2)"], "No such file"),
        (["match", "SRC", "nothing.pt"], "No such file"),
        (["match", "SRC", "torch.nn:Linear()"], "raised TypeError"),
        (["match", "SRC", "math:sqrt(4)"], "no net or nn.Module"),
        (["rules", "nothing"], "No such file"),
        (["rules", "SRC"], "is no config"),
        (["rules", "nothing.npz", "--flax"], "No such file"),
    ],
)
def test_what_cannot_be_done_exits_with_2(arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pt", {"w": torch.ones(2)})
    done = run(*("a.pt" if argument == "SRC" else argument for argument in arguments))
    assert done.exit_code == 2
    assert match in words(done.stderr)
    assert done.stdout == ""
