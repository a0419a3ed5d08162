"""The laboratory: every form is measured, every capability is tried, and every missing number has its reason."""

import dataclasses
import itertools
import json
import time

import pytest
import torch
from torch import nn

from funcnet.compare import NotPossible, Spread, compare_module, study, to_json
from funcnet.compare._digits import load_digits
from funcnet.compare._errors import SkippedError
from funcnet.compare._input_specs import parse_input_spec
from funcnet.compare._lab._capabilities import CAPABILITY_TRIALS
from funcnet.compare._lab._compiled_form import CompileAllowance, CompiledForm, start_compiler
from funcnet.compare._lab._depth import Depths, depths_of_module, depths_of_pair
from funcnet.compare._lab._form_differences import compare_forms
from funcnet.compare._lab._form_makers import cache_forms, make_forms
from funcnet.compare._lab._listings import list_tensors
from funcnet.compare._lab._reasons import FailedError, NothingToTryError, first_line
from funcnet.compare._lab._subject import subject_from_module, subject_from_pair
from funcnet.compare._lab._trial_bench import Bench, require_agreement, require_same_bits, run_trial
from funcnet.compare._lab._turns import measure_curve, measure_in_turns, summarize_times
from funcnet.compare._measure import largest_difference
from funcnet.compare._models import PAIRS
from tests.compare import zoo

ZOO = "tests.compare.zoo"
FORMS = ["nn.Module", "functional_call", "native", "traced", "compiled"]


def subject(module, *specs, seed=0):
    torch.manual_seed(seed)
    return subject_from_module(module, [parse_input_spec(text) for text in specs], seed)


# --- turns ---


def test_programs_take_turns_and_the_first_turn_moves_on():
    calls = []

    def make(name):
        def call():
            calls.append(name)
            time.sleep(0.002)  # long enough not to be repeated

        return lambda: call

    spreads = measure_in_turns({name: make(name) for name in "abc"}, budget=0.0)
    assert [value.rounds for value in spreads.values()] == [5, 5, 5]
    rounds = ["".join(calls[start : start + 3]) for start in range(9, len(calls), 3)]  # after three calls to warm up
    assert rounds == ["abc", "bca", "cab", "abc", "bca"]


def test_short_calls_are_repeated_until_a_clock_can_tell():
    count = itertools.count()
    (value,) = measure_in_turns({"short": lambda: lambda: next(count)}, budget=0.0).values()
    assert next(count) > 5 * 100
    assert value.lower <= value.median <= value.upper


def test_slow_calls_make_fewer_rounds_and_those_that_are_too_slow_none(monkeypatch):
    monkeypatch.setattr("funcnet.compare._lab._turns.SLOW_SECONDS", 0.001)
    monkeypatch.setattr("funcnet.compare._lab._turns.LONGEST_CALL_SECONDS", 0.1)
    makers = {"slow": lambda: lambda: time.sleep(0.002), "slower": lambda: lambda: time.sleep(0.11)}
    values = measure_in_turns(makers, 0.0)
    assert values["slow"].rounds == 3
    assert values["slower"] == NotPossible("a call took 0.1 s, and one of more than 0.1 s is not timed")


def test_a_curve_stops_at_the_sizes_it_has_time_for(monkeypatch):
    monkeypatch.setattr("funcnet.compare._lab._turns.CURVE_SECONDS", 0.005)
    row = {"slow": lambda: lambda: time.sleep(0.002)}
    result = measure_curve("T", "c", "batch", {2: row, 4: row, 8: row}, 0.0)
    first, *later = result.forms["slow"]
    assert isinstance(first, Spread)
    assert [value.reason for value in later] == ["the smaller sizes took 0 s, and there are 0 s for a curve"] * 2


def test_a_program_that_cannot_run_gives_its_reason_and_the_others_are_measured():
    def unbuilt():
        raise SkippedError("there is no time for it")

    def raises():
        raise ValueError("no such size")

    values = measure_in_turns({"unbuilt": unbuilt, "raises": lambda: raises, "fine": lambda: lambda: None}, budget=0.0)
    assert values["unbuilt"] == NotPossible("there is no time for it")
    assert values["raises"] == NotPossible("ValueError: no such size")
    assert isinstance(values["fine"], Spread)


