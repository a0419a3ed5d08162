"""The gradient itself: a directional derivative of both forms in float64, beside central finite differences.

Equal bits say nothing about a gradient that is wrong in both. One direction through all weights and inputs is taken at
once, so a wrong gradient of any of them shows. What arrives at the outputs is laid out in memory in several ways,
because kernels that misread a layout are the ones that go wrong unseen.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet._tensors import is_inexact, iter_tensors
from funcnet._torch import pytree
from funcnet._typing import Flat
from funcnet.compare._errors import summarize_error
from funcnet.compare._results import GradientCheck, NotPossible
from funcnet.compare._sides import Args, Kwargs
from funcnet.tree import flatten, unflatten

STEPS = tuple(2.0**-power for power in (13, 16, 19, 22))
"""Steps of the differences, relative to the size of a tensor: long ones err where a function bends or has a corner,
short ones by rounding."""
WORST_UNCERTAINTY = 1e-3
"""How far apart, beside the gradients, finite differences may lie to say anything."""
EPS = torch.finfo(torch.float64).eps


def check_gradient(module: nn.Module, args: Args, kwargs: Kwargs, seed: int) -> GradientCheck | NotPossible:
    """Compare the derivatives of a module and of its net, in training mode, with finite differences.

    >>> result = check_gradient(nn.Linear(3, 2), (torch.ones(4, 3),), {}, seed=0)
    >>> result.is_right("nn.Module"), result.is_right("funcnet")
    (True, True)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inputs that require a gradient make some code warn
            return _GradientProbe(module, args, kwargs, seed).check()
    except Exception as error:  # a forward may not run in float64, or may have no derivative
        return NotPossible(summarize_error(error, 200))


def _widen(tensor: Tensor) -> Tensor:
    """A copy in float64, or complex128; other dtypes are as they were."""
    wide_dtype = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(wide_dtype if is_inexact(tensor) else tensor.dtype, copy=True)


