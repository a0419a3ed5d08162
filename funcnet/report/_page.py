"""The page itself: the values that its template needs, and the template filled in with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from funcnet._format import format_bytes, format_count, format_ratio, join_words
from funcnet.compare import Articles, Curve, FoundEffect, GradientCheck, Laboratory, Listing, NotPossible, Spread, Study
from funcnet.compare.internals import COMPILED, LOOP, MODULE, NATIVE, judge_effects, needs_mending, shorten_code
from funcnet.report._figures import draw_curve, form_index, form_of_series
from funcnet.report._linked_code import KnownPaths, link_parts
from funcnet.report._spread_text import capitalize_first, describe_rounds, end_sentence, format_spread, list_missing
from funcnet.report._verdict import Ratio, Verdict, compute_ratios, judge_forms, summarize_forms

MOST_LINES = 220


def page(laboratory: Laboratory) -> str:
    """One HTML page about a laboratory, complete in itself.

    The page consists of the template ``page.html``, one stylesheet and one script.

    >>> from funcnet.compare import compare_module
    >>> result = compare_module("torch.nn:Linear(2, 3)", ["float32[4,2]"], budget=0.001)
    >>> laboratory = Laboratory(result, (), {}, result.versions, 0, 1, 0.0, "")  # compare.study(result) fills it
    >>> page(laboratory).lstrip()[:15]
    '<!doctype html>'
    """
    from jinja2 import Environment, StrictUndefined

    folder = files("funcnet.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(end_sentence=end_sentence, format_bytes=format_bytes, format_count=format_count)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        laboratory=laboratory,
        stamp=_summarize_equality(laboratory),
        trained=laboratory.comparison if isinstance(laboratory.comparison, Articles) else None,
        models=[StudyView(study, f"m{index}") for index, study in enumerate(laboratory.studies)],
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")),
        title=_make_title(laboratory),
    )
    return text.lstrip() + "\n"


def _summarize_equality(laboratory: Laboratory) -> str:
    """Whether the forms are the same, in a sentence that claims no more than was compared."""
    if not laboratory.passes:
        return "The forms are NOT the same. See the tables of equality below."
    gaps = [
        gap
        for study in laboratory.studies
        if not isinstance(differences := study.largest_difference[COMPILED], NotPossible)
        for gap in differences.values()
        if gap
    ]
    claim = "Every number compared is the same, bit for bit: the form changes nothing in what a model computes"
    return f"{claim}, but for compiled code, which differs by up to {max(gaps):.1g}." if gaps else f"{claim}."


def _make_title(laboratory: Laboratory) -> str:
    names = [study.title for study in laboratory.studies]
    models = {3: "Three models", 4: "Four models"}.get(len(names)) or join_words(names)
    return f"{models}, stateful and stateless"


class TreeRow(NamedTuple):
    """One row of the table of the params tree: a part with the sum of its bytes, or a tensor."""

    id: str
    path: str
    name: str
    depth: int
    owner: str
    kind: str
    shape: str
    dtype: str
    bytes: int


class CurvePanel(NamedTuple):
    """A figure with its numbers as a table, or the reason why there is none.

    ``rows`` holds for each series the index of its form, its title, and a cell for each column of ``head``.
    """

    title: str
    caption: str
    figure: Markup | None
    head: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[str, ...]], ...]
    missing: tuple[str, ...]
    rounds: str = ""


class DifferenceRow(NamedTuple):
    """One row of the table of equality: a form with a state and a text for each cell, or the reason for none."""

    form: str
    cells: list[tuple[str, str]]
    reason: str


class StudyView:
    """One study as the template shows it."""

    def __init__(self, study: Study, id: str) -> None:
        self.study, self.id = study, id
        self.rows = tuple(_make_tree_rows(study, id))
        self.bytes = sum(entry.bytes for entry in study.entries)
        self._row_ids = {row.path: row.id for row in self.rows}
        self._known = KnownPaths(study.parts, frozenset(entry.path for entry in study.entries), study.title)

    @property
    def effect_sentences(self) -> list[str]:
        return judge_effects(self.study.effects, self.study.title)

    @property
    def needs_mending(self) -> bool:
        return needs_mending(self.study.effects)

    @property
    def gradient_is_right(self) -> bool:
        check = self.study.gradient
        return isinstance(check, GradientCheck) and check.all_right

    @property
    def summary(self) -> str:
        return summarize_forms(self.study)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return judge_forms(self.study)

    def linked_code(self, listing: Listing) -> Markup:
        """A program whose parts link to the rows of the tree."""
        known = self._known
        # A listing may call the class by another name than the title, which is in words for the four models.
        for line in listing.code.splitlines():
            if line.startswith("class "):
                known = replace(known, root_class=line[6:].partition("(")[0].partition(":")[0])
                break
        return link_parts(shorten_code(listing.code, MOST_LINES), known, self._row_ids)

    def effects_by_kind(self) -> Iterator[tuple[str, list[FoundEffect]]]:
        """The effects of each kind, in order."""
        effects = () if isinstance(self.study.effects, NotPossible) else self.study.effects
        for kind, found in groupby(effects, lambda effect: effect.kind):
            yield kind, list(found)

    def difference_rows(self) -> Iterator[DifferenceRow]:
        """The rows of the table of equality."""
        for form, differences in self.study.largest_difference.items():
            if isinstance(differences, NotPossible):
                yield DifferenceRow(form, [], differences.reason)
            else:
                yield DifferenceRow(form, [_make_gap_cell(form, gap) for gap in differences.values()], "")

    def compared_quantities(self) -> list[str]:
        """The columns of the table of equality."""
        for differences in self.study.largest_difference.values():
            if not isinstance(differences, NotPossible):
                return list(differences)
        return []

    def curve_panels(self, *keys: str) -> Iterator[CurvePanel]:
        """The figures of these curves, in order."""
        for key in keys:
            yield _make_panel(self.study.curves[key], key, f"{self.id}-{key}")

    def legend_forms(self, key: str) -> list[tuple[int, str]]:
        """The forms in the legend of a curve: their indices and names."""
        curve = self.study.curves[key]
        if isinstance(curve, NotPossible):
            return []
        return [(form_index(title), form_of_series(title)) for title in curve.forms]

    def format_native_ratio(self, key: str) -> str:
        """The ratio of the native net to the module, at the largest size."""
        ratios = compute_ratios(self.study.curves[key], NATIVE, MODULE)
        return _mark_unclear(format_ratio(ratios[-1].ratio), ratios[-1]) if ratios else "none"

    def format_vmap_speed(self, key: str, transform: str) -> str:
        """How many times as fast as a loop the native net under vmap is, at the largest size."""
        ratios = compute_ratios(self.study.curves[key], f"{NATIVE}, {transform}", LOOP)
        if not ratios:
            return "none"
        return _mark_unclear(f"{format_ratio(1 / ratios[-1].ratio)} ({ratios[-1].at})", ratios[-1])


def _mark_unclear(text: str, ratio: Ratio) -> str:
    """The text of a ratio, with a remark if it may be chance."""
    return text if ratio.is_clear or ratio.ratio == 1 else f"{text}, unclear"


def _make_gap_cell(form: str, gap: float | None) -> tuple[str, str]:
    """The state of a difference, which is a class of the stylesheet, and its text."""
    if gap is None:
        return "none", "nothing to compare"
    if gap == 0:
        return "yes", "0"
    return ("near" if form == COMPILED and gap != math.inf else "no"), f"{gap:.1e}"


def _make_tree_rows(study: Study, id: str) -> Iterator[TreeRow]:
    """The parts that contain tensors, and their tensors, in order."""
    listed_parts: set[str] = set()
    row_count = 0
    for entry in study.entries:
        keys = entry.path.split(".")
        for depth in range(1, len(keys)):
            part = ".".join(keys[:depth])
            if part in listed_parts:
                continue
            listed_parts.add(part)
            sizes = [inner.bytes for inner in study.entries if inner.path.startswith(f"{part}.")]
            yield TreeRow(
                f"{id}-r{row_count}", part, keys[depth - 1], depth - 1, study.parts.get(part, ""), "part",
                format_count(len(sizes), "tensor"), "", sum(sizes),
            )  # fmt: skip
            row_count += 1
        yield TreeRow(
            f"{id}-r{row_count}", entry.path, keys[-1], len(keys) - 1, entry.owner, entry.kind,
            str(entry.shape), entry.dtype, entry.bytes,
        )  # fmt: skip
        row_count += 1


TITLES = {
    "forward_batch": "Forward, by batch size",
    "step_batch": "Step, by batch size",
    "forward_depth": "Forward, by depth",
    "step_depth": "Step, by depth",
    "overhead": "Python overhead: a tiny call",
    "memory": "Peak memory of a step",
    "per_sample": "A gradient for each sample",
    "ensemble": "An ensemble of K models",
}


def _make_panel(curve: Curve | NotPossible, key: str, salt: str) -> CurvePanel:
    title = TITLES[key]
    if isinstance(curve, NotPossible):
        return CurvePanel(title, "", None, (), (), (f"Not measured: {end_sentence(curve.reason)}",))
    is_measured = any(isinstance(value, Spread) for values in curve.forms.values() for value in values)
    rows = []
    for series, values in curve.forms.items():
        cells = [format_spread(v, curve.unit) if isinstance(v, Spread) else "not measured" for v in values]
        rows.append((form_index(series), series, tuple(cells)))
    return CurvePanel(
        title=title,
        caption=_make_caption(curve),
        figure=draw_curve(curve, salt) if is_measured else None,
        head=tuple(f"{size}" if size else "as given" for size in curve.at),
        rows=tuple(rows),
        missing=tuple(list_missing(curve)),
        rounds=describe_rounds(curve),
    )


def _make_caption(curve: Curve) -> str:
    caption = f"{capitalize_first(curve.call)}."
    if curve.axis.startswith("depth"):
        return f"{caption} {capitalize_first(curve.axis)}."
    if len(curve.at) == 1 and curve.at[0]:
        return f"{caption} Batch of {curve.at[0]}."
    return caption
