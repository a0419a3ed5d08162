"""The compiled net as a form, and the time that compiling may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

import funcnet as fn
from funcnet._torch import allow_graphs, keep_size_free
from funcnet._typing import Tree
from funcnet.compare._errors import SkippedError
from funcnet.compare._lab._forms import COMPILED, NATIVE, StepResult
from funcnet.compare._lab._pure_forms import NetForm
from funcnet.compare._lab._subject import Batch, Subject
from funcnet.compare._lab._turns import PreparedCall

Result = TypeVar("Result")


class CompileAllowance:
    """The seconds that compiling may take. When they are spent, further compiling is skipped, with the reason."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent = seconds, 0.0
        self._last_seconds = 0.0

    def make_first_call(self, call: Callable[[], Result]) -> Callable[[], Result]:
        """Make the first call of a compiled function, and count its time; returns the call.

        When the time is spent, graphs that exist already still run.

        Raises:
            SkippedError: if the call needs a new graph and there is no time for it.
        """
        if self.spent + self._last_seconds >= self.seconds:
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
            with allow_graphs():
                call()
        finally:
            self._last_seconds = time.perf_counter() - start
            self.spent += self._last_seconds
        return call


class CompiledForm(NetForm):
    """``torch.compile(fullgraph=True)`` of the native net. It draws from a Key, as an int seed needs eager mode."""

    def __init__(self, subject: Subject, allowance: CompileAllowance) -> None:
        super().__init__(subject, subject.net, COMPILED)
        self.rng: Tensor = fn.random.key(subject.seed)
        self.allowance = allowance
        self.eval_rng = self.rng if subject.draws_in_eval else None
        self._compiled: Callable[..., tuple[Any, Tree]] = torch.compile(super().apply, fullgraph=True)

    def apply(
        self, params: Tree, buffers: Tree, batch: Batch, train: bool = False, rng: int | Tensor | None = None
    ) -> tuple[Any, Tree]:
        return self._compiled(params, buffers, batch, train, rng)

    def forward(self, batch: Batch) -> PreparedCall:
        self._mark_batch_dynamic(batch)
        return self.allowance.make_first_call(super().forward(batch))

    def step(self, batch: Batch) -> Callable[[], StepResult]:
        self._mark_batch_dynamic(batch)
        return self.allowance.make_first_call(super().step(batch))

    def _mark_batch_dynamic(self, batch: Batch) -> None:
        if self.subject.no_batch_axis is None:
            for tensor in (*batch.args, *batch.kwargs.values()):
                keep_size_free(tensor, 0)

    def same_draws_form(self) -> NetForm | None:
        if not (self.subject.draws_in_training or self.subject.draws_in_eval):
            return None
        form = NetForm(self.subject, self.subject.net, NATIVE)
        form.rng, form.eval_rng = self.rng, self.eval_rng
        return form

    def own_weights(self) -> list[Tensor]:
        raise SkippedError("compiled code takes its buffers from C++, where tensors alive cannot be counted")


def start_compiler() -> None:
    """Compile a tiny function, so that the cost of the first use of torch.compile is not measured."""
    torch.compile(torch.sin)(torch.ones(2))
