"""Numbers and differences of a comparison as text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from funcnet._format import format_ratio
from funcnet.compare import Compared, PerSample


def ratio_text(ratio: float) -> Text:
    """A ratio in bold.

    >>> str(ratio_text(0.853))
    '0.85x'
    """
    return Text(format_ratio(ratio), "bold")


def format_range(ratios: Iterable[float]) -> str:
    """The smallest and the largest of some ratios.

    >>> format_range([1.21, 1.05, 1.1]), format_range([1.0])
    ('1.05x to 1.21x', '1.00x')
    """
    ordered = sorted(ratios)
    smallest, largest = format_ratio(ordered[0]), format_ratio(ordered[-1])
    return smallest if smallest == largest else f"{smallest} to {largest}"


def difference_text(difference: float | None) -> Text:
    """A difference that should be 0; it is red if it is not."""
    if difference is None:
        return Text("none", "dim")
    return Text("0", "bold green") if difference == 0 else Text(f"{difference:.2g}", "bold red")


def rounding_text(per_sample: PerSample) -> Text:
    """The difference of single gradients, which may be one of rounding; it is red if it is more."""
    return Text(f"{per_sample.largest_difference:.1g}", "" if per_sample.agrees else "bold red")


def describe_differences(results: Iterable[Compared]) -> str:
    """Which quantities of which models differ, and by how much, as sentences."""
    return " ".join(_describe_model(result) for result in results if not result.identical)


def _describe_model(result: Compared) -> str:
    differences = [f"{quantity} by {value:.2g}" for quantity, value in result.largest_difference.items() if value]
    return f"{result.title}: {', '.join(differences)}."
