"""Where a function applies its variables as weights of F.linear, so that no gradient by them need be computed.

The product of a Hessian with a vector is the derivative of ``s``, the gradient times the vector. For a weight ``w``
with the vector ``v`` and ``y = linear(x, w)``, its part of ``s`` is the gradient by ``y`` times ``linear(x, v)``. That
has the size of ``y``; the gradient by ``w``, which a first backward pass would compute, is never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from funcnet._context import under_forward_mode, under_transform
from funcnet._torch import saved_tensors_hooks


class WeightUses(TorchFunctionMode):
    """A context that keeps apart the uses of variables as weights of F.linear.

    In such a use a twin stands for the variable. So the gradient by the variable itself is that of all its other uses,
    and a use that the context cannot see is one of those.

    Attributes:
        outputs: where the output of each use stands in the graph.
        changes: what the output of each use changes by, if the variables change by the vector.
        twins: the twins of variables that have one, by the number of the variable.

    Args:
        variables: leaves of autograd.
        directions: the vector.
    """

    def __init__(self, variables: Sequence[Tensor], directions: Sequence[Tensor]) -> None:
        super().__init__()
        self._directions = directions
        self._numbers = {id(variable): number for number, variable in enumerate(variables)}
        self._variables = variables  # whose ids must not be given to others
        self.outputs: list[GradientEdge] = []
        self.changes: list[Tensor] = []
        self.twins: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and torch.is_grad_enabled() and not under_transform() and not under_forward_mode():
            options = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
            # A block that torch.utils.checkpoint computes again would not find its twins in the second run.
            if id(options["weight"]) in self._numbers and not saved_tensors_hooks(True):
                return self._apply(**options)
        return func(*args, **kwargs)

    def _apply(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(input, self._twin(weight), self._twin(bias))
        self.outputs.append(get_gradient_edge(y))
        self.changes.append(F.linear(input, self._directions[self._numbers[id(weight)]], self._direction(bias)))
        return y

    def _twin(self, tensor: Any) -> Any:
        number = self._numbers.get(id(tensor))
        if number is None:
            return tensor
        if number not in self.twins:
            self.twins[number] = tensor.detach().requires_grad_()
        return self.twins[number]

    def _direction(self, tensor: Any) -> Tensor | None:
        number = self._numbers.get(id(tensor))
        return None if number is None else self._directions[number]
