"""The results of a comparison: records of plain values, which :func:`to_json` writes out.

A record lists in ``json_properties`` the properties that are written out besides its fields.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Sides:
    """One quantity measured on both sides: the nn.Module (stateful) and the net (stateless)."""

    json_properties: ClassVar = ("ratio",)

    stateful: float
    stateless: float

    @property
    def ratio(self) -> float:
        """Stateless over stateful: below 1, the net is quicker or smaller."""
        return self.stateless / self.stateful if self.stateful else math.inf


@dataclass(frozen=True)
class Programs:
    """The source that readers see: that of the nn.Module, and that of the net."""

    stateful: str
    stateless: str


@dataclass(frozen=True)
class PerSample:
    """The gradients of each sample of a batch, by a loop over the module and by one vmapped call of the net.

    ``loops_inside`` names the operators that vmap has no rule for and therefore runs one sample at a time.
    """

    json_properties: ClassVar = ("speed_up", "agrees")

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
        """How many times quicker the vmapped call is than the loop."""
        return self.loop_seconds / self.vmap_seconds

    @property
    def agrees(self) -> bool:
        """Whether the gradients differ by rounding alone: by less than half of the digits of the largest gradient.

        The difference is seldom 0, because a batched kernel adds in another order than kernels for one sample.
        """
        return self.largest_difference == 0 or self.largest_difference <= self.rounding * self.largest_gradient


@dataclass(frozen=True)
class NotPossible:
    """Stands in place of a result that could not be measured, and says why."""

    reason: str


@dataclass(frozen=True)
class Compared:
    """The results that every comparison of one model has.

    ``largest_difference`` maps each quantity to its difference, or to None if there was nothing to compare.
    """

    json_properties: ClassVar = ("identical", "passes")

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
        """Whether both forms are identical, and their gradients per sample differ by rounding alone."""
        return self.identical and (isinstance(self.per_sample, NotPossible) or self.per_sample.agrees)


@dataclass(frozen=True)
class Trained(Compared):
    """One model trained twice on the digits; accuracies are shares of the test images, in [0, 1]."""

    peak_bytes: Sides
    per_sample: PerSample
    accuracy: Sides


@dataclass(frozen=True)
class Articles:
    """The results for all models that were trained twice, and the two training steps that trained them."""

    json_properties: ClassVar = ("identical", "passes")

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
    """A module of the user, compared with its net without training."""

    versions: Mapping[str, str]
    seed: int
    inputs: tuple[str, ...]
    parts: str
    notes: tuple[str, ...]


def to_json(value: object) -> Any:
    """Turn a record into dicts, lists, numbers and strings; infinity and NaN become the strings "inf" and "nan".

    >>> to_json(Sides(2.0, 1.0))
    {'stateful': 2.0, 'stateless': 1.0, 'ratio': 0.5}
    """
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_json(getattr(value, name)) for name in (*names, *getattr(value, "json_properties", ()))}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
