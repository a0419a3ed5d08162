"""What a model does besides computing its output is found, and what follows from it is said in the right order."""

import pytest
import torch
from torch import nn

import funcnet as fn
from funcnet.compare import FoundEffect, NotPossible, compare_module, study
from funcnet.compare._found_effects import (
    IMPURITIES,
    TAKEN_CARE_OF,
    WORDS_OF_KINDS,
    describe_places,
    effects_of,
    explain_failure,
    find_effects,
    judge_effects,
    needs_mending,
)
from funcnet.inspect._effect_report import MEANINGS
from funcnet.report._verdict import judge_forms, summarize_study
from tests.compare import zoo

ZOO = "tests.compare.zoo"


def effect(kind, location="net.py:3", paths=("",), modes=("eval", "training")):
    return FoundEffect(kind, location, "x += 1", ("it does so",), paths, modes, "do not")


@pytest.fixture(scope="module")
def careless():
    return compare_module(f"{ZOO}:Careless", ["f32[4,4]"], budget=0.01)


def test_every_kind_of_effect_has_its_words_and_its_meaning_for_a_net():
    assert set(WORDS_OF_KINDS) == set(MEANINGS)
    assert {*IMPURITIES, *TAKEN_CARE_OF, "branches on data", "mixes examples"} == set(MEANINGS)


def test_each_line_with_an_effect_is_found_with_its_cure(careless):
    found = {(one.kind, one.code) for one in careless.effects}
    assert {
        ("mutates input", "x += 1"),
        ("keeps state", "HISTORY.append(float(x.mean()))"),
        ("branches on data", "if h.sum() > 1e9:"),
        ("draws", "return F.dropout(h, 0.5, training=True)"),
    } <= found
    assert all(one.instead == MEANINGS[one.kind].instead for one in careless.effects)
    assert all(one.location.startswith("tests/compare/zoo.py:") for one in careless.effects)


def test_looking_for_effects_leaves_none():
    before, x = list(zoo.HISTORY), torch.zeros(4, 4)
    assert effects_of(find_effects(zoo.Careless(), [x], {}), "keeps state")
    assert before == zoo.HISTORY
    assert not x.any()


def test_a_layer_that_repeats_is_one_effect_with_all_its_paths():
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Dropout()) for _ in range(3)))
    (draws,) = find_effects(blocks, [torch.ones(4, 3)], {})
    assert draws.paths == ("0.1", "1.1", "2.1")
    assert draws.modes == ("training",)


def test_a_model_without_effects_has_nothing_to_say():
    assert find_effects(nn.Linear(3, 3), [torch.ones(4, 3)], {}) == ()
    assert judge_effects((), "Linear") == []
    assert not needs_mending(())


def test_effects_that_cannot_be_looked_at_say_why():
    found = find_effects(zoo.Raises(), [torch.ones(4, 3)], {})
    assert isinstance(found, NotPossible)
    assert found.reason.startswith("in eval mode the call raised ValueError: cannot very")
    assert judge_effects(found, "Raises")[0].startswith("What else Raises does could not be looked at: in eval mode")
    assert effects_of(found, "draws") == []


def test_what_stands_in_the_way_comes_first_and_is_not_praised():
    effects = (effect("mutates input"), effect("keeps state", "net.py:4"), effect("branches on data", "net.py:5"))
    first, second, third = judge_effects(effects, "Net")
    assert first.startswith("Net is no function of its arguments yet, in any form: it keeps state between calls")
    assert "(net.py:4)" in first and "net.py:5" in second
    assert "vmap cannot run it in any form" in second
    assert third == (
        "What the module does and its net does not: it writes to its input (net.py:3), where the net writes to a copy."
    )
    assert needs_mending(effects)
    assert not needs_mending(effects[:1])


@pytest.mark.parametrize("kind", [*IMPURITIES, "branches on data", *TAKEN_CARE_OF, "mixes examples"])
def test_no_kind_is_left_out(kind):
    assert "net.py:3" in " ".join(judge_effects((effect(kind),), "Net"))


def test_places_are_listed_once_and_not_without_end():
    effects = [effect("draws", f"net.py:{line}") for line in (1, 2, 2, 3, 4, 5, 6)]
    assert describe_places(effects) == "net.py:1, net.py:2, net.py:3, net.py:4 and 2 more places"
    assert describe_places([effect("draws", "", ("a.drop", ""))]) == "a.drop, the model itself"


def test_a_failure_is_explained_by_the_branch_and_not_by_its_last_symptom():
    branches = (effect("branches on data"), effect("draws", "net.py:9"))
    text = explain_failure("RandomnessError: no rng", branches)
    assert text == "it branches on data at net.py:3 (it does so). The error was RandomnessError: no rng"
    assert explain_failure("RandomnessError: no rng", branches[1:]) == "RandomnessError: no rng"
    only_in_training = (effect("branches on data", modes=("training",)),)
    assert explain_failure("RuntimeError", only_in_training) == "RuntimeError"


def test_the_verdict_on_a_careless_model_begins_with_what_to_mend(careless):
    (result,) = study(careless, budget=0.001, compiling=0.0).studies
    text = summarize_study(result)
    assert text.startswith("Careless is no function of its arguments yet, in any form: it keeps state")
    assert ". Take the pure function" not in text
    native = next(verdict for verdict in judge_forms(result) if verdict.form == "native")
    assert native.costs[0] == "It does what the effects above say, too: its code is that of the module."
    rows = {row.name: row.forms["native"] for row in result.capabilities}
    failed = [outcome.evidence for outcome in rows.values() if outcome.worked is False]
    assert not any(evidence.startswith("RandomnessError") for evidence in failed)


def test_the_effect_says_its_line_and_its_cure():
    (found,) = fn.effects(zoo.Scale(), torch.ones(3, 4)).of("mutates input")
    assert found.location.startswith("tests/compare/zoo.py:")
    assert found.instead == MEANINGS["mutates input"].instead
    assert fn.effects(nn.Dropout(), torch.ones(4, 2), train=True)[0].location.startswith("tests/compare/test_found")


def test_a_module_that_cannot_make_a_second_step_is_told_with_its_effects():
    result = compare_module(f"{ZOO}:KeepsGraph", ["f32[4,4]"], budget=0.01)
    assert isinstance(result.step_seconds, NotPossible)
    assert result.step_seconds.reason.startswith("it cannot make a second step: RuntimeError: Trying to backward")
    assert any("it cannot make a second step" in note for note in result.notes)
    assert [(effect.kind, effect.modes) for effect in result.effects] == [("keeps state", ("eval", "training"))]
