"""Each rule: what it does, its inverse, and what it refuses, with the names at fault."""

from __future__ import annotations

import re

import pytest
import torch

from funcnet.checkpoint import (
    Cast,
    CheckpointError,
    Drop,
    Fill,
    Fuse,
    Interleave,
    Permute,
    Prefix,
    Rename,
    Reshape,
    RuleError,
    Spec,
    Split,
    Stack,
    Tie,
    Transpose,
    Unstack,
    Untie,
    convert,
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
    return {name.replace("__", "."): Spec(tuple(shape), torch.float32) for name, shape in shapes.items()}


def convert_tree(tmp_path, tree, rules, aliases=None):
    """The tree that rules make of a tree, after the way back has been checked."""
    save(tmp_path / "a.safetensors", tree, aliases=aliases)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", rules)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", rules, inverse=True)
    source, restored = load(tmp_path / "a.safetensors"), load(tmp_path / "c.safetensors")
    assert {name: bits_by_name(restored)[name] for name in source} == bits_by_name(source)
    assert restored.aliases == source.aliases
    target = load(tmp_path / "b.safetensors")
    return {name: target[name] for name in target}


def test_grouped_query_attention_fused_and_split(tmp_path):
    q, k, v = torch.randn(8, 4), torch.randn(2, 4), torch.randn(2, 4)
    rules = [Fuse([f"l.{{i}}.{x}" for x in "qkv"], "l.{i}.qkv", [8, 2, 2])]
    converted = convert_tree(tmp_path, {"l": {"0": {"q": q, "k": k, "v": v}}}, rules)
    assert_identical(converted["l.0.qkv"], torch.cat([q, k, v]))
    rules = [
        Fuse(["q", "k", "v"], "qkv", [8, 2, 2]),
        Reshape("qkv", ["heads*dim", "in"], ["heads", "dim", "in"], {"dim": 2}),
    ]
    assert_identical(convert_tree(tmp_path, {"q": q, "k": k, "v": v}, rules)["qkv"], torch.cat([q, k, v]).view(6, 2, 4))


def test_rotary_halves_interleaved(tmp_path):
    w = torch.arange(16.0).view(16, 1)  # two heads of eight: x0 x1 x2 x3 y0 y1 y2 y3
    converted = convert_tree(tmp_path, {"q": w}, [Interleave("q", size=8)])
    assert converted["q"].flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_layers_stacked_in_the_order_of_their_numbers(tmp_path):
    tree = {"l": {str(i): {"w": torch.full((2, 3), float(i)), "b": torch.full((2,), float(i))} for i in range(11)}}
    converted = convert_tree(tmp_path, tree, [Stack("l.{i}.{x}", "l.{x}"), Transpose("l.w", (1, 2))])
    assert converted["l.w"][:, 0, 0].tolist() == list(map(float, range(11)))
    assert converted["l.w"].shape == (11, 3, 2)
    converted = convert_tree(tmp_path, tree, [Stack("l.{i}.b", "b", dim=-1)])
    assert_identical(converted["b"], torch.arange(11.0).expand(2, 11).contiguous())


def test_conv_kernels_from_jax(tmp_path):
    kernel = torch.randn(3, 5, 2, 4)  # H W I O
    rules = [Rename("{m**}.kernel", "{m**}.weight"), Permute("{m**}.weight", (3, 2, 0, 1))]
    assert_identical(
        convert_tree(tmp_path, {"conv": {"kernel": kernel}}, rules)["conv.weight"],
        kernel.permute(3, 2, 0, 1).contiguous(),
    )


def test_ties_made_and_undone(tmp_path):
    w = torch.randn(3, 2)
    converted = convert_tree(tmp_path, {"embed": w, "head": w.clone()}, [Tie("head", "embed"), Transpose("embed")])
    assert_identical(converted["head"], w.t().contiguous())
    assert load(tmp_path / "b.safetensors").aliases == {"head": "embed"}
    convert_tree(tmp_path, {"embed": w}, [Untie("head", "embed")], aliases={"head": "embed"})
    assert load(tmp_path / "b.safetensors").aliases == {}
    convert_tree(tmp_path, {"embed": w}, [Tie("head", "embed", stored=False), Prefix(add="m.")])
    assert load(tmp_path / "b.safetensors").aliases == {"m.head": "m.embed"}


