"""What the numbers of this run say, in plain words: what each form gains, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funcnet.compare import Curve, NotPossible, Spread, Study
from funcnet.report._figures import FORMS
from funcnet.report._spread_text import ended, listed, quantity, times

MODULE, CALL, NATIVE, TRACED, COMPILED = FORMS
LOOP = "nn.Module, a loop"


@dataclass(frozen=True)
class Verdict:
    """What a form gains over nn.Module and what it costs, or why nothing can be said."""

    form: str
    summary: str
    gains: tuple[str, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """A form beside another at one size: the ratio of medians, and whether the middle halves lie apart."""

    at: int
    ratio: float
    clear: bool


def ratios(curve: Curve | NotPossible, form: str, base: str = MODULE) -> list[Ratio]:
    """A form beside another, at every size where both were measured."""
    if isinstance(curve, NotPossible) or form not in curve.forms or base not in curve.forms:
        return []
    found = []
    for at, value, other in zip(curve.at, curve.forms[form], curve.forms[base], strict=True):
        if isinstance(value, Spread) and isinstance(other, Spread) and other.median:
            apart = value.lower > other.upper or value.upper < other.lower
            found.append(Ratio(at, value.median / other.median, apart))
    return found


def verdicts(study: Study) -> tuple[Verdict, ...]:
    """One verdict for each form that could be had."""
    return tuple(_of_form(study, form) for form in FORMS)


def _of_form(study: Study, form: str) -> Verdict:
    gains: list[str] = []
    costs: list[str] = []
    alike: list[str] = []
    if form != MODULE:
        for key, what in (("overhead", "a call on the smallest batch"), ("step_batch", "a step")):
            _speed(study, key, what, form, gains, costs, alike)
        if form in (TRACED, COMPILED):
            _speed(study, "forward_batch", "a forward", form, gains, costs, alike)
        _bytes(study, form, gains, costs)
    for key, what, forms in (
        ("per_sample", "vmap(grad)", (CALL, NATIVE, TRACED)),
        ("ensemble", "vmap", (CALL, NATIVE, TRACED)),
    ):
        if form in forms:
            _many(study, key, form, what, gains, costs)
    _able(study, form, gains, costs)
    if form == COMPILED:
        _compiling(study, gains, costs)
    return Verdict(form, " ".join([_same_numbers(study, form), *alike]), tuple(gains), tuple(costs))


def _same_numbers(study: Study, form: str) -> str:
    if form == MODULE:
        return "The model as its author wrote it; the others stand beside it."
    found = study.largest_difference[form]
    if isinstance(found, NotPossible):
        return f"Its numbers were not compared with those of nn.Module: {ended(found.reason)}"
    gaps = {what: gap for what, gap in found.items() if gap}
    if not gaps:
        return "Every number compared is that of the module, bit for bit."
    return f"Differs from the module: {listed(f'{what} by up to {gap:.1g}' for what, gap in gaps.items())}."


def _speed(study: Study, key: str, what: str, form: str, gains: list[str], costs: list[str], alike: list[str]) -> None:
    found = ratios(study.curves[key], form)
    clear = [one for one in found if one.clear]
    if not found:
        return
    if not clear:
        alike.append(f"{what[0].upper()}{what[1:]} takes the time it takes in nn.Module, as far as this run can tell.")
        return
    slow = [one for one in clear if one.ratio > 1]
    quick = [one for one in clear if one.ratio < 1]
    for some, into in ((quick, gains), (slow, costs)):
        if some:
            into.append(f"{what[0].upper()}{what[1:]} takes {_span(some)} the time of nn.Module{_where(some, found)}.")


def _bytes(study: Study, form: str, gains: list[str], costs: list[str]) -> None:
    curve = study.curves["memory"]
    for one in ratios(curve, form):
        held, by_module = (curve.forms[name][curve.at.index(one.at)] for name in (form, MODULE))  # type: ignore[union-attr]
        if one.clear and isinstance(held, Spread) and isinstance(by_module, Spread):
            most = f"{quantity(held.median, 'bytes')}, where nn.Module has {quantity(by_module.median, 'bytes')}"
            (costs if one.ratio > 1 else gains).append(f"A step has at most {most} of tensors alive at one time.")


def _span(found: list[Ratio]) -> str:
    low, high = min(one.ratio for one in found), max(one.ratio for one in found)
    return times(low) if times(low) == times(high) else f"{times(low)} to {times(high)}"


def _where(some: list[Ratio], all_of: list[Ratio]) -> str:
    if len(all_of) == 1:
        return ""
    if len(some) == len(all_of):
        return ", at every batch size"
    return f", at batch {listed(str(one.at) for one in some)}"


def _many(study: Study, key: str, form: str, what: str, gains: list[str], costs: list[str]) -> None:
    found = [one for one in ratios(study.curves[key], f"{form}, {what}", LOOP) if one.clear]
    thing = "gradients of single samples" if key == "per_sample" else "models of an ensemble"
    verb = "come" if key == "per_sample" else "run"
    quick = [one for one in found if one.ratio < 1]
    slow = [one for one in found if one.ratio > 1]
    if quick:
        best = min(quick, key=lambda one: one.ratio)
        gains.append(f"{best.at} {thing} {verb} {times(1 / best.ratio)} as fast as by a loop.")
    if slow:
        sizes = listed((str(one.at) for one in slow), "or")
        costs.append(f"For {sizes} {thing} the loop is quicker: {what} takes {_span(slow)} its time.")


def _able(study: Study, form: str, gains: list[str], costs: list[str]) -> None:
    """What this form did that another could not, and what it could not."""
    if form == COMPILED:
        return
    other = NATIVE if form == MODULE else MODULE
    only = [c.name for c in study.capabilities if c.forms[form].worked and c.forms[other].worked is False]
    cannot = [c.name for c in study.capabilities if c.forms[form].worked is False]
    if only:
        gains.append(f"Works here, and not with {other}: {listed(_lower(only))}.")
    if cannot:
        costs.append(f"Did not work: {listed(_lower(cannot))}.")


def _compiling(study: Study, gains: list[str], costs: list[str]) -> None:
    if not study.compile_seconds:
        return
    costs.append(f"Compiling what was compiled took {study.compile_seconds:.1f} s.")
    curve = study.curves["step_batch"]
    if isinstance(curve, NotPossible):
        return
    for at, quick, slow in zip(curve.at, curve.forms[COMPILED], curve.forms[MODULE], strict=True):
        last = at == curve.at[-1]
        if last and isinstance(quick, Spread) and isinstance(slow, Spread) and quick.upper < slow.lower:
            saved = slow.median - quick.median
            steps = f"{math.ceil(study.compile_seconds / saved):,}"
            word = "step" if steps == "1" else "steps"
            gains.append(f"At batch {at} a step saves {quantity(saved, 'seconds')}: paid back after {steps} {word}.")


def in_short(study: Study) -> str:
    """The verdict on a model in a few sentences."""
    parts = []
    compared = [form for form in (CALL, NATIVE, TRACED) if not isinstance(study.largest_difference[form], NotPossible)]
    wrong = [
        form
        for form in compared
        if not isinstance(gaps := study.largest_difference[form], NotPossible) and any(gaps.values())
    ]
    if same := [form for form in compared if form not in wrong]:
        parts.append(f"{listed(same)} {'gives' if len(same) == 1 else 'give'} the bits of nn.Module.")
    if wrong:
        parts.append(f"{listed(wrong)} did NOT give the bits of nn.Module.")
    if not compared:
        parts.append("The numbers of no other form could be compared with those of nn.Module.")
    if step := ratios(study.curves["step_batch"], NATIVE):
        parts.append(_step_in_short(step))
    gradients = [one for one in ratios(study.curves["per_sample"], f"{NATIVE}, vmap(grad)", LOOP) if one.clear]
    if gradients:
        last = gradients[-1]
        word = f"{times(1 / last.ratio)} as fast as" if last.ratio < 1 else f"in {times(last.ratio)} the time of"
        parts.append(f"{last.at} per-sample gradients came {word} a loop.")
    here = [c.name for c in study.capabilities if c.forms[MODULE].worked and c.forms[NATIVE].worked is False]
    there = [c.name for c in study.capabilities if c.forms[NATIVE].worked and c.forms[MODULE].worked is False]
    if here:
        parts.append(f"Take nn.Module for {listed(_lower(here))}.")
    if there:
        parts.append(f"Take the pure function for {listed(_lower(there))}.")
    return " ".join(parts)


def _step_in_short(found: list[Ratio]) -> str:
    clear = [one for one in found if one.clear]
    if not clear:
        return "A step of the native net took the time of the module, as far as this run can tell."
    return f"A step of the native net took {_span(clear)} the time of the module{_where(clear, found)}."


def _lower(names: list[str]) -> list[str]:
    proper = ("DistributedDataParallel", "Hessian")
    return [name if name.startswith(proper) else name[0].lower() + name[1:] for name in names]
