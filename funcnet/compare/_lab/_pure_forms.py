"""The forms whose calls take params and buffers: functional_call, the net, and the trace of the module."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import funcnet as fn
from funcnet._format import format_count
from funcnet._tensors import is_inexact
from funcnet._typing import Flat, Tree
from funcnet.compare._lab._forms import CALL, TRACED, Form, StepResult
from funcnet.compare._lab._module_form import count_fired_hooks
from funcnet.compare._lab._reasons import FailedError, first_line
from funcnet.compare._lab._subject import Batch, Subject
from funcnet.compare._lab._turns import PreparedCall
from funcnet.compare._sides import as_trainable
from funcnet.tree import flatten, unflatten


class PureForm(Form):
    """A form whose call takes params and buffers, and returns the output and new buffers."""

    saved_state_title = "tensors, no class needed"
    product_title = "by jvp of grad"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.rng: int | Tensor = subject.seed
        # Torch chooses some kernels by whether weights require a gradient, even under no_grad. The weights of the
        # module do, so these must.
        self.params = fn.tree.map(as_trainable, subject.params)
        self.buffers = subject.buffers

    @abstractmethod
    def apply(
        self, params: Tree, buffers: Tree, batch: Batch, train: bool = False, rng: int | Tensor | None = None
    ) -> tuple[Any, Tree]:
        """Call the model; returns the output and the new buffers."""

    def isolated_copy(self) -> PureForm:
        return copy.copy(self)

    def forward(self, batch: Batch) -> PreparedCall:
        return lambda: self.apply(self.params, self.buffers, batch)[0]

    def step(self, batch: Batch) -> Callable[[], StepResult]:
        def loss(params: Tree) -> tuple[Tensor, tuple[object, Tree]]:
            output, new_buffers = self.apply(params, self.buffers, batch, True, self.rng)
            return self.subject.loss(output, batch.labels), (output, new_buffers)

        value_and_grad = fn.value_and_grad(loss, has_aux=True)
        params = fn.tree.map(Tensor.detach, self.params)

        def run_step() -> StepResult:
            (_, (output, new_buffers)), gradients = value_and_grad(params)
            trained = {name: leaf for name, leaf in flatten(gradients).items() if is_inexact(leaf)}
            return StepResult(output, trained, flatten(new_buffers))

        return run_step

    def output(self, params: Tree, batch: Batch) -> object:
        return self.apply(params, self.buffers, batch)[0]

    def sample_gradients(self, batch: Batch) -> PreparedCall:
        return self.vmap_sample_gradients(batch)

    def ensemble_outputs(self, batch: Batch, count: int) -> PreparedCall:
        return self.vmap_ensemble_outputs(batch, count)

    def hessian_vector_product(self, batch: Batch) -> list[Tensor]:
        params = self.detached_params()
        gradient = torch.func.grad(lambda p: self.subject.loss(self.output(p, batch), batch.labels))
        products = torch.func.jvp(gradient, (params,), (params,))[1]
        return [leaf for leaf in flatten(products).values() if leaf.is_floating_point()]

    def compile_forward(self, batch: Batch) -> PreparedCall:
        def function(params: Tree, *args: Tensor, **kwargs: Tensor) -> object:
            return self.output(params, batch._replace(args=args, kwargs=kwargs))

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        return lambda: compiled(self.params, *batch.args, **batch.kwargs)

    def saved_state(self) -> Mapping[str, object]:
        return {**flatten(self.params), **flatten(self.buffers)}

    def forward_from_state(self, state: Flat, batch: Batch) -> PreparedCall:
        params = self._as_params(state)
        buffers = self._as_tree({name: state[name] for name in flatten(self.buffers)})
        return lambda: self.apply(params, buffers, batch)[0]

    def call_with_weights(self, weights: Flat, batch: Batch) -> PreparedCall:
        params = self._as_params(weights)
        return lambda: self.output(params, batch)

    def _as_params(self, weights: Flat) -> Tree:
        """These weights as the params of this form: with its ties, and its leaves that require gradients."""
        leaves = flatten(self.params)
        return self._as_tree({name: weights[name].requires_grad_(leaf.requires_grad) for name, leaf in leaves.items()})

    def _as_tree(self, flat: Flat) -> Tree:
        """Tensors by path in the structure that :meth:`apply` takes."""
        return unflatten(flat)


class FunctionalCallForm(PureForm):
    """``torch.func.functional_call`` on the module. It writes new buffers in place, into the tensors of its caller."""

    name = CALL
    pickle_title = "bytes of module, as the call needs one"
    model: nn.Module

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.model = copy.deepcopy(subject.module)
        self.params, self.buffers = flatten(self.params), flatten(self.buffers)

    def isolated_copy(self) -> FunctionalCallForm:
        form = copy.copy(self)
        form.model = copy.deepcopy(self.model)  # its calls set the mode of the module
        return form

    def apply(
        self, params: Tree, buffers: Tree, batch: Batch, train: bool = False, rng: int | Tensor | None = None
    ) -> tuple[Any, Tree]:
        if self.model.training != train:
            self.model.train(train)
        return functional_call(self.model, {**params, **buffers}, batch.args, dict(batch.kwargs)), buffers

    def step(self, batch: Batch) -> Callable[[], StepResult]:
        buffers = self._clone_buffers()
        weights = {name: leaf for name, leaf in self.params.items() if leaf.requires_grad}

        def run_step() -> StepResult:
            output, new_buffers = self.apply(self.params, buffers, batch, True)
            value = self.subject.loss(output, batch.labels)
            if not value.requires_grad:
                return StepResult(output, {}, new_buffers)
            gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
            return StepResult(output, dict(zip(weights, gradients, strict=True)), new_buffers)

        return run_step

    def own_weights(self) -> list[Tensor]:
        return list(self.model.parameters())

    def count_hook_calls(self, batch: Batch) -> int:
        return count_fired_hooks(self.model, self.forward(batch))

    def backward_in_ddp(self, batch: Batch, wrap: Callable[[nn.Module | fn.Net], nn.Module]) -> None:
        parallel = wrap(self.model.train())  # reduces gradients for as long as it exists
        tensors = {f"module.{name}": leaf for name, leaf in {**self.params, **self._clone_buffers()}.items()}
        output = functional_call(parallel, tensors, batch.args, dict(batch.kwargs))
        weights = [leaf for leaf in self.params.values() if leaf.requires_grad]
        torch.autograd.grad(self.subject.loss(output, batch.labels), weights, allow_unused=True)

    def gradients_with_frozen(self, frozen: set[str], batch: Batch) -> Flat:
        self.params = {name: leaf.detach() if name in frozen else leaf for name, leaf in self.params.items()}
        return self.step(batch)().gradients

    def call_in_training(self, batch: Batch) -> tuple[Flat, PreparedCall]:
        buffers = self._clone_buffers()
        params = {name: leaf.detach().requires_grad_(leaf.requires_grad) for name, leaf in self.params.items()}
        return buffers, lambda: self.apply(params, buffers, batch, True)

    def _clone_buffers(self) -> Flat:
        """Copies of the buffers for a call that writes to them."""
        return {name: buffer.clone() for name, buffer in self.buffers.items()}

    def _as_tree(self, flat: Flat) -> Tree:
        return flat


class NetForm(PureForm):
    """A net of funcnet."""

    pickle_title = "bytes, no weights in it"
    model: fn.Net

    def __init__(self, subject: Subject, net: fn.Net, name: str) -> None:
        super().__init__(subject)
        self.model, self.name = net, name
        self.eval_rng: int | Tensor | None = subject.seed if subject.draws_in_eval else None
        # Transforms refuse an int seed.
        self._transform_rng = fn.random.key(subject.seed) if subject.draws_in_eval else None

    def apply(
        self, params: Tree, buffers: Tree, batch: Batch, train: bool = False, rng: int | Tensor | None = None
    ) -> tuple[Any, Tree]:
        rng = self.eval_rng if rng is None else rng
        return self.model.apply(params, buffers, *batch.args, train=train, rng=rng, **batch.kwargs)

    def output(self, params: Tree, batch: Batch) -> object:
        return self.apply(params, self.buffers, batch, rng=self._transform_rng)[0]

    def count_hook_calls(self, batch: Batch) -> int:
        try:
            self.model.register_forward_hook(print)  # type: ignore[attr-defined]  # users try it
        except AttributeError as error:
            raise FailedError(f"{first_line(error)}{self._describe_module_hooks(batch)}") from error
        raise FailedError("register_forward_hook was taken, and is no part of a net")

    def _describe_module_hooks(self, batch: Batch) -> str:
        """What happens in the alternative to hooks on a net: hooks on the net as a module."""
        try:
            module = fn.to_module(self.model, self.subject.params, self.buffers)
            count = count_fired_hooks(module, lambda: batch.call(module.eval()))
        except Exception as error:  # an alternative that fails is not the failure to report
            return f" (fn.to_module then gave {first_line(error)})"
        return f" (on fn.to_module(net, params, buffers), hooks fired {format_count(count, 'time')})"

    def backward_in_ddp(self, batch: Batch, wrap: Callable[[nn.Module | fn.Net], nn.Module]) -> None:
        wrap(self.model)
        raise FailedError("DDP took a net, and has nothing to watch in it")

    def gradients_with_frozen(self, frozen: set[str], batch: Batch) -> Flat:
        params = self.subject.params
        names = [name for name, leaf in flatten(params).items() if is_inexact(leaf) and name not in frozen]
        trainable, constant = fn.tree.partition(params, names)

        def loss(trainable: Tree) -> Tensor:
            output, _ = self.apply(fn.tree.combine(trainable, constant), self.buffers, batch, True, self.rng)
            return self.subject.loss(output, batch.labels)

        gradients = flatten(fn.value_and_grad(loss)(trainable)[1])
        return {name: leaf for name, leaf in gradients.items() if isinstance(leaf, Tensor)}

    def call_in_training(self, batch: Batch) -> tuple[Flat, PreparedCall]:
        return flatten(self.buffers), self.step(batch)


class TracedForm(NetForm):
    """The trace of the module. For sizes that a trace does not fit, the module is traced again, as a user would do."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, _trace(subject, subject.batch(subject.middle_size)), TRACED)

    def forward(self, batch: Batch) -> PreparedCall:
        return NetForm.forward(self._fit_to(batch), batch)

    def step(self, batch: Batch) -> Callable[[], StepResult]:
        return NetForm.step(self._fit_to(batch), batch)

    def _fit_to(self, batch: Batch) -> TracedForm:
        """A form with a trace for these inputs."""
        form = copy.copy(self)
        try:
            with torch.no_grad():
                self.output(self.params, batch)
        except fn.ShapeError:
            form.model = _trace(self.subject, batch)
        return form


def _trace(subject: Subject, example: Batch) -> fn.Net:
    dynamic = ("batch",) if subject.no_batch_axis is None else ()
    return fn.trace(subject.module, *example.args, train="both", dynamic=dynamic, **example.kwargs)[0]