def test_a_tie_of_tensors_that_differ_is_refused_when_the_bytes_are_seen(tmp_path):
    save(tmp_path / "a.pt", {"embed": torch.zeros(3), "head": -torch.zeros(3)})
    with pytest.raises(CheckpointError, match="'head' and 'embed', which are tied, are equal: the bytes differ"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", [Tie("head", "embed")])
    assert not (tmp_path / "b.pt").exists()


def test_a_mask_dropped_and_filled_in_again(tmp_path):
    tree = {"h": {str(i): {"mask": torch.ones(1, 4, 4, dtype=torch.bool).tril(), "w": torch.ones(2)} for i in range(2)}}
    tree["ids"] = torch.arange(5).view(1, 5)
    rules = [
        Drop("h.{i}.mask", "tril", [1, 4, 4], "bool", beside="h.{i}.w"),
        Drop("ids", "arange", [1, 5], "int64"),
        Fill("scale", 2.5, [2], "float16"),
    ]
    converted = convert_tree(tmp_path, tree, rules)
    assert list(converted) == ["h.0.w", "h.1.w", "scale"]
    assert_identical(converted["scale"], torch.full((2,), 2.5, dtype=torch.float16))
    tree["h"]["1"]["mask"][0, 0, 3] = True
    save(tmp_path / "a.safetensors", tree)
    with pytest.raises(CheckpointError, match=r"'h\.1\.mask', which is dropped, holds tril: the bytes differ"):
        convert(tmp_path / "a.safetensors", tmp_path / "new.pt", rules)


def test_a_loss_that_is_declared(tmp_path):
    save(tmp_path / "a.pt", {"w": torch.tensor([1.0, 1 / 3]), "junk": torch.ones(2)})
    rules = [Drop("junk"), Cast("w", "float32", "bfloat16", lossy=True)]
    record = convert(tmp_path / "a.pt", tmp_path / "b.pt", rules)
    assert record.plan.proof.lost == ("junk",)
    assert record.plan.proof.rounded == ("w",)
    assert not record.plan.proof.bijection
    convert(tmp_path / "b.pt", tmp_path / "c.pt", rules, inverse=True)
    assert load(tmp_path / "c.pt")["w"].dtype is torch.float32


def test_casts_that_lose_nothing_go_through_and_others_do_not(tmp_path):
    save(tmp_path / "a.pt", {"w": torch.tensor([1.0, 0.5, float("inf"), -0.0])})
    convert(tmp_path / "a.pt", tmp_path / "b.pt", [Cast("w", "float32", "float16")])
    save(tmp_path / "a.pt", {"w": torch.tensor([1.0, 1 / 3])})
    with pytest.raises(CheckpointError, match=r"values of torch\.float32 that torch\.float16 cannot hold"):
        convert(tmp_path / "a.pt", tmp_path / "c.pt", [Cast("w", "float32", "float16")])
    assert not (tmp_path / "c.pt").exists()


BAD = {
    "two names become one": (
        specs(a__x=[2], b__x=[2]),
        [Rename("{m}.x", "{m}"), Rename("a", "b")],
        r"rule 2, rename\(source='a', target='b'\): several tensors would get one name:\n  'b' from 'a', 'b'",
    ),
    "a prefix that not all had": (
        specs(module__a=[2], b=[2]),
        [Prefix(remove="module.")],
        r"'b' does not come back.*\n.*'module\.b' comes back, and was not there",
    ),
    "a rename that catches what was there": (
        specs(a__w=[2], b__w=[2]),
        [Rename("a.{x}", "b.{x}2")],
        None,
    ),
    "names that were there already": (
        specs(old__w=[2], new__b=[2]),
        [Rename("old.{x}", "new.{x}")],
        r"'new\.b' does not come back",
    ),
    "an ambiguous pattern": (
        specs(a__b__c__d=[2]),
        [Rename("{x}.{y**}.d", "{y**}.{x}x")],
        None,
    ),
    "a pattern that cannot come back": (
        specs(aa__bb=[2], c=[2]),
        [Rename("{x}.{y}", "{x}{y}")],
        r"does not tell how to come back from these names:\n  'aa\.bb' -> 'aabb'",
    ),
    "a hole for many keys that comes back as one": (
        specs(a__b__kernel=[2]),
        [Rename("{layer**}.kernel", "{layer}.weight")],
        r"'a\.b\.kernel' -> 'a\.b\.weight'\n  A hole stands for one key: write \{layer\*\*\} on both sides\.$",
    ),
    "no such tensor": (
        specs(fc__weight=[2]),
        [Transpose("fc.wieght")],
        r"no tensor is named 'fc\.wieght'\. The nearest names are 'fc\.weight'",
    ),
    "sizes that do not add up": (
        specs(a__qkv=[9, 2], b__qkv=[8, 2]),
        [Split("{m}.qkv", ["{m}.q", "{m}.k"], [4, 4])],
        r"'a\.qkv': has the shape \[9, 2\], and 4 \+ 4 is 8, not 9",
    ),
    "pieces of other sizes": (
        specs(q=[4, 2], k=[4, 2]),
        [Fuse(["q", "k"], "qk", [6, 2])],
        r"'q', 'k': expected torch\.float32 \[6, 2\], torch\.float32 \[2, 2\], got torch\.float32 \[4, 2\]",
    ),
    "a piece that is missing": (
        specs(a__q=[4], a__k=[4], b__q=[4]),
        [Fuse(["{m}.q", "{m}.k"], "{m}.qk", [4, 4])],
        r"'b\.qk' lacks 'b\.k'",
    ),
    "layers with a gap": (
        specs(l__0__w=[4], l__2__w=[4]),
        [Stack("l.{i}.w", "w")],
        r"'w': the numbers are 0, 2, expected 0 to 1",
    ),
    "layers counted oddly": (
        specs(l__00__w=[4], l__01__w=[4]),
        [Stack("l.{i}.w", "w")],
        r"'w': the numbers are 00, 01, expected 0 to 1",
    ),
    "layers that are not alike": (
        specs(l__0__w=[4], l__1__w=[5]),
        [Stack("l.{i}.w", "w")],
        r"'w': its layers are not alike: torch\.float32 \[4\], torch\.float32 \[5\]",
    ),
    "a name that is there": (
        specs(q=[4], k=[4], qk=[8]),
        [Fuse(["q", "k"], "qk", [4, 4])],
        r"these names would be there twice:\n  'qk'",
    ),
    "an axis that is not there": (specs(w=[4]), [Transpose("w")], r"'w': has the shape \[4\], and no axis 1"),
    "a shape that does not fit": (
        specs(w=[6, 2]),
        [Reshape("w", ["h*d", "i"], ["h", "d", "i"], {"h": 4})],
        r"'w': has the shape \[6, 2\], expected \['h\*d', 'i'\] with \{'h': 4\}",
    ),
    "a shape that leaves sizes open": (
        specs(w=[6, 2]),
        [Reshape("w", ["h*d", "i"], ["h", "d", "i"])],
        r"leaves more than one size open",
    ),
    "a reshape that cannot come back": (
        specs(w=[6, 2]),
        [Reshape("w", ["a", "b"], ["a*b"])],
        r"the rules do not lead back.*leaves more than one size open",
    ),
    "runs that do not fit": (specs(w=[6]), [Interleave("w", 4)], r"axis 0 is not made of runs of 4"),
    "a fill that is there": (specs(w=[6]), [Fill("w", 0, [1])], r"there already and cannot be filled in:\n  'w'"),
    "a mask of another shape": (specs(m=[3, 3]), [Drop("m", "tril", [2, 2])], r"these are dropped as Spec"),
}


@pytest.mark.parametrize("what", BAD)
def test_plans_that_are_no_bijection_name_what_is_at_fault(what):
    given, rules, match = BAD[what]
    if match is None:
        assert plan(given, rules).proof.bijection
        return
    with pytest.raises(RuleError) as caught:
        plan(given, rules)
    assert re.search(match, str(caught.value), re.DOTALL), str(caught.value)


TIED = {
    "fusing": (Fuse(["a", "b"], "ab", [4, 4]), "neither joined, parted nor dropped:\n  'c' is tied to 'a'"),
    "dropping": (Drop("a"), "neither joined, parted nor dropped:\n  'c' is tied to 'a'"),
    "naming the alias": (
        Reshape("c", ["n"], [1, "n"]),
        "means ties and not the tensors they are tied to:\n  'c'",
    ),
    "tying again": (Tie("c", "b"), "'c' is a tie already, to 'a'"),
    "tying what is stored": (Tie("b", "a", stored=False), "'b' is stored; tie it with stored = true"),
    "untying what is no tie": (Untie("b", "a"), "no tensor is named 'b'"),
}


@pytest.mark.parametrize("what", TIED)
def test_ties_are_not_lost_on_the_way(what):
    rule, match = TIED[what]
    with pytest.raises(RuleError) as caught:
        plan(specs(a=[4], b=[4]), [rule], {"c": "a"})
    assert match in str(caught.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Rename("a.{i}", "b.{j}"), "all patterns of a rule need the same holes"),
        (lambda: Rename("a.{i", "b"), "has braces that are no hole"),
        (lambda: Permute("w", (0, 2)), "is no order of 2 axes"),
        (lambda: Transpose("w", (0, 1, 2)), "swaps two axes"),
        (lambda: Split("w", ["a"], [3]), "needs two or more of each"),
        (lambda: Split("w", ["a", "b"], [3, 0]), "are no sizes of parts"),
        (lambda: Stack("l.w", "w"), "and one more, the number of the layer"),
        (lambda: Interleave("w", 6, 4), "cannot be 4 parts of one length"),
        (lambda: Cast("w", "float32", "int32"), "numbers of different kinds"),
        (lambda: Cast("w", "float32", "float31"), "is not a dtype of checkpoints"),
        (lambda: Fill("w.{i}", 0, [2]), "has holes: say beside"),
        (lambda: Fill("w", "tril", [2]), "needs more axes"),
        (lambda: Fill("w", "triu", [2, 2]), "is no value"),
        (lambda: Fill("w", 300, [2], "int8"), "int8 cannot hold 300"),
        (lambda: Fill("w", 1.5, [2], "int64"), "int64 cannot hold 1.5"),
        (lambda: Fill("w", float("nan"), [2], "int64"), "int64 cannot hold nan"),
        (lambda: Fill("w", 2**63, [2], "int64"), "int64 cannot hold 9223372036854775808"),
        (lambda: Fill("w", 10**400, [2], "float64"), "float64 cannot hold 1000"),
        (lambda: Fill("w", 1e9, [2], "float16"), "float16 cannot hold 1000000000.0"),
        (lambda: Fill("w", float("inf"), [2], "float8_e4m3fn"), "float8_e4m3fn cannot hold inf"),
        (lambda: Fill("w", 0, [2], "float8_e8m0fnu"), "float8_e8m0fnu cannot hold 0"),
        (lambda: Drop("w", "arange", [300], "int8"), "int8 cannot hold 'arange'"),
        (lambda: Drop("w", "arange", [4096], "float16"), "float16 cannot hold 'arange'"),
        (lambda: Fill("w", 0, [1 << 40]), "are the most a value may fill"),
        (lambda: Fill("w", 0, [1 << 60], "float64"), "is larger than any memory"),
        (lambda: Reshape("w", ["a+b"], ["a"]), "is no axis"),
    ],
)
def test_rules_that_make_no_sense_are_refused_when_they_are_made(make, match):
    with pytest.raises(RuleError, match=re.escape(match)):
        make()


