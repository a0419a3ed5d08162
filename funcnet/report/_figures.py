"""Curves as SVG figures that take their colours from the page: with real text, in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from funcnet._format import format_number, scale_for
from funcnet.compare import Curve, Spread
from funcnet.compare.internals import FORM_NAMES
from funcnet.report._spread_text import format_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v")
DASHES: tuple[Any, ...] = ("-", (0, (1, 1.2)), "-", (0, (4, 1.5)), (0, (5, 1.5, 1, 1.5)))

# These colours stand for variables of the page, which replace them in the finished text.
_INK, _FAINT = "#010203", "#040506"
_COLOURS = tuple(f"#0a0b0{index}" for index in range(len(FORM_NAMES)))
_VARIABLES = {_INK: "currentColor", _FAINT: "var(--line)"}
_VARIABLES.update({colour: f"var(--form-{index})" for index, colour in enumerate(_COLOURS)})

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.parse_math": False,
}


def form_of_series(title: str) -> str:
    """The name of the form that a series of a curve shows.

    >>> form_of_series("native, vmap")
    'native'
    """
    return title.partition(",")[0]


def form_index(title: str) -> int:
    """The position among all forms of the form that a series shows; it decides colour and marker.

    >>> form_index("native, vmap")
    2
    """
    return FORM_NAMES.index(form_of_series(title))


def draw_curve(curve: Curve, salt: str) -> Markup:
    """A curve as an ``<svg>``: lines with their quartiles as bands; or, at one size, dots with their quartiles as bars.

    Args:
        salt: a text that no other figure of the page has; it makes the ids in the figure unique.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style):
        row_count = len(curve.forms)
        has_one_size = len(curve.at) == 1
        drawing = Figure(figsize=(3.9, 0.6 + 0.33 * row_count if has_one_size else 2.8), layout="constrained")
        axes = drawing.subplots()
        if has_one_size:
            _draw_dots(axes, curve)
        else:
            _draw_lines(axes, curve)
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline_svg(file.getvalue(), describe_curve(curve))


def _draw_lines(axes: Axes, curve: Curve) -> None:
    scale, unit = _choose_scale(curve)
    for title, values in curve.forms.items():
        points = _measured_points(curve, values)
        if not points:
            continue
        index = form_index(title)
        sizes, spreads = zip(*points, strict=True)
        lower, upper = [spread.lower / scale for spread in spreads], [spread.upper / scale for spread in spreads]
        axes.fill_between(sizes, lower, upper, alpha=0.18, linewidth=0, color=_COLOURS[index])
        axes.plot(
            sizes,
            [spread.median / scale for spread in spreads],
            marker=MARKERS[index],
            markersize=4.5,
            linewidth=1.5,
            linestyle=DASHES[index],
            color=_COLOURS[index],
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(curve.at, [str(size) for size in curve.at])
    axes.set_xticks([], minor=True)
    _set_plain_ticks(axes)
    axes.set_xlabel(curve.axis.partition(":")[0])
    axes.set_ylabel(unit)


def _set_plain_ticks(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers: few for each power of ten, or more if the axis is short."""
    low, high = axes.get_ylim()
    ticks: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(step / 10 for step in range(10, 100))):
        ticks = [step * 10.0**power for power in range(-9, 10) for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: -(-len(ticks) // 8) or 1]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _draw_dots(axes: Axes, curve: Curve) -> None:
    scale, unit = _choose_scale(curve)
    titles = list(curve.forms)
    largest = 0.0
    for row, title in enumerate(titles):
        value = curve.forms[title][0]
        index = form_index(title)
        if not isinstance(value, Spread):
            axes.text(0, row, " not measured", va="center", color=_INK, alpha=0.7, fontsize=8)
            continue
        lower, median, upper = value.lower / scale, value.median / scale, value.upper / scale
        largest = max(largest, upper)
        axes.plot([lower, upper], [row, row], linewidth=7, alpha=0.3, solid_capstyle="butt", color=_COLOURS[index])
        axes.plot([median], [row], marker=MARKERS[index], markersize=5.5, color=_COLOURS[index])
        axes.annotate(
            format_number(median),
            (max(lower, upper), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * (largest or 1))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(unit)


def _choose_scale(curve: Curve) -> tuple[float, str]:
    """The divisor and the unit in which the medians of a curve read best."""
    medians = [value.median for values in curve.forms.values() for value in values if isinstance(value, Spread)]
    return scale_for(medians, curve.unit)


def _measured_points(curve: Curve, values: tuple[object, ...]) -> list[tuple[int, Spread]]:
    """The sizes at which one form was measured, with its spread."""
    return [(size, value) for size, value in zip(curve.at, values, strict=True) if isinstance(value, Spread)]


def describe_curve(curve: Curve) -> str:
    """A figure in words: every form at the smallest and the largest size."""
    descriptions = []
    for title, values in curve.forms.items():
        points = _measured_points(curve, values)
        if not points:
            descriptions.append(f"{title}: not measured")
            continue
        ends = points if len(points) < 3 else [points[0], points[-1]]
        numbers = ", ".join(f"{format_spread(spread, curve.unit)} at {size}" for size, spread in ends)
        descriptions.append(f"{title}: {numbers}")
    return f"{curve.title}, {curve.call}, against {curve.axis}. {'; '.join(descriptions)}."


def _inline_svg(text: str, alternative: str) -> Markup:
    """The ``<svg>`` element alone, with the size and the colours that the page gives it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # These ids are counted anew in each figure, and nothing refers to them.
    text = re.sub(r' id="[A-Za-z.]+(?:2d)?_\d+"', "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    opening_tag = re.match(r"<svg[^>]*>", text)
    assert opening_tag is not None
    view_box = re.search(r'viewBox="[^"]*"', opening_tag[0])
    assert view_box is not None
    new_tag = (
        f'<svg {view_box[0]} role="img" aria-label="{escape(alternative)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(new_tag + text[opening_tag.end() :])
