"""A module and its net as two contestants with the same verbs, each by its own means."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree
from funcnet.tree import flatten

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def total(output: Any) -> Tensor:
    """The sum of all floating outputs: something to differentiate in any model."""
    summands = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_complex():
            summands.append(torch.view_as_real(leaf).sum())
        elif isinstance(leaf, Tensor) and leaf.is_floating_point():
            summands.append(leaf.sum())
    return sum(summands, start=torch.zeros(()))


def _as_weight(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def copied(tree: Any) -> Any:
    """The same numbers in tensors of their own: a module may write to its inputs."""
    return pytree.tree_map(torch.clone, tree)


class ModuleSide:
    """A copy of a module. Calls change its buffers, its ``grad`` fields and torch's global generator."""

    def __init__(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.module = copy.deepcopy(module)
        for weight in self.module.parameters():
            weight.requires_grad_(weight.is_floating_point() or weight.is_complex())
        self.args, self.kwargs = copied((args, kwargs))

    def forward(self) -> Any:
        """Call it, in the mode it is in."""
        return self.module(*self.args, **self.kwargs)

    def step(self) -> Any:
        """Forward and backward."""
        self.module.zero_grad()
        output = self.forward()
        value = total(output)
        if value.requires_grad:
            value.backward()
        return output

    def gradients(self) -> Flat:
        """Those of the last step; zeros for parameters that the output does not depend on."""
        weights = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()
        }

    def buffers(self) -> Flat:
        """As they are now."""
        return dict(self.module.named_buffers())


class NetSide:
    """A net and the trees its calls take. Calls leave them as they are."""

    def __init__(self, net: fn.Net, params: Tree, buffers: Tree, args: Args, kwargs: Kwargs, seed: int) -> None:
        self.net, self.params, self.given = net, params, buffers
        # torch chooses some kernels by whether weights require grad, even under no_grad: here they do, as in the module
        self.weights = fn.tree.map(_as_weight, params)
        self.args, self.kwargs, self.seed = args, kwargs, seed
        self.draws: int | None = None
        self.grads: Tree = {}
        self.new: Tree = buffers

    def forward(self) -> Any:
        """Call it in eval mode. A net that draws in eval mode too is given the seed."""
        try:
            return self.net.apply(self.weights, self.given, *self.args, rng=self.draws, **self.kwargs)[0]
        except fn.RandomnessError:
            if self.draws is not None:
                raise
            self.draws = self.seed
            return self.forward()

    def step(self) -> Any:
        """Forward in training mode, and gradients."""

        def loss(params: Tree) -> tuple[Tensor, Any]:
            output, new = self.net.apply(params, self.given, *self.args, train=True, rng=self.seed, **self.kwargs)
            return total(output), (output, new)

        self.grads = {}
        (_, (output, self.new)), self.grads = fn.value_and_grad(loss, has_aux=True)(self.params)
        return output

    def gradients(self) -> Flat:
        """Those of the last step."""
        flat = flatten(self.grads)
        return {name: grad for name, grad in flat.items() if grad.is_floating_point() or grad.is_complex()}

    def buffers(self) -> Flat:
        """The new ones of the last step."""
        return flatten(self.new)
