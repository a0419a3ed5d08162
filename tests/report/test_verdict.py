"""The verdict follows from the numbers: other numbers give another verdict."""

import dataclasses

import pytest

from funcnet.compare import Capability, Curve, NotPossible, Outcome, Spread
from funcnet.compare.internals import FORM_NAMES, LOOP
from funcnet.report._verdict import compute_ratios, judge_forms, summarize_study


def spreads(medians, width=0.01):
    return tuple(Spread(m, m * (1 - width), m * (1 + width), 9) for m in medians)


@pytest.fixture
def study(laboratory):
    result = laboratory.studies[0]
    steps = {"nn.Module": spreads([1, 2]), "native": spreads([1.5, 2.0]), "compiled": spreads([2.0, 1.0])}
    many = {LOOP: spreads([1, 10]), "native, vmap(grad)": spreads([2, 2])}
    rows = (
        Capability("Hooks", "tried", {"nn.Module": Outcome(True, "fired"), "native": Outcome(False, "no")}),
        Capability("Threads", "tried", {"nn.Module": Outcome(False, "no"), "native": Outcome(True, "yes")}),
    )
    rows = tuple(
        dataclasses.replace(row, forms={**{form: Outcome(True, "") for form in FORM_NAMES[:4]}, **row.forms})
        for row in rows
    )
    curves = {
        "overhead": Curve("O", "c", "b", "seconds", (2,), {"nn.Module": spreads([1]), "native": spreads([0.5])}),
        "step_batch": Curve("S", "c", "b", "seconds", (2, 16), steps),
        "forward_batch": Curve("F", "c", "b", "seconds", (2, 16), steps),
        "per_sample": Curve("P", "c", "b", "seconds", (2, 16), many),
        "ensemble": NotPossible("no params"),
        "memory": NotPossible("not counted"),
    }
    return dataclasses.replace(
        result, curves=curves, capabilities=rows, compile_seconds=5.0, effects=(), gradient=NotPossible("not tried")
    )


def verdict_of(study, form):
    return next(verdict for verdict in judge_forms(study) if verdict.form == form)


def test_a_difference_counts_where_the_middle_halves_lie_apart():
    curve = Curve("T", "c", "b", "seconds", (2, 16), {"nn.Module": spreads([1, 1]), "native": spreads([1.01, 1.5])})
    assert [(ratio.at, ratio.is_clear) for ratio in compute_ratios(curve, "native")] == [(2, False), (16, True)]
    assert compute_ratios(NotPossible("no"), "native") == []
    assert compute_ratios(curve, "traced") == []


def test_the_net_is_judged_by_its_numbers(study):
    native = verdict_of(study, "native")
    assert "A call on the smallest batch takes 0.50x the time of nn.Module." in native.gains
    assert "16 gradients of single samples come 5.00x as fast as by a loop." in native.gains
    assert "Works here, and not with nn.Module: threads." in native.gains
    assert "A step takes 1.50x the time of nn.Module, at batch 2." in native.costs
    assert "For 2 gradients of single samples the loop is quicker: vmap(grad) takes 2.00x its time." in native.costs
    assert "Did not work: hooks." in native.costs


def test_compiling_is_weighed_against_what_it_saves(study):
    compiled = verdict_of(study, "compiled")
    assert "Compiling what was compiled took 5.0 s." in compiled.costs
    assert "At batch 16 a step saves 1 s: paid back after 5 steps." in compiled.gains


def test_the_short_verdict_says_when_to_take_which(study):
    text = summarize_study(study)
    assert "Take nn.Module for hooks." in text
    assert "Take the pure function for threads." in text
    assert "16 per-sample gradients came 5.00x as fast as a loop." in text
    assert "A step of the native net took 1.50x the time of the module, at batch 2." in text


def test_the_short_verdict_claims_no_difference_that_may_be_chance(study):
    steps = {"nn.Module": spreads([1, 2], 0.5), "native": spreads([1.5, 2.1], 0.5)}
    curve = Curve("S", "c", "b", "seconds", (2, 16), steps)
    text = summarize_study(dataclasses.replace(study, curves={**study.curves, "step_batch": curve}))
    assert "A step of the native net took the time of the module, as far as this run can tell." in text


def test_where_no_form_could_be_compared_none_is_praised(study):
    nothing = dict.fromkeys(FORM_NAMES[1:], NotPossible("it cannot be called ..."))
    text = summarize_study(dataclasses.replace(study, largest_difference=nothing))
    assert text.startswith("The numbers of no other form could be compared with those of nn.Module.")
    assert "give the bits" not in text
    summary = verdict_of(dataclasses.replace(study, largest_difference=nothing), "traced").summary
    assert summary == "Its numbers were not compared with those of nn.Module: it cannot be called ..."


def test_memory_is_weighed(study):
    sizes = {"nn.Module": spreads([1000], 0), "native": spreads([4000], 0), "traced": spreads([1000], 0)}
    changed = dataclasses.replace(study, curves={**study.curves, "memory": Curve("M", "c", "b", "bytes", (2,), sizes)})
    line = "A step has at most 4 kB, where nn.Module has 1 kB of tensors alive at one time."
    assert line in verdict_of(changed, "native").costs
    assert not any(
        "alive" in text for text in verdict_of(changed, "traced").costs + verdict_of(changed, "traced").gains
    )


def test_a_form_that_differs_is_named(study):
    gaps = {**study.largest_difference, "traced": {"gradients": 0.5}}
    changed = dataclasses.replace(study, largest_difference=gaps)
    assert not changed.identical
    assert summarize_study(changed).startswith(
        "functional_call and native give the bits of nn.Module. traced did NOT give the bits of nn.Module."
    )
    assert verdict_of(changed, "traced").summary.startswith("Differs from the module: gradients by up to 0.5.")
