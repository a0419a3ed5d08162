"""What a comparison found. Records of plain values, which :func:`to_json` writes out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Sides:
    """The same quantity of the nn.Module and of the net."""

    also: ClassVar = ("ratio",)

    stateful: float
    stateless: float

    @property
    def ratio(self) -> float:
        """Stateless over stateful: below 1 the net is quicker, or smaller."""
        return self.stateless / self.stateful if self.stateful else math.inf


@dataclass(frozen=True)
class Programs:
    """What a reader reads: source of the nn.Module, and of the net."""

    stateful: str
    stateless: str


@dataclass(frozen=True)
class PerSample:
    """Gradients for each sample of a batch: a loop over the module, and one vmapped call of the net.

    ``loops_inside`` names the operators that vmap has no rule for and runs one sample at a time.
    """

    also: ClassVar = ("speed_up", "agrees")

    line: str
    batch: int
    loop_seconds: float
    vmap_seconds: float
    largest_difference: float
    largest_gradient: float
    rounding: float
    loops_inside: tuple[str, ...]

    @property
    def speed_up(self) -> float:
        """How many times quicker than the loop."""
        return self.loop_seconds / self.vmap_seconds

    @property
    def agrees(self) -> bool:
        """Whether the difference is one of rounding: within half of the digits of the dtype, from the largest gradient.

        It is not 0, as a batched kernel adds in another order than kernels for one sample.
        """
        return self.largest_difference == 0 or self.largest_difference <= self.rounding * self.largest_gradient


@dataclass(frozen=True)
class NotPossible:
    """Why something was not measured."""

    reason: str


@dataclass(frozen=True)
class Compared:
    """What every comparison of one model has. ``largest_difference`` holds None where there is nothing to compare."""

    also: ClassVar = ("identical", "passes")

    name: str
    title: str
    parameters: int
    programs: Programs
    largest_difference: Mapping[str, float | None]
    forward_seconds: Sides
    step_seconds: Sides
    peak_bytes: Sides | NotPossible
    per_sample: PerSample | NotPossible

    @property
    def identical(self) -> bool:
        """Whether every difference is exactly 0."""
        return not any(self.largest_difference.values())

    @property
    def passes(self) -> bool:
        """Whether both forms are identical, and gradients per sample differ by rounding alone."""
        return self.identical and (isinstance(self.per_sample, NotPossible) or self.per_sample.agrees)


@dataclass(frozen=True)
class Trained(Compared):
    """One model trained twice on the digits; accuracies are shares of the test images, in [0, 1]."""

    peak_bytes: Sides
    per_sample: PerSample
    accuracy: Sides


@dataclass(frozen=True)
class Articles:
    """All models trained twice, and the two training steps they were trained with."""

    also: ClassVar = ("identical", "passes")

    versions: Mapping[str, str]
    seed: int
    steps: int
    batch: int
    rate: float
    momentum: float
    images: Mapping[str, int]
    training_step: Programs
    models: tuple[Trained, ...]

    @property
    def identical(self) -> bool:
        """Whether every difference of every model is exactly 0."""
        return all(model.identical for model in self.models)

    @property
    def passes(self) -> bool:
        """Whether every model passes."""
        return all(model.passes for model in self.models)


@dataclass(frozen=True)
class Untrained(Compared):
    """A module of the user's, compared on inputs without training."""

    versions: Mapping[str, str]
    seed: int
    inputs: tuple[str, ...]
    parts: str
    notes: tuple[str, ...]


def to_json(value: Any) -> Any:
    """A record as dicts, lists, numbers and strings; a number that JSON has no form for is a string such as "inf".

    >>> to_json(Sides(2.0, 1.0))
    {'stateful': 2.0, 'stateless': 1.0, 'ratio': 0.5}
    """
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_json(getattr(value, name)) for name in (*names, *getattr(value, "also", ()))}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
