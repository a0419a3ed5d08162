import copy
import inspect
import re

import pytest
import torch

import funcnet as fn
from funcnet.compare import CompareError, NotPossible, PerSample, Sides, compare_module
from funcnet.compare import _compare_module as untrained_file
from funcnet.compare._input_specs import make_inputs, parse_input_spec
from tests.compare import zoo

ZOO = "tests.compare.zoo"
CASES = {
    "linear": ("torch.nn:Linear(3, 4)", "f32[2,3]"),
    "double": ("torch.nn:Linear(3, 4, dtype=None)", "f32[2,5,3]"),
    "no params": ("torch.nn:ReLU", "f32[4,2]"),
    "in place": ("torch.nn:ReLU(inplace=True)", "f32[4,2]"),
    "own forward in place": (f"{ZOO}:Scale", "f32[3,4]"),
    "nested": (f"{ZOO}:stacked", "f32[6,4]"),
    "mixed": (f"{ZOO}:Mixed(p=0.3)", "f32[4,3,8,8]"),
    "instance": (f"{ZOO}:mixed", "f32[4,3,8,8]", "shift=f32[4,1,1,1]"),
    "lstm": ("torch.nn:LSTM(3, 4)", "f32[5,2,3]"),
    "embedding": ("torch.nn:Embedding(5, 4, max_norm=1.0)", "i64[4,2]<5"),
    "draws in eval": (f"{ZOO}:AlwaysDraws", "f32[3,4]"),
    "opaque": (f"{ZOO}:Opaque", "f32[3,4]"),
    "bert": (f"{ZOO}:bert(layers=1)", "input_ids=int64[2,8]<50", "attention_mask=bool[2,8]"),
    "gpt2": (f"{ZOO}:gpt2", "int64[2,8]<50"),
}


