"""Curves and their spreads as text for readers."""

from __future__ import annotations

from funcnet._format import format_count, format_number, join_words, scale_for
from funcnet.compare import Curve, NotPossible, Spread


def format_spread(spread: Spread, unit: str) -> str:
    """The median and the quartiles, in one unit.

    >>> format_spread(Spread(0.002, 0.0019, 0.0023, 9), "seconds")
    '2 ms (1.9 to 2.3)'
    """
    scale, unit_name = scale_for([spread.median], unit)
    lower, median, upper = (format_number(value / scale) for value in (spread.lower, spread.median, spread.upper))
    quartiles = "" if lower == upper == median else f" ({lower} to {upper})"
    return f"{median} {unit_name}{quartiles}"


def describe_rounds(curve: Curve) -> str:
    """How many rounds the medians of a curve were taken of.

    >>> spreads = Spread(1, 1, 1, 5), Spread(1, 1, 1, 88)
    >>> describe_rounds(Curve("T", "c", "a", "seconds", (1, 2), {"native": spreads}))
    'of 5 to 88 rounds'
    """
    counts = [value.rounds for values in curve.forms.values() for value in values if isinstance(value, Spread)]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"of {low} to {high} rounds" if low != high else f"of {format_count(low, 'round')}"


def list_missing(curve: Curve) -> list[str]:
    """The values of a curve that could not be measured: one line for each form and reason."""
    sizes_by_reason: dict[tuple[str, str], list[int]] = {}
    for form, values in curve.forms.items():
        for size, value in zip(curve.at, values, strict=True):
            if isinstance(value, NotPossible):
                sizes_by_reason.setdefault((form, value.reason), []).append(size)
    lines = []
    for (form, reason), sizes in sizes_by_reason.items():
        location = "" if len(sizes) == len(curve.at) else f" at {join_words(map(str, sizes))}"
        lines.append(f"{form}{location}: not measured, as {end_sentence(reason)}")
    return lines


def end_sentence(reason: str) -> str:
    """A reason as the end of a sentence; a reason that was cut short ends with dots already.

    >>> end_sentence("no params"), end_sentence("a long story ...")
    ('no params.', 'a long story ...')
    """
    return reason if reason.endswith(".") else f"{reason}."


def capitalize_first(text: str) -> str:
    """The text with an upper-case first letter; other letters stay as they are.

    >>> capitalize_first("vmap(grad) of a BatchNorm")
    'Vmap(grad) of a BatchNorm'
    """
    return text[:1].upper() + text[1:]
