"""Losses that rules declare: what is lost is listed, and everything else is proved to come back."""

from __future__ import annotations

import pytest
import torch

from funcnet import checkpoint
from funcnet.checkpoint import (
    CheckpointError,
    Cut,
    Drop,
    Grow,
    Mix,
    Rename,
    RuleError,
    Slerp,
    Spec,
    Split,
    Transpose,
    convert,
    flax_rules,
    from_toml,
    inverse,
    load,
    plan,
    save,
    to_toml,
)
from tests.checkpoint.trees import bits_by_name
from tests.helpers import assert_identical


def specs(**shapes):
    return {name: Spec(shape, torch.float32) for name, shape in shapes.items()}


def test_a_part_of_a_split_may_be_dropped():
    proved = plan(specs(w=(10, 4)), [Split("w", ["a", "b"], [8, 2]), Drop("b"), Rename("a", "w")])
    assert proved.specs == specs(w=(8, 4))
    assert proved.proof.lost == ("b",)
    assert not proved.proof.bijection


def test_beside_a_declared_loss_all_else_is_proved():
    with pytest.raises(RuleError, match=r"two|one name|twice"):
        plan(specs(a=(2,), b=(2,), c=(2,)), [Drop("c"), Rename("a", "b")])


def test_a_lossy_drop_is_filled_in_on_the_way_back():
    rules = [Drop("pad", 0.0, [2], lossy=True)]
    tree = {"w": torch.ones(2), "pad": torch.ones(2)}
    short = checkpoint.apply(rules, tree)
    assert list(short) == ["w"]
    assert_identical(checkpoint.apply(rules, short, inverse=True)["pad"], torch.zeros(2))
    assert plan(specs(w=(2,), pad=(2,)), rules).proof.lost == ("pad",)


def test_batch_norm_of_flax_may_be_trained_in_torch_and_go_back(tmp_path):
    flax = {"params/bn/scale": torch.rand(3), "batch_stats/bn/mean": torch.rand(3), "batch_stats/bn/var": torch.rand(3)}
    save(tmp_path / "flax.npz", flax)
    rules = flax_rules(load(tmp_path / "flax.npz"))
    assert convert(tmp_path / "flax.npz", tmp_path / "torch.pt", rules).plan.proof.bijection
    trained = load(tmp_path / "torch.pt").tree()
    trained["bn"]["num_batches_tracked"] = torch.tensor(7)
    save(tmp_path / "torch.pt", trained)
    certificate = tmp_path / "back.json"
    back = convert(tmp_path / "torch.pt", tmp_path / "back.npz", rules, inverse=True, certificate=certificate)
    assert back.plan.proof.lost == ("bn.num_batches_tracked",)
    assert bits_by_name(load(tmp_path / "back.npz")) == bits_by_name(load(tmp_path / "flax.npz"))
    assert checkpoint.verify(certificate) == []


def test_rows_of_a_tied_vocabulary_are_cut_and_padded():
    weight = torch.cat([torch.randn(5, 2), torch.zeros(3, 2)])
    tree = {"embed": weight, "head": weight}
    rules = [Cut("embed", 8, 5)]
    cut = checkpoint.apply(rules, tree)
    assert cut["embed"] is cut["head"]
    assert_identical(cut["embed"], weight[:5])
    assert_identical(checkpoint.apply(rules, cut, inverse=True), tree)
    with pytest.raises(CheckpointError, match=r"'embed\[5:8\]', which is cut, holds 0.0"):
        checkpoint.apply(rules, {"embed": torch.ones(8, 2)})
    proof = plan(specs(embed=(8, 2)), [Cut("embed", 8, 5, lossy=True)]).proof
    assert proof.lost == ("embed[5:8]",)


def test_new_rows_are_the_mean_or_drawn():
    weight = torch.randn(5, 4, dtype=torch.float32)
    mean = checkpoint.apply([Grow("w", 5, 7, "mean")], {"w": weight})["w"]
    assert_identical(mean[5:], weight.double().mean(0).float().expand(2, 4))
    rule = Grow("w", 5, 500, "normal", std=0.5, seed=3)
    state = torch.get_rng_state()
    drawn = checkpoint.apply([rule], {"w": weight})["w"]
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(drawn[5:].std() - 0.5) < 0.05
    assert_identical(drawn, checkpoint.apply([rule], {"w": weight})["w"])
    assert plan(specs(w=(5, 4)), [rule]).proof.computed == ("w",)
    assert_identical(checkpoint.apply([rule], {"w": drawn}, inverse=True)["w"], weight)