EVERY = (
    Rename("a.{i}", "b.{i}", optional=True),
    Prefix("x.", "y."),
    Transpose("a", (-1, 0)),
    Permute("a", (2, 0, 1)),
    Reshape("a", ["h*d", 4], ["h", "d", 4], {"h": 2}),
    Split("a", ["b", "c"], [1, 2], dim=-1),
    Fuse(["b", "c"], "a", [1, 2]),
    Interleave("a", 8, 4, 1),
    Stack("a.{i}", "a", 1),
    Unstack("a", "a.{i}"),
    Tie("a", "b", stored=False),
    Untie("a", "b", optional=True),
    Cast("a", "float32", "float16", lossy=True),
    Drop("a.{i}", 1.5, [2], "float64", beside="b.{i}"),
    Drop("a", float("inf"), [1]),
    Drop('quo"te\n', "tril", [2, 2]),
    Fill("a", 0, []),
)


def test_rules_are_written_to_toml_and_read_again():
    assert from_toml(to_toml(EVERY)) == EVERY
    assert inverse(inverse(EVERY)) == EVERY
    assert {type(rule) for rule in EVERY} == {type(rule.inverse()) for rule in EVERY}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[rule]", "the rules are not TOML"),
        pytest.param("a = " + "[" * 5000, "the rules are not TOML", id="deep"),
        pytest.param("a = " + "9" * 5000, "the rules are not TOML", id="a long number"),
        pytest.param(
            f'[[rule]]\nop = "reshape"\nnames = "w"\nbefore = ["{"9" * 5000}"]\nafter = ["a"]',
            "rule 1: Exceeds the limit",
            id="a long axis",
        ),
        ('[[rule]]\nop = ["rename"]', 'rule 1: op = ["rename"] is none of'),
        ("[[rule]]\nop = 2020-01-01", 'rule 1: op = "2020-01-01" is none of'),
        ("a = 1", "rules are tables [[rule]], and not 'a'"),
        ("rule = 1", "and not 'rule'"),
        ('[[rule]]\nop = "renam"', 'rule 1: op = "renam" is none of rename, prefix'),
        (
            '[[rule]]\nop = "rename"\nfrom = "a"',
            "rename has no from; rename needs source, target. Its",
        ),
        ('[[rule]]\nop = "transpose"\nnames = 3', "transpose does not take names = 3"),
        ('[[rule]]\nop = "transpose"\nnames = "w"\ndims = ["a"]', "transpose does not take dims = ['a']"),
        ('[[rule]]\nop = "tie"\nalias = "a"\nowner = "b"\nstored = 1', "tie does not take stored = 1"),
        ('[[rule]]\nop = "permute"\nnames = "w"\ndims = [1]\n[[rule]]\nop = "x"', "rule 1: [1] is no order"),
    ],
)
def test_toml_that_is_no_rules(text, match):
    with pytest.raises(RuleError) as caught:
        from_toml(text)
    assert match in str(caught.value)


