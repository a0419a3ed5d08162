"""The page itself: what a template needs, and the template filled in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any, NamedTuple

from markupsafe import Markup

from funcnet.compare import Articles, Curve, Laboratory, Listing, NotPossible, Spread, Study
from funcnet.compare.internals import shorten_code
from funcnet.report._figures import FORMS, figure, form_index
from funcnet.report._linked_code import Names, marked
from funcnet.report._spread_text import ended, listed, middle_half, missing, number, plural, quantity, rounds, times
from funcnet.report._verdict import COMPILED, LOOP, NATIVE, Ratio, Verdict, in_short, ratios, verdicts

LONGEST = 220


def page(laboratory: Laboratory) -> str:
    """One HTML page about a laboratory, complete in itself.

    Source: the template ``page.html``, one stylesheet and one script, all put into the page.
    """
    from jinja2 import Environment, StrictUndefined

    room = files("funcnet.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(ended=ended, quantity=quantity, number=number, plural=plural, listed=listed)
    template = environment.from_string((room / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        laboratory=laboratory,
        stamp=_stamp(laboratory),
        trained=laboratory.comparison if isinstance(laboratory.comparison, Articles) else None,
        models=[Model(study, f"m{index}") for index, study in enumerate(laboratory.studies)],
        forms=list(enumerate(FORMS)),
        style=Markup((room / "page.css").read_text(encoding="utf-8")),
        script=Markup((room / "page.js").read_text(encoding="utf-8")),
        title=_title(laboratory),
    )
    return text.lstrip() + "\n"


def _stamp(laboratory: Laboratory) -> str:
    """Whether the forms are the same, in a sentence that claims no more than was compared."""
    if not laboratory.passes:
        return "The forms are NOT the same. See the tables of equality below."
    gaps = [
        gap
        for study in laboratory.studies
        if not isinstance(found := study.largest_difference[COMPILED], NotPossible)
        for gap in found.values()
        if gap
    ]
    same = "Every number compared is the same, bit for bit: the form changes nothing in what a model computes"
    return f"{same}, but for compiled code, which differs by up to {max(gaps):.1g}." if gaps else f"{same}."


def _title(laboratory: Laboratory) -> str:
    names = [study.title for study in laboratory.studies]
    counted = {3: "Three models", 4: "Four models"}.get(len(names)) or listed(names)
    return f"{counted}, stateful and stateless"


class Row(NamedTuple):
    """One row of the params tree: a part with the sum of its bytes, or a tensor."""

    id: str
    path: str
    name: str
    depth: int
    owner: str
    kind: str
    shape: str
    dtype: str
    bytes: int


class Panel(NamedTuple):
    """A figure with its numbers as a table, or why there is none."""

    title: str
    caption: str
    figure: Markup | None
    head: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[str, ...]], ...]
    missing: tuple[str, ...]
    rounds: str = ""


class Model:
    """One study, as the template wants it."""

    def __init__(self, study: Study, id: str) -> None:
        self.study, self.id = study, id
        self.rows = tuple(_rows(study, id))
        self.bytes = sum(entry.bytes for entry in study.entries)
        self.names = Names(study.parts, frozenset(entry.path for entry in study.entries), study.title)
        self.row_ids = {row.path: row.id for row in self.rows}

    @property
    def in_short(self) -> str:
        return in_short(self.study)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return verdicts(self.study)

    def code(self, listing: Listing) -> Markup:
        """A program with its parts linked to the rows of the tree."""
        return marked(shorten_code(listing.code, LONGEST), self._names_in(listing), self.row_ids)

    def _names_in(self, listing: Listing) -> Names:
        # the class as it is called in the listing: a pair is titled in words, and its class has a name
        for line in listing.code.splitlines():
            if line.startswith("class "):
                return replace(self.names, root=line[6:].partition("(")[0].partition(":")[0])
        return self.names

    def differences(self) -> Iterator[tuple[int, str, list[tuple[str, str]], str]]:
        """Rows of the table of equality: form, cells with their state, or a reason."""
        for form, found in self.study.largest_difference.items():
            if isinstance(found, NotPossible):
                yield form_index(form), form, [], found.reason
            else:
                yield form_index(form), form, [_gap(form, gap) for gap in found.values()], ""

    def quantities(self) -> list[str]:
        """What was compared."""
        for found in self.study.largest_difference.values():
            if not isinstance(found, NotPossible):
                return list(found)
        return []

    def panels(self, *keys: str) -> Iterator[Panel]:
        """Figures, in order."""
        for key in keys:
            yield _panel(self.study.curves[key], key, f"{self.id}-{key}")

    def shown(self, key: str) -> list[tuple[int, str]]:
        """The forms a legend has to name."""
        found: Mapping[str, Any] = getattr(self.study.curves[key], "forms", {})
        return [(form_index(name), name.partition(",")[0]) for name in found]

    def ratio(self, key: str, suffix: str = "", base: str = "nn.Module", end: int = -1) -> str:
        """The native net beside the module, at the last size (or another)."""
        found = ratios(self.study.curves[key], f"{NATIVE}{suffix}", base)
        return _clear(times(found[end].ratio), found[end]) if found else "none"

    def speed(self, key: str, suffix: str) -> str:
        """How many times as fast as a loop, at the largest size."""
        found = ratios(self.study.curves[key], f"{NATIVE}{suffix}", LOOP)
        return _clear(f"{times(1 / found[-1].ratio)} ({found[-1].at})", found[-1]) if found else "none"


def _clear(text: str, one: Ratio) -> str:
    """A ratio, marked where the middle halves overlap: it may be chance."""
    return text if one.clear or one.ratio == 1 else f"{text}, unclear"


def _gap(form: str, gap: float | None) -> tuple[str, str]:
    if gap is None:
        return "none", "nothing to compare"
    if gap == 0:
        return "yes", "0"
    return ("near" if form == COMPILED and gap != math.inf else "no"), f"{gap:.1e}"


def _rows(study: Study, id: str) -> Iterator[Row]:
    """Parts that hold tensors, and their tensors, in order."""
    given: set[str] = set()
    number_of = 0
    for entry in study.entries:
        keys = entry.path.split(".")
        for depth in range(1, len(keys)):
            part = ".".join(keys[:depth])
            if part in given:
                continue
            given.add(part)
            below = [other for other in study.entries if other.path.startswith(f"{part}.")]
            yield Row(
                f"{id}-r{number_of}", part, keys[depth - 1], depth - 1, study.parts.get(part, ""), "part",
                plural(len(below), "tensor"), "", sum(other.bytes for other in below),
            )  # fmt: skip
            number_of += 1
        yield Row(
            f"{id}-r{number_of}", entry.path, keys[-1], len(keys) - 1, entry.owner, entry.kind,
            str(entry.shape), entry.dtype, entry.bytes,
        )  # fmt: skip
        number_of += 1


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


def _panel(curve: Curve | NotPossible, key: str, salt: str) -> Panel:
    title = TITLES[key]
    if isinstance(curve, NotPossible):
        return Panel(title, "", None, (), (), (f"Not measured: {ended(curve.reason)}",))
    measured = any(isinstance(value, Spread) for values in curve.forms.values() for value in values)
    rows = tuple(
        (
            form_index(form),
            form,
            tuple(middle_half(v, curve.unit) if isinstance(v, Spread) else "not measured" for v in values),
        )
        for form, values in curve.forms.items()
    )
    caption = f"{curve.call[0].upper()}{curve.call[1:]}."
    if curve.axis.startswith("depth"):
        caption += f" {curve.axis[0].upper()}{curve.axis[1:]}."
    elif len(curve.at) == 1 and curve.at[0]:
        caption += f" Batch of {curve.at[0]}."
    head = tuple(f"{at}" if at else "as given" for at in curve.at)
    return Panel(
        title, caption, figure(curve, salt) if measured else None, head, rows, tuple(missing(curve)), rounds(curve)
    )