TWO = {"0": {"w": torch.randn(3, 2), "n": torch.tensor(4)}, "1": {"w": torch.randn(3, 2), "n": torch.tensor(9)}}
SOURCES = ["0.{n**}", "1.{n**}"]


def test_an_average_is_computed_in_double_precision():
    rules = [Mix(SOURCES, "{n**}", [0.5, 0.5])]
    mixed = checkpoint.apply(rules, TWO)
    assert_identical(mixed["w"], ((TWO["0"]["w"].double() + TWO["1"]["w"].double()) / 2).float())
    assert mixed["n"] == 4
    assert from_toml(to_toml(rules)) == tuple(rules)


def test_arithmetic_is_no_bijection_and_the_certificate_says_so(tmp_path):
    for label, tree in TWO.items():
        save(tmp_path / f"{label}.pt", tree)
    rules = [Mix(SOURCES, "{n**}", [1, -1]), Transpose("w")]
    certificate = tmp_path / "certificate.json"
    record = convert([tmp_path / "0.pt", tmp_path / "1.pt"], tmp_path / "task.pt", rules, certificate=certificate)
    assert record.plan.proof.computed == ("w",)
    assert set(record.plan.proof.lost) == {"0.w", "1.w", "0.n", "1.n"}
    assert '"computed": [\n   "w"\n  ]' in certificate.read_text()
    assert checkpoint.verify(certificate) == []
    with pytest.raises(RuleError, match="what went into arithmetic does not come out of it"):
        convert(tmp_path / "task.pt", tmp_path / "back.pt", rules, inverse=True)


def test_what_is_kept_beside_a_result_comes_back_bit_for_bit():
    rules = [Mix(SOURCES, "mean.{n**}", [0.5, 0.5], keep=True)]
    mixed = checkpoint.apply(rules, TWO)
    assert set(mixed) == {"0", "1", "mean"}
    assert_identical(checkpoint.apply(rules, mixed, inverse=True), TWO)


def test_slerp_keeps_lengths_on_the_arc():
    tree = {"0": {"w": torch.tensor([1.0, 0.0])}, "1": {"w": torch.tensor([0.0, 1.0])}}
    middle = checkpoint.apply([Slerp(SOURCES, "{n**}", 0.5)], tree)["w"]
    torch.testing.assert_close(middle, torch.full((2,), 0.5).sqrt())
    same = checkpoint.apply([Slerp(SOURCES, "{n**}", 0.3)], {"0": tree["0"], "1": {"w": tree["0"]["w"].clone()}})["w"]
    assert_identical(same, tree["0"]["w"])


def test_large_tensors_are_mixed_in_blocks(tmp_path):
    trees = [{"w": torch.randn(700, 1000)} for _ in range(2)]
    for number, tree in enumerate(trees):
        save(tmp_path / f"{number}.safetensors", tree)
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    convert(paths, tmp_path / "mean.safetensors", [Mix(SOURCES, "{n**}", [0.25, 0.75])])
    expected = (trees[0]["w"].double() * 0.25 + trees[1]["w"].double() * 0.75).float()
    assert torch.equal(load(tmp_path / "mean.safetensors")["w"], expected)


def test_sources_that_are_not_alike_are_refused():
    with pytest.raises(RuleError, match=r"'1\.b' is missing"):
        plan({**specs(**{"0.a": (2,), "1.a": (2,), "0.b": (2,)})}, [Mix(SOURCES, "{n**}", [1, 1])])
    with pytest.raises(RuleError, match=r"not alike(.|\n)*'0\.a', '1\.a'"):
        plan(specs(**{"0.a": (2,), "1.a": (3,)}), [Mix(SOURCES, "{n**}", [1, 1])])


def test_inverses_of_lossy_rules_prove_too():
    rules = [Cut("w", 5, 3, lossy=True), Mix(SOURCES, "m.{n**}", [1, 1], keep=True)]
    target = plan(specs(**{"w": (5, 2), "0.a": (2,), "1.a": (2,)}), rules)
    assert plan(target.specs, inverse(rules)).specs["w"].shape == (5, 2)
