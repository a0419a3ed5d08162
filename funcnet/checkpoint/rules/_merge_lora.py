"""The rule that adds a low-rank change to a weight, in the arithmetic of the library peft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import ComputedNode, Node
from funcnet.checkpoint.rules._mixtures import ArithmeticRule, Blend, check_precision, computing_dtype, match_together
from funcnet.checkpoint.rules._patterns import Pattern, check_same_holes
from funcnet.checkpoint.rules._rule import State

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


@dataclass(frozen=True)
class MergeLora(ArithmeticRule):
    """Add low-rank changes (LoRA) to weights, ``weight + scale * up @ down``; with magnitudes, DoRA.

    The bits are those of peft's ``merge_and_unload``. With a precision everything is computed in that one, and rounded
    once.

    Args:
        weight: pattern of the weights.
        down, up: patterns of the factors A (r, in) and B (out, r), with the same holes.
        target: pattern of the results.
        scale: factor of the changes, alpha / r.
        magnitude: pattern of the lengths of the rows (DoRA).
        transposed: whether the weights are (in, out), as those of tables and of Conv1D in transformers.
        precision: "float64" or "float32"; as peft without it: that of the factors, or float32 for half precision.
        keep: whether weights and factors stay beside the results.
        optional: whether it is allowed that no tensor matches.
        undo: take the results out again.

    >>> rule = MergeLora("{n**}.weight", "{n**}.lora_A", "{n**}.lora_B", "{n**}.weight", scale=2.0)
    >>> rule.scale, rule.inverse().undo
    (2.0, True)
    """

    weight: str
    down: str
    up: str
    target: str
    scale: float
    magnitude: str | None = None
    transposed: bool = False
    precision: str | None = None
    keep: bool = False
    optional: bool = False
    undo: bool = False

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_precision(self.precision)
        check_same_holes(*map(Pattern, (*self.patterns, self.target)))

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.weight, self.down, self.up, *([self.magnitude] if self.magnitude is not None else []))

    def iter_blends(self, state: State) -> Iterator[Blend]:
        problems: list[str] = []
        blends: list[Blend] = []
        for names in match_together(state, self.patterns[1:], [self.weight]):
            holes = Pattern(self.down).match(names[self.down]) or {}
            if self.weight not in names:
                problems.append(f"{Pattern(self.weight).format(holes)!r} is missing")
                continue
            sources = tuple(names[pattern] for pattern in self.patterns)
            nodes = [state.tensors[name] for name in sources]
            shape = _change_shape(nodes[1].shape, nodes[2].shape, self.transposed)
            if shape != nodes[0].shape:
                problems.append(f"{sources[0]!r} is {list(nodes[0].shape)}, and its change is {list(shape or ())}")
                continue
            node = ComputedNode(nodes[0].spec, tuple(nodes), self._merger(nodes), "low-rank change")
            blends.append(Blend(Pattern(self.target).format(holes), sources, node))
        if problems:
            raise RuleError(f"these changes do not fit:{truncated_list(problems)}")
        yield from blends

    def _merger(self, nodes: Sequence[Node]) -> Callable[[Sequence[Tensor]], Tensor]:
        dtype = nodes[0].spec.dtype

        def merge(tensors: Sequence[Tensor]) -> Tensor:
            if self.precision is not None:
                tensors = [tensor.to(computing_dtype(dtype, self.precision)) for tensor in tensors]
            weight, down, up, *magnitude = tensors
            change = low_rank_change(down, up, self.scale, self.transposed)
            merged = weight + change
            if magnitude:
                norms = _row_norms(weight, change, self.transposed)
                factor = (magnitude[0].flatten() / norms).view(-1, *(1 for _ in weight.shape[1:]))
                merged = (factor.T if self.transposed else factor) * merged
            return merged.to(dtype)

        return merge

    def inverse(self) -> MergeLora:
        return replace(self, undo=not self.undo)


def _change_shape(down: Shape, up: Shape, transposed: bool) -> Shape | None:
    """The shape of the change that two factors make; None if they do not fit one another."""
    if len(down) != len(up) or len(down) < 2 or down[0] != up[1]:
        return None
    if len(down) == 2:
        return (down[1], up[0]) if transposed else (up[0], down[1])
    return (up[0], *down[1:])


def low_rank_change(down: Tensor, up: Tensor, scale: float, transposed: bool = False) -> Tensor:
    """The change of a weight that two factors make, computed as the library peft computes it.

    Args:
        down: A (r, in), or the kernel (r, in, *) of a convolution.
        up: B (out, r), or (out, r, 1, 1).
        scale: factor of the change.
        transposed: whether the weight is (in, out).

    >>> low_rank_change(torch.ones(1, 2), torch.ones(3, 1), 0.5)
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    dtype = up.dtype
    if up.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):  # in single precision, as peft does
        down, up = down.float(), up.float()
    if down.dim() == 4 and down.shape[2:] == (1, 1):
        change = (up[:, :, 0, 0] @ down[:, :, 0, 0])[:, :, None, None]
    elif down.dim() > 2:
        change = _CONVOLUTIONS[down.dim()](down.transpose(0, 1), up).transpose(0, 1)
    else:
        change = (up @ down).T if transposed else up @ down
    return (change * scale).to(dtype)


def _row_norms(weight: Tensor, change: Tensor, transposed: bool) -> Tensor:
    """The length of each row of a changed weight."""
    if weight.dim() > 2:
        return (weight + change).norm(p=2, dim=tuple(range(1, weight.dim()))).flatten()
    rows = weight.T + change.T if transposed else weight + change
    return torch.linalg.norm(rows, dim=1).to(rows.dtype)
