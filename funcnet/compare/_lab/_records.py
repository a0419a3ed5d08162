"""The results of the laboratory, as plain values. ``funcnet.report`` draws them, and ``to_json`` writes them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from funcnet.compare._results import NOT_TRIED, Articles, FoundEffect, GradientCheck, NotPossible, Untrained


@dataclass(frozen=True)
class Spread:
    """One quantity measured several times: the median of the rounds and the quartiles, in seconds or bytes.

    >>> Spread(median=2.0, lower=1.5, upper=2.5, rounds=9).median
    2.0
    """

    median: float
    lower: float
    upper: float
    rounds: int


@dataclass(frozen=True)
class Curve:
    """One quantity of several forms at several sizes, measured in turns.

    ``forms`` holds, for each form, one value for each size in ``at``.

    >>> Curve("Forward", "net(params, x)", "batch", "seconds", (1, 8), {}).at
    (1, 8)
    """

    title: str
    call: str
    axis: str
    unit: Literal["seconds", "bytes"]
    at: tuple[int, ...]
    forms: Mapping[str, tuple[Spread | NotPossible, ...]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: ``worked`` is None if there was nothing to try; ``evidence`` says what was observed.

    >>> Outcome(True, "8 gradients").worked
    True
    """

    worked: bool | None
    evidence: str


@dataclass(frozen=True)
class Capability:
    """One thing that users do with a model, tried with each form in this run.

    >>> Capability("vmap", "torch.vmap", {"net": Outcome(True, "8 gradients")}).forms["net"].evidence
    '8 gradients'
    """

    name: str
    tried: str
    forms: Mapping[str, Outcome]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the params and buffers: its path, its kind, the class of the part that holds it, and its bytes.

    The kind ``unsaved`` is a buffer that does not belong to the ``state_dict``.

    >>> TensorEntry("fc.weight", "param", "Linear", (3, 2), "float32", 24).bytes
    24
    """

    path: str
    kind: Literal["param", "buffer", "unsaved", "tie"]
    owner: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """A program, as readers see it.

    >>> Listing("net", "y = net(params, x)").code
    'y = net(params, x)'
    """

    title: str
    code: str


@dataclass(frozen=True)
class Study:
    """One model in all its forms.

    ``parts`` maps the path of each part to its class. ``largest_difference`` compares each form with ``nn.Module``;
    a quantity has the value None if there is nothing to compare.

    >>> listing = Listing("net", "y = net(params, x)")
    >>> gaps = {"net": {"outputs": 0.0}}
    >>> Study("mlp", "MLP", ("f32[4,2]",), 9, listing, listing, listing, {}, (), gaps, {}, (), 0.0, ()).identical
    True
    """

    json_properties: ClassVar = ("identical",)

    name: str
    title: str
    inputs: tuple[str, ...]
    parameters: int
    stateful: Listing
    stateless: Listing | NotPossible
    net: Listing
    parts: Mapping[str, str]
    entries: tuple[TensorEntry, ...]
    largest_difference: Mapping[str, Mapping[str, float | None] | NotPossible]
    curves: Mapping[str, Curve | NotPossible]
    capabilities: tuple[Capability, ...]
    compile_seconds: float
    notes: tuple[str, ...]
    effects: tuple[FoundEffect, ...] | NotPossible = ()
    gradient: GradientCheck | NotPossible = NOT_TRIED

    @property
    def identical(self) -> bool:
        """Whether every form has the bits of the module, except the compiled one, whose kernels round differently."""
        compared = (gaps for form, gaps in self.largest_difference.items() if form != "compiled")
        return not any(any(gaps.values()) for gaps in compared if not isinstance(gaps, NotPossible))


@dataclass(frozen=True)
class Laboratory:
    """A comparison, and a study of each of its models.

    >>> from funcnet.compare import compare_module
    >>> result = compare_module("torch.nn:Linear(2, 3)", ["float32[4,2]"], budget=0.001)
    >>> Laboratory(result, (), {}, {}, 0, 1, 0.0, "funcnet compare").passes
    True
    """

    json_properties: ClassVar = ("identical", "passes")

    comparison: Articles | Untrained
    studies: tuple[Study, ...]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    seed: int
    threads: int
    seconds: float
    command: str

    @property
    def identical(self) -> bool:
        """Whether every form of every model has the bits of the module, except the compiled ones."""
        return all(study.identical for study in self.studies)

    @property
    def passes(self) -> bool:
        """Whether the comparison passes, and every form is identical."""
        return self.comparison.passes and self.identical
