"""Rules that change the values of tensors, or which tensors there are: cast, drop and fill."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from funcnet._tensors import is_inexact
from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._dtypes import dtype_from_name, dtype_name
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import ConstantNode, Node, cast_node
from funcnet.checkpoint._stored_shapes import check_shape
from funcnet.checkpoint.rules._patterns import Pattern, check_same_holes
from funcnet.checkpoint.rules._rule import Claim, Rule, State, map_matches, match_names, refuse_ties

_SEQUENCES = ("arange", "tril")
LARGEST = 4 << 30
"""The most bytes of a tensor that a rule may fill: it is made in memory, and masks and positions are far smaller."""


@dataclass(frozen=True)
class Cast(Rule):
    """Change the dtype of the tensors that have dtype ``before``.

    Args:
        names: pattern of the tensors to change.
        before: the present dtype, by torch's name.
        after: the new dtype.
        lossy: whether values may change. If false, every value must come back bit for bit, which is checked.
        optional: whether it is allowed that no tensor matches.

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
        if _number_kind(before) != _number_kind(after):
            raise RuleError(f"{self.before} and {self.after} are numbers of different kinds; no cast goes both ways.")
        object.__setattr__(self, "before", dtype_name(before))  # in place of a short name
        object.__setattr__(self, "after", dtype_name(after))

    def apply(self, state: State) -> State:
        before, after = dtype_from_name(self.before), dtype_from_name(self.after)
        pattern = Pattern(self.names)
        if not any(state.tensors[name].spec.dtype is before for name in match_names(state, pattern)):
            return self.unchanged_if_optional(state, self.names)

        def cast_before(node: Node) -> Node:
            return cast_node(node, after, self.lossy) if node.spec.dtype is before else node

        return map_matches(state, self, pattern, cast_before)

    def inverse(self) -> Cast:
        return Cast(self.names, self.after, self.before, self.lossy, self.optional)


