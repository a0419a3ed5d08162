"""A form is one way to use a model. The laboratory asks the same questions of every form."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet._tensors import is_inexact, iter_tensors
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree
from funcnet.compare._lab._subject import Batch, BatchTree, Subject
from funcnet.compare._lab._turns import PreparedCall

FORM_NAMES = ("nn.Module", "functional_call", "native", "traced", "compiled")
MODULE, CALL, NATIVE, TRACED, COMPILED = FORM_NAMES


class StepResult(NamedTuple):
    """The result of a forward and backward in training mode."""

    output: object
    gradients: Flat
    buffers: Flat


class Form(ABC):
    """One way to use a model, written as its users write it.

    To add a form, write a subclass and add it to ``make_forms``. Methods that prepare a call do everything that is not
    to be measured, and return the call.

    Attributes:
        name: the title of the form in all results.
        subject: the model and its inputs.
        model: the module or net that a user of the form holds.
        params: the weights, as the first argument of :meth:`output`.
        saved_state_title: what the tensors of :meth:`saved_state` are, for the evidence of a trial.
        pickle_title: what a pickle of the model contains.
        product_title: how :meth:`hessian_vector_product` computes its result.
    """

    name: str
    subject: Subject
    model: nn.Module | fn.Net
    params: Tree
    saved_state_title: str
    pickle_title: str
    product_title: str

    @abstractmethod
    def isolated_copy(self) -> Form:
        """A copy for one trial: changes to it, and to its model, are not seen by other trials."""

    @abstractmethod
    def forward(self, batch: Batch) -> PreparedCall:
        """Prepare a forward in eval mode."""

    @abstractmethod
    def step(self, batch: Batch) -> Callable[[], StepResult]:
        """Prepare a forward and backward in training mode, up to the gradients of all weights."""

    @abstractmethod
    def output(self, params: Tree, batch: Batch) -> object:
        """The output in eval mode as a function of the params, which is what transforms are applied to."""

    @abstractmethod
    def sample_gradients(self, batch: Batch) -> PreparedCall:
        """Prepare the gradients of every sample of a batch in eval mode, in the best way that the form has."""

    @abstractmethod
    def ensemble_outputs(self, batch: Batch, count: int) -> PreparedCall:
        """Prepare the outputs of ``count`` models in eval mode, in the best way that the form has."""

    def same_draws_form(self) -> Form | None:
        """The form to compare this one with if its draws are not those of the module; None if they are."""
        return None

    def own_weights(self) -> list[Tensor]:
        """The weights that this form holds besides those of the subject; needed to count the bytes alive in a step.

        Raises:
            SkippedError: if the bytes of this form cannot be counted.
        """
        return []

    # --- questions of single trials ---

    def sample_loss(self, params: Tree, sample: BatchTree) -> Tensor:
        """The loss in eval mode of one sample, which is the tree of a batch without the batch axis."""
        batch = Batch.from_sample(sample)
        return self.subject.loss(self.output(params, batch), batch.labels)

    def vmap_sample_gradients(self, batch: Batch) -> Callable[[], Tree]:
        """Prepare ``vmap(grad(loss))`` over a batch in eval mode: a tree whose samples lie in axis 0."""
        tree = batch.to_tree()
        params = self.detached_params()
        return lambda: torch.vmap(torch.func.grad(self.sample_loss), in_dims=(None, 0))(params, tree)

    def vmap_ensemble_outputs(self, batch: Batch, count: int) -> Callable[[], list[Tensor]]:
        """Prepare the outputs of ``count`` models in eval mode by one call under vmap, with the models in axis 0."""
        stacked = stack_weights(self.params, count)
        return lambda: torch.vmap(lambda params: list(iter_tensors(self.output(params, batch))))(stacked)

    def detached_params(self) -> Tree:
        """The params without any history or ``requires_grad``."""
        params: Tree = pytree.tree_map(Tensor.detach, self.params)
        return params

    @abstractmethod
    def hessian_vector_product(self, batch: Batch) -> list[Tensor]:
        """The Hessian of the loss in eval mode, times the weights, for each weight."""

    @abstractmethod
    def compile_forward(self, batch: Batch) -> PreparedCall:
        """Prepare a forward in eval mode that is compiled into a single graph without generating code."""

    @abstractmethod
    def saved_state(self) -> Mapping[str, object]:
        """The tensors that a user saves, by path."""

    @abstractmethod
    def forward_from_state(self, state: Flat, batch: Batch) -> PreparedCall:
        """Prepare a forward in eval mode with the tensors of a saved state, in a form that had other weights."""

    def pickle_model(self) -> bytes:
        """Pickle the model, and replace it by what the pickle contains; returns the pickle."""
        data = pickle.dumps(self.model)
        self.model = pickle.loads(data)
        return data

    @abstractmethod
    def count_hook_calls(self, batch: Batch) -> int:
        """Register a forward hook on every leaf of the model; returns how many fire in one call.

        Raises:
            FailedError: if no hook fires, or if the model has no hooks.
        """

    @abstractmethod
    def backward_in_ddp(self, batch: Batch, wrap: Callable[[nn.Module | fn.Net], nn.Module]) -> None:
        """Run a forward and backward in training mode with the model in DistributedDataParallel, by ``wrap``.

        Raises:
            FailedError: if the model cannot be used in it.
        """

    @abstractmethod
    def call_with_weights(self, weights: Flat, batch: Batch) -> PreparedCall:
        """Prepare a forward in eval mode with these weights, by the one model that all such calls share."""

    @abstractmethod
    def gradients_with_frozen(self, frozen: set[str], batch: Batch) -> Flat:
        """The gradients of a step in which the weights with these paths are frozen."""

    @abstractmethod
    def call_in_training(self, batch: Batch) -> tuple[Flat, PreparedCall]:
        """The buffers that a call in training mode receives or holds, and the call."""


def stack_weights(params: Tree, count: int) -> Tree:
    """``count`` sets of weights, stacked along axis 0. Set ``i`` is the weights times ``1 + i / 100``."""
    scales = 1 + 0.01 * torch.arange(count)

    def stack(leaf: Tensor) -> Tensor:
        leaf = leaf.detach()
        rows = leaf[None].expand(count, *leaf.shape)
        if not is_inexact(leaf):
            return rows.clone()
        return (rows * scales.view(-1, *[1] * leaf.dim())).to(leaf.dtype)

    stacked: Tree = pytree.tree_map(stack, params)
    return stacked
