"""Targets and inputs that are described by texts."""

import re

import pytest
import torch

from funcnet.compare import CompareError
from funcnet.compare._input_specs import DTYPES, InputSpec, make_inputs, parse_input_spec
from funcnet.compare._target import Target, build_target, parse_target

ZOO = "tests.compare.zoo"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("float32[2,3,64,64]", InputSpec(None, torch.float32, (2, 3, 64, 64))),
        ("input_ids=int64[2,12]<100", InputSpec("input_ids", torch.int64, (2, 12), 100)),
        (" mask = bool[ 2 , 3 ] ", InputSpec("mask", torch.bool, (2, 3))),
        ("f64[]", InputSpec(None, torch.float64, ())),
        ("bf16", InputSpec(None, torch.bfloat16, ())),
        ("long[0]", InputSpec(None, torch.int64, (0,))),
        ("x1=i32[5] < 7", InputSpec("x1", torch.int32, (5,), 7)),
    ],
)
def test_specs_are_read(text, spec):
    assert parse_input_spec(text) == spec
    assert parse_input_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flot32[2]", "'flot32' in the input 'flot32[2]' is not a dtype. Did you mean 'float32'?"),
        ("f32[2,a]", "the size 'a' in the input 'f32[2,a]' is not a whole number"),
        ("f32[2,]", "the size '' in"),
        ("f32[-1]", "the size '-1' in"),
        ("f32[2,3", "is not understood"),
        ("f32[2]<4", "bounds integers, and the dtype is float32"),
        ("bool[2]<2", "bounds integers, and the dtype is bool"),
        ("i64[2]<x", "the bound 'x'"),
        ("i64[2]<0", "the bound 0 in the input 'i64[2]<0' is not in 1 to"),
        ("u8[2]<256", "is not in 1 to 255, which uint8 holds"),
        ("2x=f32[2]", "is not understood"),
        ("", "is not understood"),
    ],
)
def test_texts_that_are_no_specs(text, message):
    with pytest.raises(CompareError, match=re.escape(message)):
        parse_input_spec(text)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_can_be_made(name):
    (x,), _ = make_inputs([parse_input_spec(f"{name}[40]")], seed=0)
    assert x.dtype == DTYPES[name]
    assert len(set(x.tolist())) > 1
    if not (x.is_floating_point() or x.is_complex()):
        assert set(x.tolist()) == {0, 1}


def test_inputs_come_from_the_seed_alone():
    specs = [parse_input_spec("f32[3]"), parse_input_spec("ids=i64[200]<5"), parse_input_spec("f32[3]")]
    state = torch.get_rng_state()
    (x, y), named = make_inputs(specs, seed=1)
    (x_repeated, _), _ = make_inputs(specs, seed=1)
    (x_other_seed, _), _ = make_inputs(specs, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, x_repeated)
    assert not torch.equal(x, x_other_seed)
    assert not torch.equal(x, y)
    assert set(named["ids"].tolist()) == {0, 1, 2, 3, 4}


