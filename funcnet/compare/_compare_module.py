"""Any importable module beside its net: the same inputs, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

import funcnet as fn
from funcnet._torch import pytree
from funcnet._typing import Tree
from funcnet.compare._compare_articles import Progress, quiet, versions
from funcnet.compare._errors import CompareError, summarize_error
from funcnet.compare._input_specs import SYNTAX, InputSpec, make_inputs, parse_input_spec
from funcnet.compare._measure import LiveBytes, largest_difference, one_thread, seconds
from funcnet.compare._per_sample import compare_per_sample
from funcnet.compare._program_texts import calling_code, foreign_parts, source_of
from funcnet.compare._results import NotPossible, PerSample, Programs, Sides, Untrained
from funcnet.compare._sides import ModuleSide, NetSide, total
from funcnet.compare._target import BuiltModule, Target, build_target, format_location, format_signature, parse_target

SAMPLES = 32


def compare_module(
    target: str, inputs: Sequence[str], *, seed: int = 0, budget: float = 2.0, progress: Progress = quiet
) -> Untrained:
    """Compare a module with ``fn.from_module`` of it: outputs, gradients, buffers, time and memory.

    The module is built under ``torch.manual_seed(seed)``; training calls draw with the same seed. Nothing of it is
    changed, and torch's global generator is put back.

    Args:
        target: ``"package.module:callable(args)"``, the callable a class, a factory or a module that is there already.
        inputs: what to call it with, each like ``"float32[2,3,64,64]"`` or ``"input_ids=int64[2,12]<100"``.
        seed: of weights, inputs and draws.
        budget: seconds for each thing timed.
        progress: called as the work goes on.

    Raises:
        CompareError: if the target or an input is not understood, or the module does not build or run.

    >>> result = compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"], budget=0.01)
    >>> result.largest_difference["outputs in eval mode"], result.identical
    (0.0, True)
    """
    named = parse_target(target)
    specs = [parse_input_spec(text) for text in inputs]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), one_thread():
        progress("building", 0.0)
        torch.manual_seed(seed)
        return Comparison(named, build_target(named), specs, seed, budget, progress).result()


class Comparison:
    """One module, its net, and what both are called with."""

    def __init__(
        self,
        target: Target,
        built: BuiltModule,
        specs: Sequence[InputSpec],
        seed: int,
        budget: float,
        progress: Progress,
    ) -> None:
        self.target, self.built, self.specs = target, built, specs
        self.module = module = built.module
        self.seed, self.budget, self.progress = seed, budget, progress
        if not specs:
            raise CompareError(f"{target.text!r} needs inputs to be called with. {self._forward()} {SYNTAX}.")
        held = chain(module.parameters(), module.buffers())
        device = next((tensor.device for tensor in held), torch.device("cpu"))
        made = make_inputs(specs, seed)
        self.args, self.kwargs = pytree.tree_map(lambda tensor: tensor.to(device), made)
        try:
            self.net, self.params, self.buffers = fn.from_module(module)
        except Exception as error:
            raise CompareError(f"{target.text!r} cannot be made a net: {summarize_error(error)}.") from error

    def result(self) -> Untrained:
        """Make the comparison."""
        self.progress("calling both", 0.1)
        opaque: set[str] = set()
        notes: list[str] = []
        differences: dict[str, float | None] = {"outputs in eval mode": self._in_eval(opaque, notes)}
        differences.update(self._in_training(opaque))
        if opaque:
            notes.append(f"Not compared, being no tensors: {', '.join(sorted(opaque))} among the outputs.")
        return Untrained(
            name=self.target.text,
            title=type(self.module).__name__,
            parameters=sum(weight.numel() for weight in self.module.parameters()),
            programs=Programs(source_of(self.module, self.built.factory), self._calling_code()),
            largest_difference=differences,
            forward_seconds=self._forward_seconds(),
            step_seconds=self._step_seconds(),
            peak_bytes=self._peak_bytes(),
            per_sample=self._per_sample(),
            versions=versions(),
            seed=self.seed,
            inputs=tuple(map(str, self.specs)),
            parts=foreign_parts(self.net),
            notes=tuple(notes),
        )

    def _calling_code(self) -> str:
        return calling_code(self.target, self.built.expression, self.specs, self.net, self.seed)

    # --- the two sides ---

    def _module_side(self, train: bool) -> ModuleSide:
        side = ModuleSide(self.module, self.args, self.kwargs)
        side.module.train(train)
        torch.manual_seed(self.seed)
        return side

    def _net_side(self) -> NetSide:
        return NetSide(self.net, self.params, self.buffers, self.args, self.kwargs, self.seed)

    def _run_module(self, call: Callable[[], Any], mode: str) -> Any:
        try:
            return call()
        except Exception as error:
            inputs = ", ".join(map(str, self.specs))
            raise CompareError(
                f"{self.target.text!r} raised {summarize_error(error)}{format_location(error)}, called as a plain "
                f"module in {mode} mode with {inputs}. {self._forward()} Change the inputs so that it runs."
            ) from error

    def _run_net(self, call: Callable[[], Any], mode: str) -> Any:
        try:
            return call()
        except Exception as error:
            raise CompareError(
                f"{self.target.text!r} runs as a module, and in {mode} mode its net raised "
                f"{summarize_error(error)}{format_location(error)}."
            ) from error

    def _forward(self) -> str:
        return f"The forward of {type(self.module).__name__} takes {format_signature(self.module.forward)}."

    # --- differences ---

    def _in_eval(self, opaque: set[str], notes: list[str]) -> float:
        found = self._eval_difference(opaque)
        if not found or not torch.backends.mha.get_fastpath_enabled():
            return found
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            slower = self._eval_difference(opaque)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        if slower < found:
            notes.append(
                f"In eval mode the module takes torch's fused path for attention, which rounds differently, by at most "
                f"{found:.1e}. A net never takes it: the outputs were compared without it, and the times are with it."
            )
        return slower

    def _eval_difference(self, opaque: set[str]) -> float:
        stateful, stateless = self._module_side(train=False), self._net_side()
        with torch.no_grad():
            expected = self._run_module(stateful.forward, "eval")
            found = self._run_net(stateless.forward, "eval")
        return largest_difference(_readable(expected, opaque), _readable(found, opaque))

    def _in_training(self, opaque: set[str]) -> dict[str, float | None]:
        stateful, stateless = self._module_side(train=True), self._net_side()
        expected = self._run_module(stateful.step, "training")
        found = self._run_net(stateless.step, "training")
        differences: dict[str, float | None] = {
            "outputs in training mode": largest_difference(_readable(expected, opaque), _readable(found, opaque))
        }
        for quantity, left, right in (
            ("gradients", stateful.gradients(), stateless.gradients()),
            ("new buffers", stateful.buffers(), stateless.buffers()),
        ):
            differences[quantity] = largest_difference(left, right) if left or right else None
        return differences

    # --- costs ---

    def _forward_seconds(self) -> Sides:
        self.progress("timing a forward", 0.2)
        stateful, stateless = self._module_side(train=False), self._net_side()
        with torch.no_grad():
            return seconds(stateful.forward, stateless.forward, budget=self.budget)

    def _step_seconds(self) -> Sides:
        self.progress("timing forward and backward", 0.4)
        return seconds(self._module_side(train=True).step, self._net_side().step, budget=self.budget)

    def _peak_bytes(self) -> Sides | NotPossible:
        self.progress("counting bytes", 0.6)
        peaks = []
        for make in (lambda: self._module_side(train=True), self._net_side):
            side: ModuleSide | NetSide = make()
            held = [side.module.state_dict()] if isinstance(side, ModuleSide) else [side.params, side.given]
            try:
                with LiveBytes() as memory:
                    memory.count((held, side.args, side.kwargs))
                    for _ in range(2):
                        memory.peak = memory.live
                        side.step()
            except Exception as error:  # what a foreign forward does need not work within a dispatch mode
                return NotPossible(summarize_error(error, 200))
            peaks.append(memory.peak)
        return Sides(*peaks)

    def _per_sample(self) -> PerSample | NotPossible:
        self.progress("gradients of single samples", 0.7)
        batch = (self.args, self.kwargs)
        sizes = {tensor.shape[:1] for tensor in pytree.tree_leaves(batch)}
        if len(sizes) != 1 or not (size := sizes.pop()) or size[0] < 2:
            return NotPossible("the inputs have no batch axis: a first size that all share, of 2 or more")
        if not any(weight.is_floating_point() for weight in self.module.parameters()):
            return NotPossible("the module has no parameters")
        batch = pytree.tree_map(lambda tensor: tensor[:SAMPLES], batch)
        module = self._module_side(train=False).module
        net, buffers = self.net, self.buffers

        def module_loss(sample: Any) -> Tensor:
            args, kwargs = pytree.tree_map(lambda tensor: tensor[None].clone(), sample)
            return total(module(*args, **kwargs))

        def loss(params: Tree, sample: Any) -> Tensor:
            args, kwargs = pytree.tree_map(lambda tensor: tensor[None], sample)
            return total(net.apply(params, buffers, *args, **kwargs)[0])

        try:
            return compare_per_sample(module, module_loss, loss, self.params, batch, self.budget)
        except Exception as error:  # a foreign body may do anything that vmap has no rule for
            return NotPossible(summarize_error(error, 200))


def _readable(output: Any, opaque: set[str]) -> Any:
    """The outputs with everything that has no numbers to compare replaced by its type, whose name is noted."""

    def read(leaf: Any) -> Any:
        if leaf is None or isinstance(leaf, (Tensor, bool, int, float, complex, str)):
            return leaf
        opaque.add(type(leaf).__name__)
        return type(leaf)

    return pytree.tree_map(read, output)
