"""Numbers, sizes and counts as text for readers: in tables, reports, commands and messages."""

from __future__ import annotations

from collections.abc import Iterable

_SCALES = {
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


def format_number(value: float) -> str:
    """A number with three significant digits.

    >>> format_number(0.032871), format_number(12.345), format_number(1361.2)
    ('0.0329', '12.3', '1,361')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def scale_for(values: Iterable[float], unit: str) -> tuple[float, str]:
    """The divisor and unit name in which the largest of some values reads best; ``unit`` is "seconds" or "bytes".

    >>> scale_for([0.0002, 0.004], "seconds"), scale_for([2_000_000], "bytes")
    ((0.001, 'ms'), (1000000.0, 'MB'))
    """
    largest = max(values, default=0.0)
    scales = _SCALES[unit]
    return next(((scale, name) for scale, name in scales if largest >= scale), scales[-1])


def format_seconds(seconds: float) -> str:
    """A time with its unit.

    >>> format_seconds(0.00123)
    '1.23 ms'
    """
    return _format_scaled(seconds, "seconds")


def format_bytes(count: float) -> str:
    """A size in memory or on disk, in powers of ten.

    >>> format_bytes(0), format_bytes(1536), format_bytes(4_000_000_000)
    ('0 B', '1.54 kB', '4 GB')
    """
    return _format_scaled(count, "bytes")


def _format_scaled(value: float, unit: str) -> str:
    scale, name = scale_for([value], unit)
    return f"{format_number(value / scale)} {name}"


def format_ratio(ratio: float) -> str:
    """A factor, as in "twice as fast".

    >>> format_ratio(0.853), format_ratio(12.34), format_ratio(150)
    ('0.85x', '12x', '150x')
    """
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


def format_count(count: int, noun: str) -> str:
    """A count with its noun in the right number.

    >>> format_count(1, "tensor"), format_count(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def join_words(words: Iterable[str], conjunction: str = "and") -> str:
    """Words in a sentence, separated by commas and a conjunction.

    >>> join_words(["a"]), join_words(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    items = list(words)
    return f"{', '.join(items[:-1])} {conjunction} {items[-1]}" if len(items) > 1 else "".join(items)
