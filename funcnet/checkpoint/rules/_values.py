"""Rules about what tensors hold: cast, drop and fill."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Spec, check_shape
from funcnet.checkpoint._dtypes import dtype_from_name
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import ConstantNode, Node, cast_node
from funcnet.checkpoint.rules._patterns import Pattern, same_holes
from funcnet.checkpoint.rules._rule import Claim, Rule, State, each, free_of_ties, matching

_KINDS = ("arange", "tril")
LARGEST = 4 << 30
"""Bytes of a tensor that a rule may fill: masks, positions and counts take far fewer, and it is made in memory."""


@dataclass(frozen=True)
class Cast(Rule):
    """Change the dtype of the tensors that have dtype ``before``.

    Args:
        names: pattern of the tensors that are meant.
        before: the dtype there is, by torch's name.
        after: the dtype to be.
        lossy: whether values may change. If false, every value must come back bit for bit, which is checked.
        optional: whether there may be no such tensor.

    >>> Cast("{name**}", "bfloat16", "float32").inverse()
    Cast(names='{name**}', before='float32', after='bfloat16', lossy=False, optional=False)
    """

    names: str
    before: str
    after: str
    lossy: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        try:
            before, after = dtype_from_name(self.before), dtype_from_name(self.after)
        except ValueError as error:
            raise RuleError(str(error)) from None
        kinds = [(dtype.is_floating_point, dtype.is_complex, dtype is torch.bool) for dtype in (before, after)]
        if kinds[0] != kinds[1]:
            raise RuleError(f"{self.before} and {self.after} are numbers of different kinds; no cast goes both ways.")

    def apply(self, state: State) -> State:
        before, after = dtype_from_name(self.before), dtype_from_name(self.after)
        pattern = Pattern(self.names)
        if not any(state.tensors[name].spec.dtype is before for name in matching(state, pattern)):
            return self.nothing(state, self.names)
        return each(
            state, self, pattern, lambda node: cast_node(node, after, self.lossy) if node.spec.dtype is before else node
        )

    def inverse(self) -> Cast:
        return Cast(self.names, self.after, self.before, self.lossy, self.optional)


@dataclass(frozen=True)
class _OfValue(Rule):
    """What is said of tensors that hold a known value, or one not said: the fields of a Drop and of its inverse."""

    names: str
    value: float | str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    beside: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        _check_value(self)


@dataclass(frozen=True)
class Drop(_OfValue):
    """Leave tensors out.

    With a value, they must hold it, which is checked, and the way back writes them again: nothing is lost. Without,
    the loss is hereby declared, and the way back does not have them.

    Args:
        names: pattern of the tensors that are meant.
        value: what they hold: a number, "arange" (0, 1, 2 ... along the last axis), or "tril" (ones at and below the
            diagonal of the last two axes).
        shape, dtype: of the tensors, where a value is given.
        beside: pattern, with the same holes, of tensors that stay: for each of them there is one that is dropped.
            Needed with a value if ``names`` has holes.
        optional: whether there may be no such tensor.

    >>> Drop("h.{i}.attn.mask", "tril", [1, 1, 4, 4], "bool", beside="h.{i}.attn.weight").inverse().value
    'tril'
    """

    def apply(self, state: State) -> State:
        pattern = Pattern(self.names)
        found = matching(state, pattern)
        if not found:
            return self.nothing(state, self.names)
        free_of_ties(state, found)
        kept = {name: node for name, node in state.tensors.items() if name not in found}
        if self.value is None:
            gone = {name: state.tensors[name] for name in found}
            return replace(state, tensors=kept, lost={**state.lost, **gone})
        constant = _constant(self)
        wrong = [
            f"{name!r} is {state.tensors[name].spec}" for name in found if state.tensors[name].spec != constant.spec
        ]
        if wrong:
            raise RuleError(f"these are dropped as {constant.spec}:{truncated_list(wrong)}")
        claims = [
            Claim(f"{name!r}, which is dropped, holds {self.value}", state.tensors[name], constant) for name in found
        ]
        return replace(state, tensors=kept, claims=(*state.claims, *claims))

    def inverse(self) -> Fill:
        return Fill(self.names, self.value, self.shape, self.dtype, self.beside, self.optional)


@dataclass(frozen=True)
class Fill(_OfValue):
    """Add tensors of a known value; inverse of :class:`Drop`. Without a value it adds nothing."""

    def apply(self, state: State) -> State:
        if self.value is None:
            return state
        pattern = Pattern(self.names)
        new = [self.names]
        if self.beside is not None:
            beside = matching(state, Pattern(self.beside))
            if not beside:
                return self.nothing(state, self.beside)
            new = [pattern.format(holes) for holes in beside.values()]
        there = [repr(name) for name in new if name in state.tensors or name in state.aliases]
        if there:
            raise RuleError(f"these are there already and cannot be filled in:{truncated_list(there)}")
        filled: dict[str, Node] = {name: _constant(self) for name in new}
        return state.with_tensors({**state.tensors, **filled})

    def inverse(self) -> Drop:
        return Drop(self.names, self.value, self.shape, self.dtype, self.beside, self.optional or self.value is None)


def _constant(rule: _OfValue) -> ConstantNode:
    assert rule.value is not None
    return ConstantNode(Spec(rule.shape, dtype_from_name(rule.dtype)), rule.value)


def _check_value(rule: _OfValue) -> None:
    if rule.value is None:
        return
    try:
        dtype = dtype_from_name(rule.dtype)
        spec = Spec(check_shape(rule.shape, dtype.itemsize), dtype)
    except ValueError as error:
        raise RuleError(str(error)) from None
    if spec.nbytes > LARGEST:
        raise RuleError(f"{list(rule.shape)} takes {spec.nbytes:,} bytes; {LARGEST:,} are the most a value may fill.")
    if isinstance(rule.value, str) and rule.value not in _KINDS:
        raise RuleError(f"{rule.value!r} is no value: a number, or one of {', '.join(_KINDS)}.")
    if isinstance(rule.value, str) and len(rule.shape) < 1 + (rule.value == "tril"):
        raise RuleError(f"{rule.value!r} needs more axes than {list(rule.shape)} has.")
    if not _holds(dtype, rule.value, rule.shape):
        raise RuleError(f"{rule.dtype} cannot hold {rule.value!r}; another number would be there.")
    if rule.beside is not None:
        same_holes(Pattern(rule.names), Pattern(rule.beside))
    elif Pattern(rule.names).holes:
        raise RuleError(f'{rule.names!r} has holes: say beside which tensors it is, as beside = "h.{{i}}.attn.weight".')


def _holds(dtype: torch.dtype, value: float | str, shape: Shape) -> bool:
    """Whether a dtype has the numbers a value stands for: floats may round them, but not leave their range.

    >>> _holds(torch.int8, 300, ()), _holds(torch.float16, 0.1, ()), _holds(torch.bool, "arange", (3,))
    (False, True, False)
    """
    floats = dtype.is_floating_point or dtype.is_complex
    powers = dtype is torch.float8_e8m0fnu  # has neither zero nor sign
    if isinstance(value, str):
        largest = shape[-1] - 1 if value == "arange" and shape[-1] else 1
        return not powers and largest <= (2 / torch.finfo(dtype).eps if floats else _most(dtype))
    if not floats:
        return _least(dtype) <= value <= _most(dtype) and value == int(value)
    if value != value:
        return True
    if powers and value <= 0:
        return False
    if abs(value) == math.inf:
        return bool(torch.tensor(value, dtype=torch.float64).to(dtype).to(torch.complex128).isinf())
    return abs(value) <= torch.finfo(dtype).max


def _least(dtype: torch.dtype) -> int:
    return 0 if dtype is torch.bool else torch.iinfo(dtype).min


def _most(dtype: torch.dtype) -> int:
    return 1 if dtype is torch.bool else torch.iinfo(dtype).max
