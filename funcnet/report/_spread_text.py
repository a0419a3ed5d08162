"""Numbers as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable

from funcnet.compare import Curve, NotPossible, Spread

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def number(value: float) -> str:
    """Three digits that count.

    >>> number(0.032871), number(12.345), number(1361.2)
    ('0.0329', '12.3', '1,361')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def unit_of(values: Iterable[float], unit: str) -> tuple[float, str]:
    """The scale in which the largest of some numbers reads best, and its name.

    >>> unit_of([0.0002, 0.004], "seconds"), unit_of([2_000_000], "bytes")
    ((0.001, 'ms'), (1000000.0, 'MB'))
    """
    largest = max(values, default=0.0)
    scales = _TIMES if unit == "seconds" else _SIZES
    return next(((scale, name) for scale, name in scales if largest >= scale), scales[-1])


def quantity(value: float, unit: str) -> str:
    """One number with its unit.

    >>> quantity(0.00123, "seconds"), quantity(512, "bytes")
    ('1.23 ms', '512 B')
    """
    scale, name = unit_of([value], unit)
    return f"{number(value / scale)} {name}"


def rounds(curve: Curve) -> str:
    """How many rounds the numbers of a curve are of.

    >>> rounds(Curve("T", "c", "a", "seconds", (1, 2), {"native": (Spread(1, 1, 1, 5), Spread(1, 1, 1, 88))}))
    'of 5 to 88 rounds'
    """
    counts = [value.rounds for values in curve.forms.values() for value in values if isinstance(value, Spread)]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"of {low} to {high} rounds" if low != high else f"of {plural(low, 'round')}"


def middle_half(spread: Spread, unit: str) -> str:
    """Median and quartiles, in one unit.

    >>> middle_half(Spread(0.002, 0.0019, 0.0023, 9), "seconds")
    '2 ms (1.9 to 2.3)'
    """
    scale, name = unit_of([spread.median], unit)
    low, high = number(spread.lower / scale), number(spread.upper / scale)
    median = f"{number(spread.median / scale)} {name}"
    return median if low == high == number(spread.median / scale) else f"{median} ({low} to {high})"


def times(ratio: float) -> str:
    """So many times.

    >>> times(0.853), times(12.34), times(150)
    ('0.85x', '12x', '150x')
    """
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


def listed(items: Iterable[str], last: str = "and") -> str:
    """Items in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    given = list(items)
    return f"{', '.join(given[:-1])} {last} {given[-1]}" if len(given) > 1 else "".join(given)


def ended(reason: str) -> str:
    """A reason as the end of a sentence, which may have been cut short.

    >>> ended("no params"), ended("a long story ...")
    ('no params.', 'a long story ...')
    """
    return reason if reason.endswith(".") else f"{reason}."


def plural(count: int, thing: str) -> str:
    """A number of things.

    >>> plural(1, "tensor"), plural(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def missing(curve: Curve) -> list[str]:
    """What of a curve could not be measured, and why: one line for each form and reason."""
    lines: dict[tuple[str, str], list[int]] = {}
    for form, values in curve.forms.items():
        for at, value in zip(curve.at, values, strict=True):
            if isinstance(value, NotPossible):
                lines.setdefault((form, value.reason), []).append(at)
    everywhere = len(curve.at)
    return [
        f"{form}{'' if len(at) == everywhere else f' at {listed(map(str, at))}'}: not measured, as {ended(reason)}"
        for (form, reason), at in lines.items()
    ]