def _number_kind(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    return dtype.is_floating_point, dtype.is_complex, dtype is torch.bool


@dataclass(frozen=True)
class _ValueRule(Rule):
    """The fields that Drop and its inverse Fill share: which tensors, and the value they hold, if it is known."""

    names: str
    value: float | str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    beside: str | None = None
    optional: bool = False
    lossy: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        _check_value(self)


@dataclass(frozen=True)
class Drop(_ValueRule):
    """Leave tensors out.

    With a value, they must hold it, which is checked, and the inverse writes them again: nothing is lost. If it is
    lossy, they may hold anything: the rule declares the loss, and the inverse writes the value. Without a value, the
    loss is declared too, and the inverse does not bring them back.

    Args:
        names: pattern of the tensors to drop.
        value: what they hold: a number, "arange" (0, 1, 2 ... along the last axis), or "tril" (ones on and below the
            diagonal of the last two axes).
        shape, dtype: of the tensors, if a value is given.
        beside: pattern, with the same holes, of tensors that stay: each of them has one that is dropped. It is needed
            with a value if ``names`` has holes.
        optional: whether it is allowed that no tensor matches.
        lossy: whether they may hold something else than the value.

    >>> Drop("h.{i}.attn.mask", "tril", [1, 1, 4, 4], "bool", beside="h.{i}.attn.weight").inverse().value
    'tril'
    """

    def apply(self, state: State) -> State:
        matches = match_names(state, Pattern(self.names))
        if not matches:
            return self.unchanged_if_optional(state, self.names)
        refuse_ties(state, matches)
        dropped = {name: state.tensors[name] for name in matches}
        remaining = {name: node for name, node in state.tensors.items() if name not in matches}
        if self.value is None:
            return state.with_tensors(remaining).set_aside(dropped)
        constant = _make_constant(self)
        problems = [f"{name!r} is {node.spec}" for name, node in dropped.items() if node.spec != constant.spec]
        if problems:
            raise RuleError(f"these are dropped as {constant.spec}:{truncated_list(problems)}")
        if self.lossy:
            return state.with_tensors(remaining).set_aside(dropped)
        claims = [
            Claim(f"{name!r}, which is dropped, holds {self.value}", node, constant) for name, node in dropped.items()
        ]
        return replace(state, tensors=remaining, claims=(*state.claims, *claims))

    def inverse(self) -> Fill:
        return Fill(self.names, self.value, self.shape, self.dtype, self.beside, self.optional, self.lossy)


@dataclass(frozen=True)
class Fill(_ValueRule):
    """Add tensors of a known value; inverse of :class:`Drop`. Without a value it adds nothing.

    >>> Fill("norm.bias", 0.0, shape=(4,)).inverse()
    Drop(names='norm.bias', value=0.0, shape=(4,), dtype='float32', beside=None, optional=False, lossy=False)
    """

    def apply(self, state: State) -> State:
        if self.value is None:
            return self._bring_back(state)
        names = [self.names]
        if self.beside is not None:
            neighbours = match_names(state, Pattern(self.beside))
            if not neighbours:
                return self.unchanged_if_optional(state, self.beside)
            pattern = Pattern(self.names)
            names = [pattern.format(holes) for holes in neighbours.values()]
        existing = [repr(name) for name in names if name in state.tensors or name in state.aliases]
        if existing:
            raise RuleError(f"these are there already and cannot be filled in:{truncated_list(existing)}")
        nodes: dict[str, Node] = {name: _make_constant(self) for name in names}
        if self.lossy:
            state, nodes = state.bring_in(nodes)
        return state.with_tensors({**state.tensors, **nodes})

    def _bring_back(self, state: State) -> State:
        """The state with what was dropped for good, which only a proof still has."""
        if state.outside is None:
            return state
        outside, nodes = state.outside.take_all()
        return replace(state, outside=outside, tensors={**state.tensors, **nodes})

    def inverse(self) -> Drop:
        optional = self.optional or self.value is None
        return Drop(self.names, self.value, self.shape, self.dtype, self.beside, optional, self.lossy)


def _make_constant(rule: _ValueRule) -> ConstantNode:
    assert rule.value is not None
    return ConstantNode(Spec(rule.shape, dtype_from_name(rule.dtype)), rule.value)


def _check_value(rule: _ValueRule) -> None:
    if rule.value is None:
        return
    try:
        dtype = dtype_from_name(rule.dtype)
        spec = Spec(check_shape(rule.shape, dtype.itemsize), dtype)
    except ValueError as error:
        raise RuleError(str(error)) from None
    if spec.nbytes > LARGEST:
        raise RuleError(f"{list(rule.shape)} takes {spec.nbytes:,} bytes; {LARGEST:,} are the most a value may fill.")
    if isinstance(rule.value, str) and rule.value not in _SEQUENCES:
        raise RuleError(f"{rule.value!r} is no value: a number, or one of {', '.join(_SEQUENCES)}.")
    if isinstance(rule.value, str) and len(rule.shape) < 1 + (rule.value == "tril"):
        raise RuleError(f"{rule.value!r} needs more axes than {list(rule.shape)} has.")
    if not _can_hold(dtype, rule.value, rule.shape):
        raise RuleError(f"{rule.dtype} cannot hold {rule.value!r}; another number would be there.")
    if rule.beside is not None:
        check_same_holes(Pattern(rule.names), Pattern(rule.beside))
    elif Pattern(rule.names).holes:
        raise RuleError(f'{rule.names!r} has holes: say beside which tensors it is, as beside = "h.{{i}}.attn.weight".')


def _can_hold(dtype: torch.dtype, value: float | str, shape: Shape) -> bool:
    """Whether a dtype has the numbers of a value. Floats may round them, but must have them in their range.

    >>> _can_hold(torch.int8, 300, ()), _can_hold(torch.float16, 0.1, ()), _can_hold(torch.bool, "arange", (3,))
    (False, True, False)
    """
    has_only_powers = dtype is torch.float8_e8m0fnu  # it has neither zero nor sign
    if isinstance(value, str):
        largest = shape[-1] - 1 if value == "arange" and shape[-1] else 1
        return not has_only_powers and largest <= (2 / torch.finfo(dtype).eps if is_inexact(dtype) else _max_int(dtype))
    if not is_inexact(dtype):
        return _min_int(dtype) <= value <= _max_int(dtype) and value == int(value)
    if value != value:
        return True
    if has_only_powers and value <= 0:
        return False
    if abs(value) == math.inf:
        return bool(torch.tensor(value, dtype=torch.float64).to(dtype).to(torch.complex128).isinf())
    return abs(value) <= torch.finfo(dtype).max


def _min_int(dtype: torch.dtype) -> int:
    return 0 if dtype is torch.bool else torch.iinfo(dtype).min


def _max_int(dtype: torch.dtype) -> int:
    return 1 if dtype is torch.bool else torch.iinfo(dtype).max
