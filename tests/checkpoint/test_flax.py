"""The conventions of Flax: a model computed as Flax does, from arrays as Flax has them, is the same in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet.checkpoint import RuleError, Spec, convert, flax_rules, from_toml, load, plan, save, to_toml
from tests.checkpoint.trees import bits_by_name


def flax_tree():
    """Collections of a Flax model: an embedding, a convolution over (N, H, W, C), BatchNorm, and dense layers."""
    torch.manual_seed(0)
    params = {
        "embed": {"embedding": torch.randn(7, 3)},
        "conv": {"kernel": torch.randn(3, 2, 3, 4), "bias": torch.randn(4)},
        "bn": {"scale": torch.randn(4), "bias": torch.randn(4)},
        **{f"Dense_{i}": {"kernel": torch.randn(4, 4), "bias": torch.randn(4)} for i in range(2)},
        "ln": {"scale": torch.randn(4), "bias": torch.randn(4)},
        "head": {"kernel": torch.randn(4, 5)},
    }
    stats = {"bn": {"mean": torch.randn(4), "var": torch.rand(4) + 1}}
    return {"params": params, "batch_stats": stats}


def in_flax(tree, x):
    """The model over channels-last arrays, in torch's words but with Flax's axes."""
    p, stats = tree["params"], tree["batch_stats"]["bn"]
    windows = x.unfold(1, 3, 1).unfold(2, 2, 1)  # N, H, W, C, kh, kw
    x = torch.einsum("nhwcij,ijco->nhwo", windows, p["conv"]["kernel"]) + p["conv"]["bias"]
    x = (x - stats["mean"]) / torch.sqrt(stats["var"] + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"]
    x = x.mean((1, 2))
    for i in range(2):
        x = torch.relu(x @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"])
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-5)
    return (x * p["ln"]["scale"] + p["ln"]["bias"]) @ p["head"]["kernel"]


@fn.compose(
    embed=fn.Embedding(7, 3),
    conv=fn.Conv2d(3, 4, (3, 2)),
    bn=fn.BatchNorm2d(4),
    Dense_0=fn.Linear(4, 4),
    Dense_1=fn.Linear(4, 4),
    ln=fn.LayerNorm(4),
    head=fn.Linear(4, 5, bias=False),
)
def in_torch(p, x):
    x = p.bn(p.conv(x)).mean((2, 3))
    return p.head(p.ln(F.relu(p.Dense_1(F.relu(p.Dense_0(x))))))


@pytest.mark.parametrize("sign", ["/", "."])
def test_a_model_of_flax_is_the_same_in_torch_and_comes_back(sign, tmp_path):
    tree = flax_tree()
    flat = {sign.join(path.split(".")): tensor for path, tensor in fn.tree.flatten(tree).items()}
    save(tmp_path / "flax.npz", flat)
    rules = flax_rules(load(tmp_path / "flax.npz"))
    assert from_toml(to_toml(rules)) == rules
    assert convert(tmp_path / "flax.npz", tmp_path / "torch.safetensors", rules).plan.proof.bijection
    params, buffers = fn.from_state_dict(in_torch, load(tmp_path / "torch.safetensors"))
    assert torch.equal(params["embed"]["weight"], tree["params"]["embed"]["embedding"])
    x = torch.randn(2, 6, 5, 3)
    output, _ = in_torch.apply(params, buffers, x.permute(0, 3, 1, 2))
    torch.testing.assert_close(output, in_flax(tree, x), rtol=1e-4, atol=1e-5)
    convert(tmp_path / "torch.safetensors", tmp_path / "back.npz", rules, inverse=True)
    assert bits_by_name(load(tmp_path / "back.npz")) == bits_by_name(load(tmp_path / "flax.npz"))


def test_numbered_layers_are_one_rule():
    specs = {f"params/layers_{i}/fc/kernel": Spec((3, 2), torch.float32) for i in range(12)}
    assert len(flax_rules(specs)) == 2
    assert "layers_{i}.fc.weight" in to_toml(flax_rules(specs))


def test_convolutions_of_one_and_three_axes():
    specs = {"a.kernel": Spec((5, 2, 3), torch.float32), "b.kernel": Spec((5, 6, 7, 2, 3), torch.float32)}
    target_specs = plan(specs, flax_rules(specs)).specs
    assert {name: spec.shape for name, spec in target_specs.items()} == {
        "a.weight": (3, 2, 5),
        "b.weight": (3, 2, 5, 6, 7),
    }


def test_projections_by_heads_become_matrices(tmp_path):
    torch.manual_seed(0)
    tree = {
        "query": {"kernel": torch.randn(6, 2, 3), "bias": torch.randn(2, 3)},
        "out": {"kernel": torch.randn(2, 3, 6), "bias": torch.randn(6)},
    }
    save(tmp_path / "a.npz", {"params": {"attn": tree}})
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors", flax_rules(load(tmp_path / "a.npz")))
    attn = load(tmp_path / "b.safetensors").tree()["attn"]
    x = torch.randn(4, 6)
    heads = torch.einsum("ni,ihe->nhe", x, tree["query"]["kernel"]) + tree["query"]["bias"]
    q = F.linear(x, attn["query"]["weight"], attn["query"]["bias"])
    torch.testing.assert_close(q, heads.flatten(1))
    y = torch.einsum("nhe,heo->no", heads, tree["out"]["kernel"]) + tree["out"]["bias"]
    torch.testing.assert_close(F.linear(q, attn["out"]["weight"], attn["out"]["bias"]), y)


def test_transposed_convolutions_are_refused():
    with pytest.raises(RuleError, match=r"mirrored.*\n.*params/up/ConvTranspose_0/kernel"):
        flax_rules({"params/up/ConvTranspose_0/kernel": Spec((3, 3, 2, 2), torch.float32)})