def test_inputs_that_cannot_be_made():
    with pytest.raises(CompareError, match="two inputs are named 'x'"):
        make_inputs([parse_input_spec("x=f32[2]"), parse_input_spec("x=f32[2]")], seed=0)
    with pytest.raises(CompareError, match=r"the input 'float32\[9999999999,9999999999\]' cannot be made"):
        make_inputs([parse_input_spec("f32[9999999999,9999999999]")], seed=0)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("torch.nn:Linear", ("torch.nn", "Linear", None, {})),
        ("torch.nn:Linear(3, 4, bias=False)", ("torch.nn", "Linear", (3, 4), {"bias": False})),
        ("a:b.c(-1.5, (1, 'x'), {'k': [None]})", ("a", "b.c", (-1.5, (1, "x"), {"k": [None]}), {})),
        (" a : b( ) ", ("a", "b", (), {})),
    ],
)
def test_targets_are_read(text, target):
    module, name, args, kwargs = target
    assert parse_target(text) == Target(text, module, name, args, kwargs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torch.nn.Linear(3,4)", 'Did you mean "torch.nn:Linear(3,4)"?'),
        ("Linear", "has no colon between the module to import and the name in it. A target is"),
        ("f('a:b')", "has no colon"),
        ("models/net.py:Net", "Did you mean 'models.net'?"),
        ("net.py:Net", "Did you mean 'net'?"),
        ("a b:Net", "'a b' in 'a b:Net' is not the name of a module"),
        ("a:", "names nothing behind the colon"),
        ("a:b(", "is not a name with arguments: '(' was never closed"),
        ("a:b()()", "'b()' in 'a:b()()' is not a name"),
        ("a:b[0]", "is not a name"),
        ("a:b(c)", "'c' in 'a:b(c)' is not a Python literal"),
        ("a:b(x=torch.float32)", "'torch.float32' in"),
        ("a:b(*[1])", "is not a Python literal"),
        ("a:b(**{'x': 1})", "write the keyword arguments out"),
        ("a:b({[]: 1})", "is not a Python literal"),
        ("a:b; import os", "is not a name with arguments"),
        ("a:b\0", "is not a name with arguments"),
    ],
)
def test_texts_that_are_no_targets(text, message):
    with pytest.raises(CompareError, match=re.escape(message)):
        parse_target(text)


def test_nothing_in_a_target_is_evaluated(tmp_path):
    path = tmp_path / "written"
    for call in (f"open({str(path)!r}, 'w')", f"__import__('pathlib').Path({str(path)!r}).touch()"):
        with pytest.raises(CompareError, match="is not a Python literal, and nothing else is evaluated"):
            parse_target(f"torch.nn:Linear({call}, 3)")
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("torch.nn:Linear(3,4)", "Linear(3,4)"),
        ("torch:nn.Linear(3, 4)", "nn.Linear(3, 4)"),
        (f"{ZOO}:Scale", "Scale()"),
        (f"{ZOO}:stacked()", "stacked()"),
        (f"{ZOO}:mixed", "mixed"),
    ],
)
def test_targets_are_built(text, expression):
    built = build_target(parse_target(text))
    assert isinstance(built.module, torch.nn.Module)
    assert built.expression == expression


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch.package:Net", "there is no module 'nosuch' to import"),
        ("torch.nosuch:Net", "there is no module 'torch.nosuch' to import"),
        ("torch.nn:Linar(3,4)", "torch.nn has no 'Linar'. Did you mean 'Linear'"),
        ("torch:nn.Linar", "torch:nn has no 'Linar'. Did you mean 'Linear'"),
        (f"{ZOO}:qqqq", "What can be called there: AlwaysDraws, Attends, Branches, Careless"),
        (
            "torch.nn:Linear(3)",
            "positional argument: 'out_features'. Its arguments are (in_features, out_features, bias=True,",
        ),
        (f"{ZOO}:broken", "raised RuntimeError: weights not found in any folder at "),
        (f"{ZOO}:forty_two()", "gives something of type int, not an nn.Module"),
        (f"{ZOO}:number", "is of type int, and neither an nn.Module nor something that builds one"),
        (f"{ZOO}:mixed(1)", f'Leave out the parentheses: "{ZOO}:mixed"'),
    ],
)
def test_targets_that_do_not_build(text, message):
    with pytest.raises(CompareError, match=re.escape(message)):
        build_target(parse_target(text))


def test_a_module_that_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import nosuch_dependency\n")
    (tmp_path / "stops.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CompareError, match=r"importing 'needs_more' raised .* at .*needs_more.py:1"):
        build_target(parse_target("needs_more:Net"))
    with pytest.raises(CompareError, match=r"importing 'stops' raised SystemExit: 3"):
        build_target(parse_target("stops:Net"))