def test_rules_in_a_file_of_some_editor_and_in_one_that_is_no_text(tmp_path):
    save(tmp_path / "a.pt", {"w": torch.ones(2)})
    rules = tmp_path / "r.toml"
    rules.write_bytes(b'\xef\xbb\xbf[[rule]]\r\nop = "rename"\r\nsource = "w"\r\ntarget = "v"\r\n')
    convert(tmp_path / "a.pt", tmp_path / "b.pt", rules)
    assert list(load(tmp_path / "b.pt")) == ["v"]
    rules.write_bytes(b"\xff\xfe[")
    with pytest.raises(RuleError, match=r"r\.toml' are no text in UTF-8"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt", rules)


def test_a_filled_number_has_every_digit(tmp_path):
    save(tmp_path / "a.pt", {"w": torch.ones(2)})
    rules = [Fill("x", 2**53 + 1, [2], "int64"), Fill("y", 2**64 - 1, [], "uint64"), Fill("z", 0.1, [1], "bfloat16")]
    convert(tmp_path / "a.pt", tmp_path / "b.pt", rules)
    converted = load(tmp_path / "b.pt")
    assert converted["x"].tolist() == [2**53 + 1] * 2
    assert converted["y"].item() == 2**64 - 1
    assert_identical(converted["z"], torch.tensor([0.1], dtype=torch.float64).bfloat16())
