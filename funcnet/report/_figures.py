"""Curves as SVG that takes its colours from the page: real text, light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from funcnet.compare import Curve, Spread
from funcnet.report._spread_text import middle_half, number, unit_of

FORMS = ("nn.Module", "functional_call", "native", "traced", "compiled")
MARKERS = ("o", "s", "^", "D", "v")
DASHES: tuple[Any, ...] = ("-", (0, (1, 1.2)), "-", (0, (4, 1.5)), (0, (5, 1.5, 1, 1.5)))

# Colours that stand for variables of the page, which are put in their place in the finished text.
_INK, _FAINT = "#010203", "#040506"
_COLOURS = tuple(f"#0a0b0{index}" for index in range(len(FORMS)))
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


def form_index(title: str) -> int:
    """Which form the title of a series speaks of: ``"native, vmap"`` is native.

    >>> form_index("native, vmap")
    2
    """
    return FORMS.index(title.partition(",")[0])


def figure(curve: Curve, salt: str) -> Markup:
    """A curve as an ``<svg>``: lines with their quartiles as bands; or, at one size, dots with their quartiles as bars.

    Args:
        salt: something that no other figure of the page has, for the ids within.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style):
        rows = len(curve.forms)
        single = len(curve.at) == 1
        drawing = Figure(figsize=(3.9, 0.6 + 0.33 * rows if single else 2.8), layout="constrained")
        axes = drawing.subplots()
        (_dots if single else _lines)(axes, curve)
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), description(curve))


def _lines(axes: Any, curve: Curve) -> None:
    scale, unit = _scale(curve)
    for title, values in curve.forms.items():
        index = form_index(title)
        found = [(at, value) for at, value in zip(curve.at, values, strict=True) if isinstance(value, Spread)]
        if not found:
            continue
        x = [at for at, _ in found]
        look = {"color": _COLOURS[index]}
        low, high = [value.lower / scale for _, value in found], [value.upper / scale for _, value in found]
        axes.fill_between(x, low, high, alpha=0.18, linewidth=0, **look)
        axes.plot(
            x,
            [value.median / scale for _, value in found],
            marker=MARKERS[index],
            markersize=4.5,
            linewidth=1.5,
            linestyle=DASHES[index],
            **look,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(curve.at, [str(at) for at in curve.at])
    axes.set_xticks([], minor=True)
    _plain_ticks(axes)
    axes.set_xlabel(curve.axis.partition(":")[0])
    axes.set_ylabel(unit)


def _plain_ticks(axes: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers: few steps to each power of ten, more where the axis is short."""
    low, high = axes.get_ylim()
    ticks: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(step / 10 for step in range(10, 100))):
        ticks = [step * 10.0**power for power in range(-9, 10) for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: -(-len(ticks) // 8) or 1]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _dots(axes: Any, curve: Curve) -> None:
    scale, unit = _scale(curve)
    titles = list(curve.forms)
    for row, title in enumerate(titles):
        value = curve.forms[title][0]
        index = form_index(title)
        if not isinstance(value, Spread):
            axes.text(0, row, " not measured", va="center", color=_INK, alpha=0.7, fontsize=8)
            continue
        ends = [value.lower / scale, value.upper / scale]
        axes.plot(ends, [row, row], linewidth=7, alpha=0.3, solid_capstyle="butt", color=_COLOURS[index])
        axes.plot([value.median / scale], [row], marker=MARKERS[index], markersize=5.5, color=_COLOURS[index])
        axes.annotate(
            number(value.median / scale),
            (max(ends), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max((v.upper / scale for (v,) in curve.forms.values() if isinstance(v, Spread)), default=1))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(unit)


def _scale(curve: Curve) -> tuple[float, str]:
    found = [value.median for values in curve.forms.values() for value in values if isinstance(value, Spread)]
    return unit_of(found, curve.unit)


def description(curve: Curve) -> str:
    """A figure in words: every form at the smallest and largest size."""
    parts = []
    for title, values in curve.forms.items():
        found = [(at, v) for at, v in zip(curve.at, values, strict=True) if isinstance(v, Spread)]
        if not found:
            parts.append(f"{title}: not measured")
            continue
        ends = found if len(found) < 3 else [found[0], found[-1]]
        parts.append(f"{title}: {', '.join(f'{middle_half(v, curve.unit)} at {at}' for at, v in ends)}")
    return f"{curve.title}, {curve.call}, against {curve.axis}. {'; '.join(parts)}."


def _inline(text: str, alternative: str) -> Markup:
    """The ``<svg>`` element alone, scaled by the page and coloured by its variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.]+(?:2d)?_\d+"', "", text)  # counted anew in each figure; nothing refers to them
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    label = f'<svg {box[0]} role="img" aria-label="{escape(alternative)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(label + text[head.end() :])
