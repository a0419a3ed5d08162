"""A module and its net behind one interface: a forward, a training step, gradients and buffers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet._tensors import is_inexact, iter_tensors
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree
from funcnet.tree import flatten

Args = tuple[object, ...]
Kwargs = Mapping[str, Any]  # mypy cannot tell inputs given by name from the options of ``apply``
Inputs = TypeVar("Inputs")


def sum_outputs(output: object) -> Tensor:
    """The sum of all floating outputs, which is something to differentiate in any model."""
    total = torch.zeros(())
    for tensor in iter_tensors(output):
        if tensor.is_complex():
            total = total + torch.view_as_real(tensor).sum()
        elif tensor.is_floating_point():
            total = total + tensor.sum()
    return total


def as_trainable(tensor: Tensor) -> Tensor:
    """The tensor detached, and requiring a gradient if its dtype can be differentiated."""
    return tensor.detach().requires_grad_(is_inexact(tensor))


def _clone_tensors(tree: Inputs) -> Inputs:
    result: Inputs = pytree.tree_map(torch.clone, tree)
    return result


class ModuleSide:
    """A copy of a module. Calls change its buffers, its ``grad`` fields and torch's global generator."""

    def __init__(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.module = copy.deepcopy(module)
        for weight in self.module.parameters():
            weight.requires_grad_(is_inexact(weight))
        self.has_gradient = True
        """Whether the outputs of the last step could be differentiated."""
        # The module may write to its inputs.
        self.args, self.kwargs = _clone_tensors((args, kwargs))

    def forward(self) -> object:
        """Call the module in its current mode."""
        return self.module(*self.args, **self.kwargs)

    def step(self) -> object:
        """Run a forward and a backward, and return the output."""
        self.module.zero_grad()
        output = self.forward()
        total = sum_outputs(output)
        self.has_gradient = total.requires_grad
        if self.has_gradient:
            total.backward()
        return output

    def gradients(self) -> Flat:
        """The gradients of the last step; zeros for parameters that the output does not depend on."""
        weights = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()
        }

    def new_buffers(self) -> Flat:
        """The buffers after the last step."""
        return dict(self.module.named_buffers())

    def state_tensors(self) -> object:
        """All tensors that this side holds, as a tree."""
        return self.module.state_dict()


class NetSide:
    """A net and the trees that its calls take. Calls leave them unchanged."""

    def __init__(self, net: fn.Net, params: Tree, buffers: Tree, args: Args, kwargs: Kwargs, seed: int) -> None:
        self.net, self.params, self.buffers = net, params, buffers
        # Torch chooses some kernels by whether weights require a gradient, even under no_grad. The weights of the
        # module do, so these must.
        self.weights = fn.tree.map(as_trainable, params)
        self.args, self.kwargs, self.seed = args, kwargs, seed
        self.has_gradient = True
        """Whether a step computes gradients; set it to what the module has."""
        self._eval_rng: int | None = None
        self._gradients: Tree = {}
        self._new_buffers: Tree = buffers

    def forward(self) -> object:
        """Call the net in eval mode. A net that draws in eval mode too gets the seed."""
        try:
            return self.net.apply(self.weights, self.buffers, *self.args, rng=self._eval_rng, **self.kwargs)[0]
        except fn.RandomnessError:
            if self._eval_rng is not None:
                raise
            self._eval_rng = self.seed
            return self.forward()

    def step(self) -> object:
        """Run a forward in training mode and compute its gradients; return the output."""

        def loss(params: Tree) -> tuple[Tensor, tuple[object, Tree]]:
            output, new_buffers = self.net.apply(
                params, self.buffers, *self.args, train=True, rng=self.seed, **self.kwargs
            )
            return sum_outputs(output), (output, new_buffers)

        self._gradients = {}  # frees the gradients of the step before
        if not self.has_gradient:
            total, (output, self._new_buffers) = loss(self.weights)
            if total.requires_grad:
                raise RuntimeError("the output of the net can be differentiated, and that of the module cannot")
            self._gradients = fn.tree.map(torch.zeros_like, self.params)
            return output
        (_, (output, self._new_buffers)), self._gradients = fn.value_and_grad(loss, has_aux=True)(self.params)
        return output

    def gradients(self) -> Flat:
        """The gradients of the last step."""
        return {name: gradient for name, gradient in flatten(self._gradients).items() if is_inexact(gradient)}

    def new_buffers(self) -> Flat:
        """The buffers that the last step returned."""
        return flatten(self._new_buffers)

    def state_tensors(self) -> object:
        """All tensors that this side holds, as a tree."""
        return [self.params, self.buffers]