def test_a_spread_is_the_median_and_the_quartiles():
    assert summarize_times([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert summarize_times([2.0]) == Spread(2.0, 2.0, 2.0, 1)


# --- forms ---


@pytest.mark.parametrize("name", PAIRS)
def test_every_form_of_the_four_models_has_the_bits_of_the_module(name):
    model = subject_from_pair(PAIRS[name], load_digits(), 0)
    makers = cache_forms({k: v for k, v in make_forms(model, CompileAllowance(0)).items() if k != "compiled"})
    differences, _ = compare_forms(makers, model)
    assert list(differences) == ["functional_call", "native", "traced"]
    for gaps in differences.values():
        assert not any(gaps.values())
        assert gaps["outputs, eval"] == gaps["gradients"] == 0.0
        assert (gaps["new buffers"] == 0.0) == bool(model.buffers)


def test_a_compiled_form_with_draws_stands_beside_the_same_key():
    model = subject_from_pair(PAIRS["batchnorm"], load_digits(), 0)
    differences, notes = compare_forms(cache_forms(make_forms(model, CompileAllowance(600))), model)
    assert max(differences["compiled"].values()) < 1e-5  # dropout of other elements would differ by 1
    assert any("draws from a Key" in note for note in notes)


class Foreign(nn.Module):
    """Draws random numbers in its own forward, in training mode or always."""

    def __init__(self, always):
        super().__init__()
        self.fc, self.always = nn.Linear(4, 4), always

    def forward(self, x):
        return torch.nn.functional.dropout(self.fc(x), 0.5, self.training or self.always)


@pytest.mark.parametrize("always", [False, True])
def test_a_compiled_form_of_a_foreign_forward_that_draws_does_too(always):
    model = subject(Foreign(always), "f32[8,4]")
    assert model.draws_in_training
    assert model.draws_in_eval == always
    differences, notes = compare_forms(cache_forms(make_forms(model, CompileAllowance(600))), model)
    assert max(gap for gap in differences["compiled"].values() if gap is not None) < 1e-5
    assert any("draws from a Key" in note for note in notes)


def test_when_compile_time_has_run_out_old_graphs_run_and_new_ones_say_so():
    start_compiler()
    model = subject(nn.Linear(3, 4), "f32[2,3]")
    allowance = CompileAllowance(0.0)
    with pytest.raises(SkippedError, match="nothing was left of the time for compiling"):
        CompiledForm(model, allowance).forward(model.batch(4))
    form = CompiledForm(model, CompileAllowance(600))
    form.forward(model.batch(4))
    form.allowance = allowance
    allowance.spent = 3.0
    with torch.no_grad(), pytest.raises(SkippedError, match="another graph, and compiling took 3 s already"):
        form.forward(model.batch(4))
    assert form.forward(model.batch(4))().shape == (4, 4)


def test_measuring_moves_neither_the_module_nor_the_generator():
    module = zoo.Mixed()
    before = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    model = subject(module, "f32[4,3,8,8]")
    for make in make_forms(model, CompileAllowance(0)).values():
        form = make()
        if not isinstance(form, CompiledForm):
            form.forward(model.batch(4))()
            form.step(model.batch(4))()
    assert largest_difference(before, dict(module.state_dict())) == 0.0


# --- depth ---


@pytest.mark.parametrize("name", PAIRS)
def test_a_deeper_model_is_the_same_in_both_forms(name):
    model = subject_from_pair(PAIRS[name], load_digits(), 0)
    depths = depths_of_pair(PAIRS[name], model)
    sizes = []
    for depth in depths.values:
        deep = depths.make_subject(depth)
        sizes.append(len(deep.module.state_dict()))
        batch = deep.batch(4)
        with torch.no_grad():
            expected = deep.module.eval()(*batch.args)
            actual, _ = deep.net.apply(deep.params, deep.buffers, *batch.args)
        assert largest_difference(expected, actual) == 0.0
    assert sizes == sorted(set(sizes))


def test_blocks_that_repeat_are_found_and_taken_away():
    depths = depths_of_module(subject(zoo.bert(layers=3), "input_ids=int64[2,8]<50"))
    assert isinstance(depths, Depths)
    assert depths.values == (1, 2, 3)
    assert depths.block == "first blocks of encoder.layer, of the 3 BertLayer it has"
    assert len(depths.make_subject(2).module.encoder.layer) == 2


class NeedsBoth(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Linear(4, 4), "Linear has no obvious depth"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "no Sequential or ModuleList in it holds two or more equal blocks"),
        (NeedsBoth(), "NeedsBoth does not run with the first blocks of blocks alone: IndexError"),
    ],
)
def test_a_model_without_depth_says_why(module, reason):
    depths = depths_of_module(subject(module, "f32[2,4]"))
    assert isinstance(depths, NotPossible)
    assert reason in depths.reason


