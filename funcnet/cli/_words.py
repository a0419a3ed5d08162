"""Numbers as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from funcnet.compare import Compared


def digits(value: float) -> str:
    """Three digits that count.

    >>> digits(0.032871), digits(12.345), digits(1361.2)
    ('0.0329', '12.3', '1361')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float) -> Text:
    """So many times.

    >>> str(ratio(0.853))
    '0.85x'
    """
    return Text(f"{value:.2f}x", "bold")


def span(values: Iterable[float], form: str = "{:.2f}x") -> str:
    """The range of some numbers, in words.

    >>> span([1.21, 1.05, 1.1]), span([1.0])
    ('1.05x to 1.21x', '1.00x')
    """
    ordered = sorted(values)
    ends = [form.format(ordered[0]), form.format(ordered[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def gap(value: float | None) -> Text:
    """A difference that should be 0, in red where it is not."""
    if value is None:
        return Text("none", "dim")
    return Text("0", "bold green") if value == 0 else Text(f"{value:.2g}", "bold red")


def differing(results: Iterable[Compared]) -> str:
    """What differs by how much, in words."""
    return " ".join(_of_one(result) for result in results if not result.identical)


def _of_one(result: Compared) -> str:
    gaps = [f"{what} by {value:.2g}" for what, value in result.largest_difference.items() if value]
    return f"{result.title}: {', '.join(gaps)}."
