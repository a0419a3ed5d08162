"""The forms of one model that are measured beside each other, each used as its users use it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

import funcnet as fn
from funcnet._torch import graphs_allowed, keep_size_free
from funcnet._typing import Flat, Tree
from funcnet.compare._lab._subject import Batch, Subject
from funcnet.compare._lab._turns import Call, SkippedError
from funcnet.tree import flatten

MODULE, CALL, NATIVE, TRACED, COMPILED = "nn.Module", "functional_call", "native", "traced", "compiled"


class Step(NamedTuple):
    """What a forward and backward in training mode gives."""

    output: Any
    gradients: Flat
    buffers: Flat


def _learns(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


class ModuleForm:
    """A copy of the module; its calls change its buffers, its ``grad`` fields and torch's global generator."""

    name = MODULE

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.module = copy.deepcopy(subject.module)
        for weight in self.module.parameters():
            weight.requires_grad_(_learns(weight))

    def forward(self, batch: Batch) -> Call:
        module = self.module.eval()
        return lambda: batch.call(module)

    def step(self, batch: Batch) -> Call:
        module, loss = self.module.train(), self.subject.loss

        def step() -> Step:
            module.zero_grad()
            output = batch.call(module)
            value = loss(output, batch.labels)
            if value.requires_grad:
                value.backward()
            grads = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
            return Step(output, grads, dict(module.named_buffers()))

        return step


class PureForm:
    """A form whose call takes params and buffers, and returns the output and new buffers."""

    name: str

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.rng: Any = subject.seed
        # torch chooses some kernels by whether weights require grad, even under no_grad: here they do, as in a module
        self.params = fn.tree.map(lambda leaf: leaf.detach().requires_grad_(_learns(leaf)), subject.params)
        self.buffers = subject.buffers

    def apply(self, params: Any, buffers: Any, batch: Batch, train: bool = False, rng: Any = None) -> tuple[Any, Any]:
        raise NotImplementedError

    def output(self, params: Any, batch: Batch) -> Any:
        """The output in eval mode as a function of the params: what transforms are given."""
        return self.apply(params, self.buffers, batch)[0]

    def forward(self, batch: Batch) -> Call:
        return lambda: self.apply(self.params, self.buffers, batch)[0]

    def step(self, batch: Batch) -> Call:
        def loss(params: Tree) -> tuple[Tensor, Any]:
            output, new = self.apply(params, self.buffers, batch, True, self.rng)
            return self.subject.loss(output, batch.labels), (output, new)

        both = fn.value_and_grad(loss, has_aux=True)
        plain = fn.tree.map(torch.Tensor.detach, self.params)

        def step() -> Step:
            (_, (output, new)), grads = both(plain)
            return Step(output, {name: g for name, g in flatten(grads).items() if _learns(g)}, flatten(new))

        return step


class FunctionalCall(PureForm):
    """``torch.func.functional_call`` on the module. Buffers are written in place, into copies it is given."""

    name = CALL

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.module = copy.deepcopy(subject.module)
        self.params, self.buffers = flatten(self.params), flatten(self.buffers)

    def apply(self, params: Any, buffers: Any, batch: Batch, train: bool = False, rng: Any = None) -> tuple[Any, Any]:
        if self.module.training != train:
            self.module.train(train)
        return functional_call(self.module, {**params, **buffers}, batch.args, dict(batch.kwargs)), buffers

    def step(self, batch: Batch) -> Call:
        held = {name: buffer.clone() for name, buffer in self.buffers.items()}
        weights = {name: leaf for name, leaf in self.params.items() if leaf.requires_grad}

        def step() -> Step:
            output, new = self.apply(self.params, held, batch, True)
            value = self.subject.loss(output, batch.labels)
            if not value.requires_grad:
                return Step(output, {}, new)
            found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
            return Step(output, dict(zip(weights, found, strict=True)), new)

        return step