def compare(name, **options):
    target, *inputs = CASES[name]
    return compare_module(target, inputs, budget=0.01, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_module_and_its_net_give_the_same_bits(name):
    state = torch.get_rng_state()
    result = compare(name)
    assert list(result.largest_difference) == [
        "outputs in eval mode",
        "outputs in training mode",
        "gradients",
        "new buffers",
    ]
    assert {quantity: gap for quantity, gap in result.largest_difference.items() if gap} == {}
    assert result.identical
    assert result.passes
    assert torch.equal(torch.get_rng_state(), state)


def test_there_is_something_to_compare():
    mixed, bare = compare("mixed").largest_difference, compare("no params").largest_difference
    assert None not in mixed.values()
    assert bare["gradients"] is None
    assert bare["new buffers"] is None


@pytest.mark.parametrize(
    ("path", "affected"),
    [
        ("conv.weight", {"outputs in eval mode", "outputs in training mode", "gradients", "new buffers"}),
        ("bn.bias", {"outputs in eval mode", "outputs in training mode", "gradients"}),
        ("bn.running_mean", {"outputs in eval mode", "new buffers"}),
    ],
)
def test_another_number_is_seen_where_it_matters(monkeypatch, path, affected):
    original = fn.from_module

    def nudged(module):
        net, params, buffers = original(module)
        fn.tree.get(buffers if "running" in path else params, path).add_(0.5)
        return net, params, buffers

    monkeypatch.setattr(untrained_file.fn, "from_module", nudged)
    result = compare("mixed")
    assert {quantity for quantity, gap in result.largest_difference.items() if gap} == affected
    assert not result.identical
    assert not result.passes


def test_other_draws_are_seen(monkeypatch):
    class OtherSeed(untrained_file.NetSide):
        def __init__(self, *args):
            super().__init__(*args[:-1], args[-1] + 1)

    monkeypatch.setattr(untrained_file, "NetSide", OtherSeed)
    result = compare("mixed")
    assert result.largest_difference["outputs in eval mode"] == 0
    assert result.largest_difference["outputs in training mode"] > 0.01
    assert result.largest_difference["gradients"] > 0
    assert result.largest_difference["new buffers"] == 0


def test_the_module_stays_as_it_was():
    before = copy.deepcopy(zoo.mixed.state_dict())
    flags = flags_of(zoo.mixed)
    compare("instance")
    assert all(torch.equal(before[key], value) for key, value in zoo.mixed.state_dict().items())
    assert all(weight.grad is None for weight in zoo.mixed.parameters())
    assert flags_of(zoo.mixed) == flags


def flags_of(root):
    modes = [module.training for module in root.modules()]
    return modes, [weight.requires_grad for weight in root.parameters()]


def test_the_calling_code_runs_and_gives_what_was_compared():
    _, *inputs = CASES["instance"]
    code = compare("instance").programs.stateless
    (x,), named = make_inputs([parse_input_spec(text) for text in inputs], seed=0)
    space = {"x": x, **named}
    exec(code, space)
    torch.manual_seed(0)
    module = copy.deepcopy(zoo.mixed)
    torch.manual_seed(0)
    assert torch.equal(space["output"]["features"], module(x, **named)["features"])
    assert torch.equal(space["new_buffers"]["bn"]["running_mean"], module.bn.running_mean)
    assert f"from {ZOO} import mixed\n" in code
    assert "#     (bn): BatchNorm2d(8," in code


def test_the_source_shown_is_that_of_the_class_and_its_factory():
    assert compare("linear").programs.stateful == inspect.getsource(torch.nn.Linear)
    assert compare("instance").programs.stateful == inspect.getsource(zoo.Mixed)
    assert compare("nested").programs.stateful == inspect.getsource(zoo.stacked)
    bert = compare("bert").programs.stateful
    assert bert.startswith(inspect.getsource(zoo.bert))
    assert "class BertModel(" in bert


def test_parts_with_a_forward_of_their_own_are_named():
    assert compare("linear").parts == "Every part is a native net."
    assert compare("nested").parts.endswith("(fn.Wrapped): Scale at '1'; the other parts are native nets.")
    assert compare("mixed").parts.endswith("(fn.Wrapped): Mixed.")


def test_costs_are_measured():
    result = compare("mixed")
    weights = result.parameters * 4
    assert isinstance(result.peak_bytes, Sides)
    assert result.peak_bytes.stateful > 2 * weights
    assert result.peak_bytes.stateless > 2 * weights
    assert result.step_seconds.ratio > 0
    assert result.forward_seconds.stateful < result.step_seconds.stateful
    assert isinstance(result.per_sample, PerSample)
    assert result.per_sample.batch == 4


@pytest.mark.parametrize(
    ("target", "spec", "reason"),
    [
        (f"{ZOO}:Branches", "f32[3,4]", "it branches on data at "),
        (f"{ZOO}:Careless", "f32[3,4]", "it branches on data at "),
        ("torch.nn:ReLU", "f32[4,2]", "the module has no parameters"),
        ("torch.nn:Linear(3, 4)", "f32[1,3]", "the inputs have no batch axis"),
        ("torch.nn:Linear(3, 4)", "f32[3]", "ShapeError"),
        (f"{ZOO}:AlwaysDraws", "f32[3,4]", "it draws in eval mode (tests/compare/zoo.py:"),
    ],
)
def test_why_there_are_no_gradients_per_sample(target, spec, reason):
    result = compare_module(target, [spec], budget=0.01)
    assert result.identical
    assert isinstance(result.per_sample, NotPossible)
    assert result.per_sample.reason.startswith(reason)
    assert "\n" not in result.per_sample.reason


def test_outputs_that_are_no_tensors_are_named():
    assert compare("opaque").notes == ("Not compared, being no tensors: object among the outputs.",)
    assert compare("mixed").notes == ()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_forms_take_the_same_kernels(dropout):
    # the fast path of attention is taken in eval mode, and draws inside its kernel in training
    encoder = f"torch.nn:TransformerEncoderLayer(16, 2, dropout={dropout}, batch_first=True)"
    result = compare_module(encoder, ["f32[2,5,16]"], budget=0.01)
    assert result.largest_difference["outputs in eval mode"] == 0
    assert result.largest_difference["outputs in training mode"] == 0
    assert result.largest_difference["gradients"] == 0
    assert any("fused path for attention" in note for note in result.notes)
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_vmap_does_by_a_loop_is_named():
    result = compare_module(CASES["gpt2"][0], ["int64[2,8]<50"], budget=0.01)
    assert isinstance(result.per_sample, PerSample)
    assert all(name.startswith("aten::") for name in result.per_sample.loops_inside)
    assert result.per_sample.agrees


def test_a_module_that_runs_in_one_mode_is_compared_in_that():
    result = compare_module("torch.nn:BatchNorm1d(3)", ["f32[1,3]"], budget=0.01)
    (missing,) = result.missing_modes
    assert missing.mode == "training"
    assert "called as a plain module in training mode with float32[1,3]" in missing.reason
    assert result.largest_difference == {"outputs in eval mode": 0.0}
    assert isinstance(result.step_seconds, NotPossible)


def test_what_there_is_no_time_for_does_not_begin():
    result = compare_module("torch.nn:Linear(3, 4)", ["f32[2,3]"], budget=0.01, time_limit=0.0)
    assert {missing.mode for missing in result.missing_modes} <= {"training"}
    costs = (result.step_seconds, result.peak_bytes, result.per_sample, result.gradient)
    assert all(isinstance(cost, NotPossible) for cost in costs)
    assert all("0 s were left for it; a --time-limit of more than 0 s" in cost.reason for cost in costs)


@pytest.mark.parametrize(
    ("target", "inputs", "message"),
    [
        (
            "torch.nn:Linear(3, 4)",
            [],
            "needs inputs to be called with. The forward of Linear takes (input).",
        ),
        ("torch.nn:Linear(3, 4)", ["f32[2,5]"], "raised RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("torch.nn:Linear(3, 4)", ["f32[2,3]", "y=f32[2]"], "with float32[2,3], y=float32[2]. The forward of Linear"),
        ("torch.nn:LazyLinear(3)", ["f32[2,3]"], "cannot be made a net: ConversionError"),
        (f"{ZOO}:Raises", ["f32[2,4]"], "very very ..."),
    ],
)
def test_what_is_refused(target, inputs, message):
    with pytest.raises(CompareError, match=re.escape(message)) as caught:
        compare_module(target, inputs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