def _widen_module(module: nn.Module) -> nn.Module:
    wide = copy.deepcopy(module).train()
    for tensor in (*wide.parameters(), *wide.buffers()):
        tensor.data = _widen(tensor)
    for weight in wide.parameters():
        weight.requires_grad_(is_inexact(weight))
    return wide


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class _GradientProbe:
    """A module in float64, a direction through its weights and inputs, and what arrives at its outputs."""

    def __init__(self, module: nn.Module, args: Args, kwargs: Kwargs, seed: int) -> None:
        self.module, self.seed = _widen_module(module), seed
        self.generator = torch.Generator().manual_seed(seed)
        leaves, self.structure = pytree.tree_flatten((args, dict(kwargs)))
        self.inputs = [_widen(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.point: Flat = {name: weight.detach().clone() for name, weight in self.module.named_parameters()}
        self.point = {f"params.{name}": weight for name, weight in self.point.items() if is_inexact(weight)}
        for index, leaf in enumerate(self.inputs):
            if isinstance(leaf, Tensor) and is_inexact(leaf):
                self.point[f"inputs.{index}"] = leaf
        self.direction = {name: self._draw_like(tensor) for name, tensor in self.point.items()}

    def _draw_like(self, tensor: Tensor) -> Tensor:
        size = float(tensor.abs().square().mean().sqrt()) if tensor.numel() else 0.0
        return self._draw(tensor.shape, tensor.dtype, tensor.device) * (size or 1.0)

    def _draw(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=self.generator).to(device)

    def check(self) -> GradientCheck | NotPossible:
        outputs = self._outputs_of_module(self.point)
        if not any(output.requires_grad for output in outputs):
            return NotPossible("no output has a gradient by a weight or an input")
        self.cotangents = [self._draw(_as_real(out).shape, torch.float64, out.device) for out in outputs]
        size = sum(
            float((_as_real(output) * cotangent).abs().sum().detach())
            for output, cotangent in zip(outputs, self.cotangents, strict=True)
        )
        quotient, uncertainty = self._difference_quotient(size)
        derivatives: dict[str, dict[str, float]] = {"nn.Module": {}, "funcnet": {}}
        scale = 0.0
        for layout in self._distinct_layouts(outputs):
            gradients = self._gradients_of_module(layout), self._gradients_of_net(layout)
            for form, found in zip(derivatives, gradients, strict=True):
                products = [self._dot(name, gradient) for name, gradient in found.items()]
                derivatives[form][layout] = math.fsum(products)
                scale = max(scale, math.fsum(map(abs, products)))
        if not math.isfinite(quotient) or not uncertainty <= WORST_UNCERTAINTY * scale:
            return NotPossible(
                f"the outputs jump or bend so much near these inputs that finite differences of neighbouring steps lie "
                f"{uncertainty:.1g} apart, where the gradients reach {scale:.1g}"
            )
        return GradientCheck(quotient, uncertainty, scale, derivatives)

    def _dot(self, name: str, gradient: Tensor) -> float:
        return float((_as_real(gradient.resolve_conj()) * _as_real(self.direction[name])).sum())

    # --- the two forms ---

    def _call_inputs(self, point: Mapping[str, Tensor]) -> tuple[Any, Any]:
        leaves = [point.get(f"inputs.{index}", leaf) for index, leaf in enumerate(self.inputs)]
        # A module may write to its inputs, and a leaf that requires a gradient may not be written to.
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, self.structure)

    def _outputs_of_module(self, point: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs at a point, from the same buffers, hidden state and draws each time."""
        module = copy.deepcopy(self.module)
        for name, weight in module.named_parameters():
            if f"params.{name}" in point:
                weight.data = point[f"params.{name}"].detach().clone()
        self._weights = dict(module.named_parameters())
        self._leaves = {
            name: tensor.detach().requires_grad_(torch.is_grad_enabled())
            for name, tensor in point.items()
            if name.startswith("inputs.")
        }
        args, kwargs = self._call_inputs(self._leaves)
        torch.manual_seed(self.seed)
        return _float_outputs(module(*args, **kwargs))

    def _gradients_of_module(self, layout: str) -> Flat:
        loss = self._loss(self._outputs_of_module(self.point), layout)
        leaves: dict[str, Tensor] = {
            f"params.{name}": weight for name, weight in self._weights.items() if f"params.{name}" in self.point
        }
        leaves.update(self._leaves)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, gradients, strict=True))

    def _gradients_of_net(self, layout: str) -> Flat:
        net, params, buffers = fn.from_module(self.module)
        inputs = {name: tensor for name, tensor in self.point.items() if name.startswith("inputs.")}

        def loss(tree: Any) -> Tensor:
            args, kwargs = self._call_inputs(flatten({"inputs": tree["inputs"]}))
            output, _ = net.apply(tree["params"], buffers, *args, train=True, rng=self.seed, **kwargs)
            return self._loss(_float_outputs(output), layout)

        tree = {"params": params, "inputs": unflatten(inputs).get("inputs", {})}
        gradients = flatten(fn.value_and_grad(loss)(tree)[1])
        return {name: gradient for name, gradient in gradients.items() if name in self.point}

    # --- what arrives at the outputs ---

    def _loss(self, outputs: list[Tensor], layout: str) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=outputs[0].device)
        for output, cotangent in zip(outputs, self.cotangents, strict=True):
            total = total + (_as_real(output) * LAYOUTS[layout](cotangent, _as_real(output))).sum()
        return total

    def _distinct_layouts(self, outputs: list[Tensor]) -> list[str]:
        """The layouts that differ for some output."""
        layouts: dict[tuple[tuple[int, ...], ...], str] = {}
        for layout, arrange in LAYOUTS.items():
            pairs = zip(self.cotangents, outputs, strict=True)
            layouts.setdefault(tuple(arrange(c, _as_real(out)).stride() for c, out in pairs), layout)
        return list(layouts.values())

    # --- finite differences ---

    def _difference_quotient(self, size: float) -> tuple[float, float]:
        """The central difference quotient at the step where it is surest, and how far it may be off."""
        quotients = []
        with torch.no_grad():
            for step in STEPS:
                ahead, behind = (
                    self._loss(self._outputs_of_module(self._move(sign * step)), CONTIGUOUS) for sign in (1, -1)
                )
                quotients.append(float(ahead - behind) / (2 * step))
        best = (math.nan, math.inf)
        for index, (step, quotient) in enumerate(zip(STEPS, quotients, strict=True)):
            neighbours = quotients[max(0, index - 1) : index] + quotients[index + 1 : index + 2]
            spread = max(abs(quotient - neighbour) for neighbour in neighbours)
            uncertainty = max(EPS * size / step, spread)
            if uncertainty < best[1]:
                best = (quotient, uncertainty)
        return best

    def _move(self, distance: float) -> Flat:
        return {name: tensor + distance * self.direction[name] for name, tensor in self.point.items()}


def _float_outputs(output: object) -> list[Tensor]:
    return [tensor for tensor in iter_tensors(output) if is_inexact(tensor)]


CONTIGUOUS = "contiguous"


def _lay_out_like_output(cotangent: Tensor, output: Tensor) -> Tensor:
    return torch.empty_like(output.detach(), dtype=torch.float64).copy_(cotangent)


def _lay_out_channels_last(cotangent: Tensor, output: Tensor) -> Tensor:
    if cotangent.dim() < 3:
        return cotangent
    return cotangent.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    CONTIGUOUS: lambda cotangent, output: cotangent,
    "laid out as the output": _lay_out_like_output,
    "channels-last": _lay_out_channels_last,
}
"""How the gradient that arrives at an output lies in memory, which a loss decides and no module can choose."""