# --- what each form can do ---


def test_a_trial_is_a_success_a_failure_or_nothing():
    bench = Bench(model := subject(nn.Linear(3, 4), "f32[2,3]"), make_forms(model, CompileAllowance(0)))

    def raises(error):
        def failing_trial(bench, form):
            raise error

        return failing_trial

    def outcome(trial):
        result = run_trial(bench, "nn.Module", trial)
        return result.worked, result.evidence

    assert outcome(lambda bench, form: "seen") == (True, "seen")
    assert outcome(raises(FailedError("not so"))) == (False, "not so")
    assert outcome(raises(NothingToTryError("no weights"))) == (None, "no weights")
    assert outcome(raises(ValueError("first line\nsecond"))) == (False, "ValueError: first line")


def test_agreement_is_bits_or_rounding():
    tensor = torch.ones(3)
    assert require_same_bits("outputs", tensor, tensor.clone()) == "outputs are equal, bit for bit"
    with pytest.raises(FailedError, match=r"outputs differ by up to 1\.2e-07"):
        require_same_bits("outputs", tensor, torch.nextafter(tensor, 2 * tensor))
    assert "agree to rounding" in require_agreement("outputs", tensor, torch.nextafter(tensor, 2 * tensor))
    with pytest.raises(FailedError, match=r"differ by up to 0\.01"):
        require_agreement("outputs", tensor, tensor + 0.01)
    assert first_line(ValueError()) == "ValueError"


@pytest.fixture(scope="module")
def laboratory():
    result = compare_module(f"{ZOO}:Mixed(p=0.3)", ["f32[4,3,8,8]"], budget=0.01)
    return study(result, budget=0.002, compiling=0.0, command="funcnet compare")


def worked(laboratory, name):
    (row,) = [row for row in laboratory.studies[0].capabilities if row.name == name]
    return [outcome.worked for outcome in row.forms.values()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Per-sample gradients in one call", [False, True, True, True]),
        ("An ensemble in one call", [False, True, True, True]),
        ("Derivative along weights", [False, True, True, True]),
        ("Hessian-vector product", [True, True, True, True]),
        ("torch.compile", [True, True, True, True]),
        ("Save and load weights", [True, True, True, True]),
        ("Pickle the model", [True, True, True, True]),
        ("Hooks", [True, True, False, False]),
        ("DistributedDataParallel", [True, False, False, False]),
        ("Data parallel by all_reduce", [True, True, True, True]),
        ("Partial freezing", [True, True, True, True]),
        ("A call that leaves nothing behind", [False, False, True, True]),
    ],
)
def test_what_each_form_can_do(laboratory, name, expected):
    assert worked(laboratory, name) == expected


def test_nets_are_safe_in_threads(laboratory):
    assert worked(laboratory, "Thread-safety")[2:] == [True, True]


def test_every_row_was_tried_with_every_form_and_has_evidence(laboratory):
    rows = laboratory.studies[0].capabilities
    assert [row.name for row in rows] == [row.name for row in CAPABILITY_TRIALS]
    assert all(list(row.forms) == FORMS[:4] for row in rows)
    assert all(outcome.evidence for row in rows for outcome in row.forms.values())


# --- all of it ---


def test_a_study_measures_every_form_at_every_size(laboratory):
    (result,) = laboratory.studies
    assert laboratory.passes
    assert result.identical
    assert list(result.curves) == [
        "forward_batch", "step_batch", "overhead", "memory", "per_sample", "ensemble", "forward_depth", "step_depth",
    ]  # fmt: skip
    for key in ("forward_batch", "step_batch"):
        curve = result.curves[key]
        assert curve.at == (2, 4, 8, 16)
        assert list(curve.forms) == FORMS
        for form in FORMS[:4]:
            assert all(isinstance(value, Spread) and value.rounds >= 5 for value in curve.forms[form])
        assert all("nothing was left of the time" in value.reason for value in curve.forms["compiled"])
    assert isinstance(result.curves["forward_depth"], NotPossible)
    memory = result.curves["memory"].forms
    assert 0 < memory["native"][0].median <= 1.5 * memory["nn.Module"][0].median
    assert "cannot be counted" in memory["compiled"][0].reason


