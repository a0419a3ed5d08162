"""The results of a comparison: records of plain values, which :func:`to_json` writes out.

A record lists in ``json_properties`` the properties that are written out besides its fields.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Sides:
    """One quantity measured on both sides: the nn.Module (stateful) and the net (stateless).

    >>> Sides(stateful=2.0, stateless=1.0).ratio
    0.5
    """

    json_properties: ClassVar = ("ratio",)

    stateful: float
    stateless: float

    @property
    def ratio(self) -> float:
        """Stateless over stateful: below 1, the net is quicker or smaller."""
        return self.stateless / self.stateful if self.stateful else math.inf


@dataclass(frozen=True)
class Programs:
    """The source that readers see: that of the nn.Module, and that of the net.

    >>> Programs(stateful="y = module(x)", stateless="y = net(params, x)").stateless
    'y = net(params, x)'
    """

    stateful: str
    stateless: str


@dataclass(frozen=True)
class PerSample:
    """The gradients of each sample of a batch, by a loop over the module and by one vmapped call of the net.

    ``loops_inside`` names the operators that vmap has no rule for and therefore runs one sample at a time.

    >>> PerSample("loss", 8, 0.5, 0.25, 1e-9, 1.0, 1e-7, ()).speed_up
    2.0
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
    """Stands in place of a result that could not be measured, and says why.

    >>> NotPossible("the output has no batch").reason
    'the output has no batch'
    """

    reason: str


NOT_TRIED = NotPossible("it was not tried")


@dataclass(frozen=True)
class MissingMode:
    """A mode in which the two forms could not be compared.

    Args:
        mode: "eval" or "training".
        reason: what stood in the way, as the end of a sentence.
        is_fault_of_net: whether the module ran and its net did not.

    >>> MissingMode("training", "the module raised RuntimeError: no loss").sentence
    'In training mode nothing was compared: the module raised RuntimeError: no loss.'
    """

    mode: str
    reason: str
    is_fault_of_net: bool = False

    @property
    def sentence(self) -> str:
        """The mode and the reason."""
        return f"In {self.mode} mode nothing was compared: {self.reason}."


@dataclass(frozen=True)
class FoundEffect:
    """What one line of a model does besides computing an output, and what to write instead.

    Args:
        kind: the kind of effect, as in :class:`funcnet.inspect.Effect`.
        location: file and line, as in "model.py:14"; empty where there is none.
        code: the text of that line.
        details: the operations, and what they read or write.
        paths: the parts that do so; an empty path is the model itself.
        modes: "eval", "training" or both.
        instead: what to write instead.

    >>> FoundEffect("draws", "net.py:9", "x = F.dropout(x)", ("dropout draws",), ("",), ("training",), "rng=").place
    'net.py:9'
    """

    kind: str
    location: str
    code: str
    details: tuple[str, ...]
    paths: tuple[str, ...]
    modes: tuple[str, ...]
    instead: str

    @property
    def place(self) -> str:
        """The line, or the parts where there is no line."""
        return self.location or ", ".join(path or "the model itself" for path in self.paths)


