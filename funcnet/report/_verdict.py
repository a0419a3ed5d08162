"""What the numbers of a run say, in plain words: what a user gains with each form, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from funcnet._format import format_bytes, format_count, format_ratio, format_seconds, join_words
from funcnet.compare import Curve, GradientCheck, NotPossible, Spread, Study
from funcnet.compare.internals import (
    CALL,
    COMPILED,
    FORM_NAMES,
    LOOP,
    MODULE,
    NATIVE,
    TRACED,
    judge_effects,
    needs_mending,
)
from funcnet.report._spread_text import capitalize_first, end_sentence


@dataclass(frozen=True)
class Verdict:
    """What a user gains with a form, compared with nn.Module, and what it costs."""

    form: str
    summary: str
    gains: tuple[str, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """The ratio of the medians of two forms at one size.

    It is clear if the middle halves of the measurements do not overlap; otherwise it may be chance.
    """

    at: int
    ratio: float
    is_clear: bool


def compute_ratios(curve: Curve | NotPossible, form: str, base: str = MODULE) -> list[Ratio]:
    """The ratios of a form to a base form, at every size at which both were measured."""
    if isinstance(curve, NotPossible) or form not in curve.forms or base not in curve.forms:
        return []
    ratios = []
    for at, value, base_value in zip(curve.at, curve.forms[form], curve.forms[base], strict=True):
        if isinstance(value, Spread) and isinstance(base_value, Spread) and base_value.median:
            is_clear = value.lower > base_value.upper or value.upper < base_value.lower
            ratios.append(Ratio(at, value.median / base_value.median, is_clear))
    return ratios


def _clear_ratios(curve: Curve | NotPossible, form: str, base: str = MODULE) -> list[Ratio]:
    return [ratio for ratio in compute_ratios(curve, form, base) if ratio.is_clear]


def judge_forms(study: Study) -> tuple[Verdict, ...]:
    """The verdict on every form."""
    return tuple(_Judge(study, form).judge() for form in FORM_NAMES)


class _Judge:
    """Collects the gains and costs of one form."""

    def __init__(self, study: Study, form: str) -> None:
        self.study, self.form = study, form
        self.gains: list[str] = []
        self.costs: list[str] = []
        self.summary = [_describe_differences(study, form)]

    def judge(self) -> Verdict:
        if self.form in (NATIVE, TRACED, COMPILED) and needs_mending(self.study.effects):
            self.costs.append("It does what the effects above say, too: its code is that of the module.")
        if self.form != MODULE:
            self._judge_speed("overhead", "a call on the smallest batch")
            self._judge_speed("step_batch", "a step")
            if self.form in (TRACED, COMPILED):
                self._judge_speed("forward_batch", "a forward")
            self._judge_memory()
        if self.form in (CALL, NATIVE, TRACED):
            self._judge_vmap("per_sample", "vmap(grad)", "gradients of single samples", "come")
            self._judge_vmap("ensemble", "vmap", "models of an ensemble", "run")
        if self.form == COMPILED:
            self._judge_compiling()
        else:
            self._judge_capabilities()
        return Verdict(self.form, " ".join(self.summary), tuple(self.gains), tuple(self.costs))

    def _judge_speed(self, key: str, action: str) -> None:
        ratios = compute_ratios(self.study.curves[key], self.form)
        if not ratios:
            return
        action = capitalize_first(action)
        if not any(ratio.is_clear for ratio in ratios):
            self.summary.append(f"{action} takes the time it takes in nn.Module, as far as this run can tell.")
        quicker, slower = _split_by_speed(ratios)
        for subset, lines in ((quicker, self.gains), (slower, self.costs)):
            if subset:
                sizes = _describe_sizes(subset, ratios)
                lines.append(f"{action} takes {_format_range(subset)} the time of nn.Module{sizes}.")

    def _judge_memory(self) -> None:
        curve = self.study.curves["memory"]
        if isinstance(curve, NotPossible):
            return
        for ratio in _clear_ratios(curve, self.form):
            index = curve.at.index(ratio.at)
            size, module_size = curve.forms[self.form][index], curve.forms[MODULE][index]
            if isinstance(size, Spread) and isinstance(module_size, Spread):
                sizes = f"{format_bytes(size.median)}, where nn.Module has {format_bytes(module_size.median)}"
                lines = self.costs if ratio.ratio > 1 else self.gains
                lines.append(f"A step has at most {sizes} of tensors alive at one time.")

    def _judge_vmap(self, key: str, transform: str, items: str, verb: str) -> None:
        ratios = compute_ratios(self.study.curves[key], f"{self.form}, {transform}", LOOP)
        quicker, slower = _split_by_speed(ratios)
        if quicker:
            best = min(quicker, key=lambda ratio: ratio.ratio)
            self.gains.append(f"{best.at} {items} {verb} {format_ratio(1 / best.ratio)} as fast as by a loop.")
        if slower:
            sizes = join_words((str(ratio.at) for ratio in slower), "or")
            self.costs.append(
                f"For {sizes} {items} the loop is quicker: {transform} takes {_format_range(slower)} its time."
            )

    def _judge_capabilities(self) -> None:
        alternative = NATIVE if self.form == MODULE else MODULE
        if names := _find_exclusive(self.study, self.form, alternative):
            self.gains.append(f"Works here, and not with {alternative}: {_join_capabilities(names)}.")
        failed = [c.name for c in self.study.capabilities if c.forms[self.form].worked is False]
        if failed:
            self.costs.append(f"Did not work: {_join_capabilities(failed)}.")

    def _judge_compiling(self) -> None:
        compile_seconds = self.study.compile_seconds
        if not compile_seconds:
            return
        self.costs.append(f"Compiling what was compiled took {compile_seconds:.1f} s.")
        curve = self.study.curves["step_batch"]
        if isinstance(curve, NotPossible):
            return
        compiled, module = curve.forms[COMPILED][-1], curve.forms[MODULE][-1]
        if isinstance(compiled, Spread) and isinstance(module, Spread) and compiled.upper < module.lower:
            saved = module.median - compiled.median
            steps = format_count(math.ceil(compile_seconds / saved), "step")
            self.gains.append(f"At batch {curve.at[-1]} a step saves {format_seconds(saved)}: paid back after {steps}.")


def _describe_differences(study: Study, form: str) -> str:
    """Whether a form computes the numbers of the module."""
    if form == MODULE:
        return "The model as its author wrote it; the others stand beside it."
    differences = study.largest_difference[form]
    if isinstance(differences, NotPossible):
        return f"Its numbers were not compared with those of nn.Module: {end_sentence(differences.reason)}"
    gaps = [f"{quantity} by up to {gap:.1g}" for quantity, gap in differences.items() if gap]
    if not gaps:
        return "Every number compared is that of the module, bit for bit."
    return f"Differs from the module: {join_words(gaps)}."


def _split_by_speed(ratios: Iterable[Ratio]) -> tuple[list[Ratio], list[Ratio]]:
    """The clear ratios below 1, and those above 1."""
    clear = [ratio for ratio in ratios if ratio.is_clear]
    return [ratio for ratio in clear if ratio.ratio < 1], [ratio for ratio in clear if ratio.ratio > 1]


def _format_range(ratios: Sequence[Ratio]) -> str:
    values = [ratio.ratio for ratio in ratios]
    lowest, highest = format_ratio(min(values)), format_ratio(max(values))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _describe_sizes(subset: Sequence[Ratio], ratios: Sequence[Ratio]) -> str:
    """The batch sizes of some of the ratios, as the end of a sentence; empty if there is only one size."""
    if len(ratios) == 1:
        return ""
    if len(subset) == len(ratios):
        return ", at every batch size"
    return f", at batch {join_words(str(ratio.at) for ratio in subset)}"


def summarize_study(study: Study) -> str:
    """The verdict on a model in a few sentences; what it does besides computing its output comes first."""
    return " ".join([*judge_effects(study.effects, study.title), summarize_forms(study)])


def summarize_forms(study: Study) -> str:
    """The part of the verdict that compares the forms."""
    sentences = _summarize_bits(study)
    if isinstance(study.gradient, GradientCheck):
        sentences.insert(0, study.gradient.verdict)
    if ratios := compute_ratios(study.curves["step_batch"], NATIVE):
        sentences.append(_summarize_step(ratios))
    if gradient_ratios := _clear_ratios(study.curves["per_sample"], f"{NATIVE}, vmap(grad)", LOOP):
        at, ratio = gradient_ratios[-1].at, gradient_ratios[-1].ratio
        speed = f"{format_ratio(1 / ratio)} as fast as" if ratio < 1 else f"in {format_ratio(ratio)} the time of"
        sentences.append(f"{at} per-sample gradients came {speed} a loop.")
    if names := _find_exclusive(study, MODULE, NATIVE):
        sentences.append(f"Take nn.Module for {_join_capabilities(names)}.")
    if names := _find_exclusive(study, NATIVE, MODULE):
        advice = "Once that is mended, take" if needs_mending(study.effects) else "Take"
        sentences.append(f"{advice} the pure function for {_join_capabilities(names)}.")
    return " ".join(sentences)


def _summarize_bits(study: Study) -> list[str]:
    """Which forms have the bits of the module, and which do not."""
    equal: list[str] = []
    different: list[str] = []
    for form in (CALL, NATIVE, TRACED):
        differences = study.largest_difference[form]
        if not isinstance(differences, NotPossible):
            (different if any(differences.values()) else equal).append(form)
    sentences = []
    if equal:
        sentences.append(f"{join_words(equal)} {'gives' if len(equal) == 1 else 'give'} the bits of nn.Module.")
    if different:
        sentences.append(f"{join_words(different)} did NOT give the bits of nn.Module.")
    if not equal and not different:
        sentences.append("The numbers of no other form could be compared with those of nn.Module.")
    return sentences


def _summarize_step(ratios: Sequence[Ratio]) -> str:
    clear = [ratio for ratio in ratios if ratio.is_clear]
    if not clear:
        return "A step of the native net took the time of the module, as far as this run can tell."
    return (
        f"A step of the native net took {_format_range(clear)} the time of the module{_describe_sizes(clear, ratios)}."
    )


def _find_exclusive(study: Study, form: str, alternative: str) -> list[str]:
    """The names of the capabilities that worked with one form, and did not work with another."""
    return [c.name for c in study.capabilities if c.forms[form].worked and c.forms[alternative].worked is False]


def _join_capabilities(names: Iterable[str]) -> str:
    """Capabilities within a sentence: in lower case, unless they begin with a name."""
    proper = ("DistributedDataParallel", "Hessian")
    return join_words(name if name.startswith(proper) else name[0].lower() + name[1:] for name in names)