class NetForm(PureForm):
    """A net of funcnet."""

    def __init__(self, subject: Subject, net: fn.Net, name: str) -> None:
        super().__init__(subject)
        self.net, self.name = net, name
        self.draws: Any = subject.seed if subject.draws_in_eval else None
        self.key = fn.random.key(subject.seed) if subject.draws_in_eval else None

    def apply(self, params: Any, buffers: Any, batch: Batch, train: bool = False, rng: Any = None) -> tuple[Any, Any]:
        rng = self.draws if rng is None else rng
        return self.net.apply(params, buffers, *batch.args, train=train, rng=rng, **batch.kwargs)

    def output(self, params: Any, batch: Batch) -> Any:
        return self.apply(params, self.buffers, batch, rng=self.key)[0]  # an int seed is refused by transforms


class TracedForm(NetForm):
    """The module's trace. Where that is for other sizes, the module is traced again, as one would do."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, _trace(subject, subject.batch(subject.middle)), TRACED)

    def forward(self, batch: Batch) -> Call:
        return NetForm.forward(self._for(batch), batch)

    def step(self, batch: Batch) -> Call:
        return NetForm.step(self._for(batch), batch)

    def _for(self, batch: Batch) -> TracedForm:
        fitting = copy.copy(self)
        try:
            with torch.no_grad():
                self.output(self.params, batch)
        except fn.ShapeError:
            fitting.net = _trace(self.subject, batch)
        return fitting


def _trace(subject: Subject, example: Batch) -> fn.Net:
    free = ("batch",) if subject.whole_batch is None else ()
    return fn.trace(subject.module, *example.args, train="both", dynamic=free, **example.kwargs)[0]


class Allowance:
    """Seconds that may go into compiling; what comes when they are spent says so."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent, self.last = seconds, 0.0, 0.0

    def first(self, call: Call) -> Call:
        """Make the first call of something compiled, on the clock. When that has run out, old graphs are run still."""
        if self.spent + self.last >= self.seconds:
            try:
                with torch.compiler.set_stance("fail_on_recompile"):
                    call()
            except RuntimeError as error:
                if not self.spent:
                    raise SkippedError("nothing was left of the time for compiling") from error
                raise SkippedError(
                    f"this needs another graph, and compiling took {self.spent:.0f} s already, where this model is "
                    f"given {self.seconds:.0f} s"
                ) from error
            return call
        start = time.perf_counter()
        try:
            with graphs_allowed():
                call()
        finally:
            self.last = time.perf_counter() - start
            self.spent += self.last
        return call


class Compiled(NetForm):
    """``torch.compile(fullgraph=True)`` of the native net. Draws come from a Key, as an int seed is eager only."""

    def __init__(self, subject: Subject, allowance: Allowance) -> None:
        super().__init__(subject, subject.net, COMPILED)
        self.rng, self.allowance = fn.random.key(subject.seed), allowance
        self.draws = self.rng if subject.draws_in_eval else None
        self.eager = super().apply
        self.compiled: Callable[..., Any] = torch.compile(self.eager, fullgraph=True)

    def apply(self, params: Any, buffers: Any, batch: Batch, train: bool = False, rng: Any = None) -> tuple[Any, Any]:
        return self.compiled(params, buffers, batch, train, rng)

    def forward(self, batch: Batch) -> Call:
        self._free(batch)
        return self.allowance.first(super().forward(batch))

    def step(self, batch: Batch) -> Call:
        self._free(batch)
        return self.allowance.first(super().step(batch))

    def _free(self, batch: Batch) -> None:
        if self.subject.whole_batch is None:
            for value in (*batch.args, *batch.kwargs.values()):
                keep_size_free(value, 0)


def start_compiler() -> None:
    """Compile next to nothing, so that what the first use of torch.compile costs is no part of what is measured."""
    torch.compile(torch.sin)(torch.ones(2))


Form = ModuleForm | PureForm


def make_forms(subject: Subject, allowance: Allowance) -> Mapping[str, Callable[[], Form]]:
    """What makes each form. A maker may raise: then the form cannot be had, and the error says why."""
    return {
        MODULE: lambda: ModuleForm(subject),
        CALL: lambda: FunctionalCall(subject),
        NATIVE: lambda: NetForm(subject, subject.net, NATIVE),
        TRACED: lambda: TracedForm(subject),
        COMPILED: lambda: Compiled(subject, allowance),
    }