@dataclass(frozen=True)
class GradientCheck:
    """A directional derivative of both forms in float64, beside central finite differences.

    Args:
        quotient: the finite differences of the outputs, weighted at random, in a random direction of all weights and
            floating inputs.
        uncertainty: how far the quotient may be off, by rounding and because its steps are not infinitely small.
        scale: the sum of the absolute products of gradients and direction, of which the derivative is the sum.
        derivatives: the derivative by the backward of "nn.Module" and of "funcnet", for each layout in memory of the
            gradient that arrives at the outputs.

    >>> check = GradientCheck(2.0, 1e-10, 3.0, {"nn.Module": {"contiguous": 2.5}, "funcnet": {"contiguous": 2.0}})
    >>> check.is_right("nn.Module"), check.is_right("funcnet")
    (False, True)
    """

    json_properties: ClassVar = ("errors", "passes")

    quotient: float
    uncertainty: float
    scale: float
    derivatives: Mapping[str, Mapping[str, float]]

    @property
    def errors(self) -> dict[str, float]:
        """For each form the largest error of its derivatives, in units of the rounding of the finite differences."""
        return {form: self._error(form) / self.uncertainty if self.uncertainty else 0.0 for form in self.derivatives}

    def is_right(self, form: str) -> bool:
        """Whether a form errs by no more than rounding and small corners of the function explain."""
        return all(self._is_right_at(form, layout) for layout in self.derivatives[form])

    @property
    def all_right(self) -> bool:
        """Whether the gradients of all forms are those of finite differences."""
        return all(map(self.is_right, self.derivatives))

    def worst_layout(self, form: str) -> str:
        """The layout of the incoming gradient at which a form errs most."""
        return max(self.derivatives[form], key=lambda layout: abs(self.derivatives[form][layout] - self.quotient))

    def worst_derivative(self, form: str) -> float:
        """The derivative that is farthest from the finite differences."""
        return self.derivatives[form][self.worst_layout(form)]

    @property
    def passes(self) -> bool:
        """Whether the net is right, or errs only where the module does too, as code with ``detach`` does on purpose."""
        return self.is_right("funcnet") or not self.is_right("nn.Module")

    @property
    def verdict(self) -> str:
        """What follows, in one or two sentences."""
        module, net = self.is_right("nn.Module"), self.is_right("funcnet")
        if module and net:
            return "The gradients of both forms are those of finite differences."
        if net:
            values = self.derivatives["nn.Module"]
            wrong = [layout for layout in values if not self._is_right_at("nn.Module", layout)]
            where = "" if len(wrong) == len(values) else f", if the gradient of its output is {' or '.join(wrong)}"
            return (
                f"The gradient of the module is WRONG{where}, and that of the net is right: a kernel of torch misreads "
                f"a layout in memory (funcnet/layers/WRONG_KERNELS.md)."
            )
        if module:
            return "The gradient of the net is WRONG, and that of the module is right: please report it."
        return (
            "The gradients of both forms differ from finite differences. Code that rounds, detaches or has a backward "
            "of its own does that on purpose; anything else is wrong."
        )

    def _is_right_at(self, form: str, layout: str) -> bool:
        error = abs(self.derivatives[form][layout] - self.quotient)
        return error <= 1000 * self.uncertainty or error <= 1e-6 * self.scale

    def _error(self, form: str) -> float:
        return max(abs(value - self.quotient) for value in self.derivatives[form].values())


@dataclass(frozen=True)
class Compared:
    """The results that every comparison of one model has.

    ``largest_difference`` maps each quantity to its difference, or to None if there was nothing to compare.
    ``missing_modes`` says of which modes there are no numbers, and why.

    >>> from funcnet.compare import compare_module
    >>> result = compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"], budget=0.01)
    >>> isinstance(result, Compared), result.identical
    (True, True)
    """

    json_properties: ClassVar = ("identical", "passes")

    name: str
    title: str
    parameters: int
    programs: Programs
    largest_difference: Mapping[str, float | None]
    forward_seconds: Sides | NotPossible
    step_seconds: Sides | NotPossible
    peak_bytes: Sides | NotPossible
    per_sample: PerSample | NotPossible
    missing_modes: tuple[MissingMode, ...] = field(default=(), kw_only=True)
    effects: tuple[FoundEffect, ...] | NotPossible = field(default=(), kw_only=True)
    gradient: GradientCheck | NotPossible = field(default=NOT_TRIED, kw_only=True)

    @property
    def identical(self) -> bool:
        """Whether every difference is exactly 0, and the net runs wherever the module does."""
        return not any(self.largest_difference.values()) and not any(m.is_fault_of_net for m in self.missing_modes)

    @property
    def passes(self) -> bool:
        """Whether both forms are identical, their gradients per sample agree, and the net has the right gradient."""
        agrees = isinstance(self.per_sample, NotPossible) or self.per_sample.agrees
        return self.identical and agrees and (isinstance(self.gradient, NotPossible) or self.gradient.passes)


@dataclass(frozen=True)
class Trained(Compared):
    """One model trained twice on the digits; accuracies are shares of the test images, in [0, 1].

    >>> same, gradients = Sides(0.5, 0.5), PerSample("loss", 8, 0.5, 0.25, 0.0, 1.0, 1e-7, ())
    >>> Trained("mlp", "MLP", 9, Programs("", ""), {"weights": 0.0}, same, same, same, gradients, same).passes
    True
    """

    forward_seconds: Sides
    step_seconds: Sides
    peak_bytes: Sides
    per_sample: PerSample
    accuracy: Sides


@dataclass(frozen=True)
class Articles:
    """The results for all models that were trained twice, and the two training steps that trained them.

    >>> Articles({}, 0, 1, 64, 0.1, 0.9, {}, Programs("", ""), ()).passes
    True
    """

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
    """A module of the user, compared with its net without training.

    >>> from funcnet.compare import compare_module
    >>> result = compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"], budget=0.01)
    >>> isinstance(result, Untrained), result.inputs
    (True, ('float32[2,3]',))
    """

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
