"""The module itself, as a form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet._tensors import is_inexact
from funcnet._typing import Flat, Tree
from funcnet.compare._lab._forms import MODULE, Form, StepResult, stack_weights
from funcnet.compare._lab._reasons import FailedError
from funcnet.compare._lab._subject import Batch, Subject
from funcnet.compare._lab._turns import PreparedCall


class ModuleForm(Form):
    """A copy of the module. Its calls change its buffers, its ``grad`` fields and torch's global generator."""

    name = MODULE
    saved_state_title = "tensors by state_dict"
    pickle_title = "bytes, weights included"
    product_title = "by two backward passes"
    model: nn.Module

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = copy.deepcopy(subject.module)
        for weight in self.model.parameters():
            weight.requires_grad_(is_inexact(weight))
        self.params = dict(self.model.named_parameters())

    def isolated_copy(self) -> ModuleForm:
        return ModuleForm(self.subject)

    def forward(self, batch: Batch) -> PreparedCall:
        module = self.model.eval()
        return lambda: batch.call(module)

    def step(self, batch: Batch) -> Callable[[], StepResult]:
        module, loss = self.model.train(), self.subject.loss

        def run_step() -> StepResult:
            module.zero_grad()
            output = batch.call(module)
            value = loss(output, batch.labels)
            if value.requires_grad:
                value.backward()
            gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
            return StepResult(output, gradients, dict(module.named_buffers()))

        return run_step

    def output(self, params: Tree, batch: Batch) -> object:
        """The output; ``params`` are ignored, because a module reads the weights inside itself."""
        return batch.call(self.model.eval())

    def sample_gradients(self, batch: Batch) -> Callable[[], list[tuple[Tensor, ...]]]:
        """Prepare a loop over the samples: a tuple of gradients for each."""
        samples = batch.split_samples()
        module, loss = self.model.eval(), self.subject.loss
        weights = self._trainable_weights()
        return lambda: [
            torch.autograd.grad(
                loss(sample.call(module), sample.labels), weights, allow_unused=True, materialize_grads=True
            )
            for sample in samples
        ]

    def ensemble_outputs(self, batch: Batch, count: int) -> Callable[[], list[object]]:
        """Prepare a loop over as many modules: the output of each."""
        stacked = stack_weights(self.params, count)
        modules = [copy.deepcopy(self.model).eval() for _ in range(count)]
        with torch.no_grad():
            for index, module in enumerate(modules):
                for name, weight in module.named_parameters():
                    weight.copy_(stacked[name][index])
        return lambda: [batch.call(module) for module in modules]

    def own_weights(self) -> list[Tensor]:
        return list(self.model.parameters())

    def hessian_vector_product(self, batch: Batch) -> list[Tensor]:
        weights = self._trainable_weights()
        loss = self.subject.loss(batch.call(self.model.eval()), batch.labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True, materialize_grads=True)
        dot = sum((gradient * weight.detach()).sum() for gradient, weight in zip(gradients, weights, strict=True))
        if not isinstance(dot, Tensor) or not dot.requires_grad:
            return [torch.zeros_like(weight) for weight in weights]
        return list(torch.autograd.grad(dot, weights, allow_unused=True, materialize_grads=True))

    def _trainable_weights(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def compile_forward(self, batch: Batch) -> PreparedCall:
        compiled = torch.compile(self.model.eval(), fullgraph=True, backend="aot_eager")
        return lambda: batch.call(compiled)

    def saved_state(self) -> Mapping[str, object]:
        return self.model.state_dict()

    def forward_from_state(self, state: Flat, batch: Batch) -> PreparedCall:
        module = copy.deepcopy(self.model)
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.zero_()
            module.load_state_dict(state)
        module.eval()
        return lambda: batch.call(module)

    def count_hook_calls(self, batch: Batch) -> int:
        return count_fired_hooks(self.model, lambda: batch.call(self.model.eval()))

    def backward_in_ddp(self, batch: Batch, wrap: Callable[[nn.Module | fn.Net], nn.Module]) -> None:
        parallel = wrap(self.model.train())  # reduces gradients for as long as it exists
        output = batch.call(parallel)
        self.subject.loss(output, batch.labels).backward()

    def call_with_weights(self, weights: Flat, batch: Batch) -> PreparedCall:
        module = self.model.eval()

        def call() -> object:
            module.load_state_dict(weights, strict=False)
            return batch.call(module)

        return call

    def gradients_with_frozen(self, frozen: set[str], batch: Batch) -> Flat:
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(name not in frozen)
        return self.step(batch)().gradients

    def call_in_training(self, batch: Batch) -> tuple[Flat, PreparedCall]:
        return dict(self.model.named_buffers()), self.step(batch)


def count_fired_hooks(module: nn.Module, call: Callable[[], object]) -> int:
    """Register a forward hook on every leaf of a module, and count those that fire in a call.

    Raises:
        FailedError: if none fires.
    """
    fired: list[str] = []
    for path, part in module.named_modules():
        is_leaf = not any(True for _ in part.children())
        if is_leaf:
            part.register_forward_hook(lambda *_, path=path: fired.append(path))
    with torch.no_grad():
        call()
    if not fired:
        raise FailedError("the call ran, and no forward hook on any leaf of the module fired")
    return len(fired)