def test_the_tree_lists_every_tensor_in_the_order_of_the_state_dict(laboratory):
    (result,) = laboratory.studies
    module = zoo.Mixed()
    assert [entry.path for entry in result.entries] == list(module.state_dict())
    by_path = {entry.path: entry for entry in result.entries}
    weight = by_path["conv.weight"]
    assert dataclasses.astuple(weight) == ("conv.weight", "param", "Conv2d", (8, 3, 3, 3), "float32", 864)
    assert by_path["bn.num_batches_tracked"].kind == "buffer"
    assert by_path["bn.num_batches_tracked"].bytes == 8
    assert result.parts == {"conv": "Conv2d", "bn": "BatchNorm2d", "drop": "Dropout"}


def test_a_buffer_that_is_not_saved_is_listed_as_one():
    module = nn.Linear(3, 4)
    module.register_buffer("seen", torch.zeros(2), persistent=False)
    kinds = {entry.path: entry.kind for entry in list_tensors(subject(module, "f32[2,3]"))}
    assert kinds == {"weight": "param", "bias": "param", "seen": "unsaved"}


def test_ties_have_no_bytes_of_their_own():
    result = study(compare_module(f"{ZOO}:Tied", ["int64[2,3]<5"], budget=0.01), budget=0.001, compiling=0.0)
    ties = [entry for entry in result.studies[0].entries if entry.kind == "tie"]
    assert [(entry.path, entry.bytes) for entry in ties] == [("head.weight", 0)]
    assert result.passes


def test_inputs_without_a_batch_axis_are_measured_as_they_are():
    result = study(
        compare_module("torch.nn:Bilinear(3, 3, 2)", ["f32[3]", "f32[3]"], budget=0.01), budget=0.001, compiling=0
    )
    curves = result.studies[0].curves
    assert result.passes
    assert len(curves["forward_batch"].at) == 1


def test_a_model_that_branches_on_numbers_is_studied_without_its_trace():
    result = study(compare_module(f"{ZOO}:Branches", ["f32[3,4]"], budget=0.01), budget=0.001, compiling=0.0).studies[0]
    assert isinstance(result.stateless, NotPossible)
    assert isinstance(result.largest_difference["traced"], NotPossible)
    assert result.largest_difference["native"]["outputs, eval"] == 0.0
    traced = [row.forms["traced"] for row in result.capabilities]
    assert all(outcome.worked is None and "could not be made" in outcome.evidence for outcome in traced)


def test_a_laboratory_is_json(laboratory):
    text = json.dumps(to_json(laboratory), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["passes"] is True
    assert loaded["threads"] == 1
    assert {"processor", "cores", "system"} <= set(loaded["machine"])
    assert loaded["studies"][0]["curves"]["forward_depth"]["reason"].startswith("Mixed has no obvious depth")


def test_torch_s_fused_attention_is_no_difference_between_forms():
    layer = "torch.nn:TransformerEncoderLayer(16, 2, batch_first=True)"
    result = study(compare_module(layer, ["f32[2,5,16]"], budget=0.01), budget=0.001, compiling=0.0)
    assert result.passes
    for name in ("Save and load weights", "Pickle the model"):
        assert worked(result, name) == [True, True, True, True]
    assert worked(result, "Thread-safety")[2:] == [True, True]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_draws_in_eval_mode_is_not_blamed_for_its_draws():
    result = study(compare_module(f"{ZOO}:AlwaysDraws", ["f32[3,4]"], budget=0.01), budget=0.001, compiling=0.0)
    assert result.passes
    assert worked(result, "Save and load weights") == worked(result, "Pickle the model") == [True, True, True, True]
    assert worked(result, "Thread-safety") == worked(result, "torch.compile") == [None] * 4
    native = result.studies[0].curves["ensemble"].forms["native, vmap"]
    assert all(isinstance(value, Spread) for value in native)
