"""Compares any importable module with its net, on the same inputs and without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

import funcnet as fn
from funcnet._torch import pytree
from funcnet._typing import TreeLike
from funcnet.compare._environment import installed_versions
from funcnet.compare._errors import CompareError, SkippedError, describe_reason, summarize_error
from funcnet.compare._found_effects import describe_places, effects_of, explain_failure, find_effects
from funcnet.compare._gradient_check import check_gradient
from funcnet.compare._input_specs import SYNTAX, InputSpec, make_inputs, parse_input_spec
from funcnet.compare._measure import (
    VERY_SLOW_SECONDS,
    LiveBytes,
    largest_difference,
    measure_seconds,
    read_clock,
    single_threaded,
)
from funcnet.compare._per_sample import compare_per_sample
from funcnet.compare._program_texts import calling_code, describe_foreign_parts, module_source
from funcnet.compare._progress import Progress, ignore_progress
from funcnet.compare._results import (
    FoundEffect,
    GradientCheck,
    MissingMode,
    NotPossible,
    PerSample,
    Programs,
    Sides,
    Untrained,
)
from funcnet.compare._sides import Args, Kwargs, ModuleSide, NetSide, sum_outputs
from funcnet.compare._target import (
    BuiltModule,
    Target,
    build_target,
    format_location,
    format_signature,
    parse_target,
)
from funcnet.compare._time_limit import TIME_LIMIT, TimeLimit
from funcnet.kernels.internals import WrongKernelWatch
from funcnet.random.internals import preserve_torch_state

LARGEST_SAMPLE_BATCH = 32

Result = TypeVar("Result")


class ModeError(Exception):
    """One of the two forms does not run in a mode; the message says which, and why."""

    def __init__(self, reason: str, is_fault_of_net: bool = False) -> None:
        super().__init__(reason)
        self.is_fault_of_net = is_fault_of_net


def compare_module(
    target: str,
    inputs: Sequence[str],
    *,
    seed: int = 0,
    budget: float = 2.0,
    time_limit: float = TIME_LIMIT,
    progress: Progress = ignore_progress,
) -> Untrained:
    """Compare a module with ``fn.from_module`` of it: outputs, gradients, buffers, time and memory.

    The module is built under ``torch.manual_seed(seed)``; training calls draw with the same seed. The module does not
    change, and torch's global generator is left as it was.

    Args:
        target: ``"package.module:callable(args)"``, where the callable is a class, a factory or an existing module.
        inputs: what to call the module with, each like ``"float32[2,3,64,64]"`` or ``"input_ids=int64[2,12]<100"``.
        seed: for the weights, inputs and draws.
        budget: seconds for each quantity that is timed.
        time_limit: seconds for everything. Parts that would take longer than what is left do not begin, and the result
            says so in their place.
        progress: is called as the work goes on.

    Raises:
        CompareError: if the target or an input is not understood, or if the module does not build, or runs in neither
            mode.

    >>> result = compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"], budget=0.01)
    >>> result.largest_difference["outputs in eval mode"], result.identical
    (0.0, True)
    """
    parsed_target = parse_target(target)
    specs = [parse_input_spec(text) for text in inputs]
    with preserve_torch_state(), single_threaded():
        progress("building", 0.0)
        torch.manual_seed(seed)
        built, limit = build_target(parsed_target), TimeLimit(time_limit)
        return ModuleComparison(parsed_target, built, specs, seed, budget, limit, progress).run()


class ModuleComparison:
    """One module, its net, and the inputs that both are called with."""

    def __init__(
        self,
        target: Target,
        built: BuiltModule,
        specs: Sequence[InputSpec],
        seed: int,
        budget: float,
        limit: TimeLimit,
        progress: Progress,
    ) -> None:
        self.target, self.built, self.specs = target, built, specs
        self.module = module = built.module
        self.seed, self.budget, self.limit, self.progress = seed, budget, limit, progress
        self._seconds = {"eval": 0.0, "training": 0.0}
        """What the first call of the module took in each mode, by which its other calls are judged beforehand."""
        self._missing_modes: list[MissingMode] = []
        self._has_gradient = True
        self._opaque_types: set[str] = set()  # of outputs that hold no numbers
        self._notes: list[str] = []
        if not specs:
            raise CompareError(f"{target.text!r} needs inputs to be called with. {self._describe_forward()} {SYNTAX}.")
        tensors = chain(module.parameters(), module.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self.args: Args
        self.kwargs: Kwargs
        self.args, self.kwargs = pytree.tree_map(lambda tensor: tensor.to(device), make_inputs(specs, seed))
        try:
            self.net, self.params, self.buffers = fn.from_module(module)
        except Exception as error:
            raise CompareError(f"{target.text!r} cannot be made a net: {summarize_error(error)}.") from error

    def run(self) -> Untrained:
        """Make the comparison."""
        self.progress("calling both", 0.05)
        differences = {**self._compare_mode("eval", self._compare_eval)}
        differences.update(self._compare_mode("training", self._compare_training))
        if len(self._missing_modes) == 2:
            raise self._cannot_compare()
        self.progress("looking for effects", 0.1)
        self.effects = self._find_effects()
        if self._opaque_types:
            names = ", ".join(sorted(self._opaque_types))
            self._notes.append(f"Not compared, being no tensors: {names} among the outputs.")
        source = module_source(self.module, self.built.factory)
        code = calling_code(self.target, self.built.expression, self.specs, self.net, self.seed)
        return Untrained(
            name=self.target.text,
            title=type(self.module).__name__,
            parameters=sum(weight.numel() for weight in self.module.parameters()),
            programs=Programs(source, code),
            largest_difference=differences,
            forward_seconds=self._time_forward(),
            step_seconds=self._time_step(),
            peak_bytes=self._measure_memory(),
            per_sample=self._compare_per_sample(),
            versions=installed_versions(),
            seed=self.seed,
            inputs=tuple(map(str, self.specs)),
            parts=describe_foreign_parts(self.net),
            notes=tuple(self._notes),
            effects=self.effects,
            gradient=self._check_gradient(),
            missing_modes=tuple(self._missing_modes),
        )

    # --- the two sides ---

    def _make_module_side(self, train: bool) -> ModuleSide:
        side = ModuleSide(self.module, self.args, self.kwargs)
        side.module.train(train)
        torch.manual_seed(self.seed)
        return side

    def _make_net_side(self) -> NetSide:
        return NetSide(self.net, self.params, self.buffers, self.args, self.kwargs, self.seed)

    def _run_module(self, call: Callable[[], Result], mode: str) -> Result:
        start = read_clock()
        try:
            return call()
        except Exception as error:
            inputs = ", ".join(map(str, self.specs))
            raise ModeError(
                f"the module raised {summarize_error(error)}{format_location(error)}, called as a plain module in "
                f"{mode} mode with {inputs}"
            ) from error
        finally:
            self._seconds[mode] = max(self._seconds[mode], read_clock() - start)

    def _run_net(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except Exception as error:
            reason = f"the module runs, and its net raised {summarize_error(error)}{format_location(error)}"
            raise ModeError(reason, is_fault_of_net=True) from error

    def _cannot_compare(self) -> CompareError:
        reason = self._missing_modes[-1].reason
        if "mode with" not in reason:
            reason = self._missing_modes[0].reason
        return CompareError(
            f"{self.target.text!r} cannot be compared in either mode: {reason}. {self._describe_forward()} Change the "
            f"inputs so that it runs."
        )

    def _describe_forward(self) -> str:
        return f"The forward of {type(self.module).__name__} takes {format_signature(self.module.forward)}."

    # --- differences ---

    def _compare_mode(self, mode: str, compare: Callable[[], dict[str, float | None]]) -> dict[str, float | None]:
        """The differences in one mode; none if the module does not run in it, which is noted."""
        try:
            self.limit.require(2 * self._seconds["eval"])
            return compare()
        except ModeError as error:
            self._missing_modes.append(MissingMode(mode, str(error), error.is_fault_of_net))
        except SkippedError as error:
            self._missing_modes.append(MissingMode(mode, str(error)))
        return {}

    def _call_seconds(self, forwards: float = 0, steps: float = 0) -> float:
        """About how long so many forwards in eval mode and steps in training mode take."""
        return forwards * self._seconds["eval"] + steps * self._seconds["training"]

    def _require(self, mode: str, share: float, seconds: float) -> None:
        """Require that a mode works, and that there is time for a part that gets this share of what is left."""
        for missing in self._missing_modes:
            if missing.mode == mode:
                raise SkippedError(missing.reason)
        self.limit.part(share).require(seconds)

    def _find_effects(self) -> tuple[FoundEffect, ...] | NotPossible:
        try:
            self.limit.part(0.4).require(self._call_seconds(5, 5))
        except SkippedError as error:
            return NotPossible(str(error))
        return find_effects(self.module, self.args, self.kwargs)

    def _compare_eval(self) -> dict[str, float | None]:
        return {"outputs in eval mode": self._compare_fused_eval()}

    def _compare_fused_eval(self) -> float:
        """Compare the outputs in eval mode; a difference that comes from torch's fused attention does not count."""
        difference = self._compare_eval_outputs()
        if not difference or not torch.backends.mha.get_fastpath_enabled():
            return difference
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            unfused_difference = self._compare_eval_outputs()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        if unfused_difference < difference:
            self._notes.append(
                f"In eval mode the module takes torch's fused path for attention, which rounds differently, by at most "
                f"{difference:.1e}. A net never takes it: the outputs were compared without it, and the times are "
                f"with it."
            )
        return unfused_difference

    def _compare_eval_outputs(self) -> float:
        stateful, stateless = self._make_module_side(train=False), self._make_net_side()
        with torch.no_grad():
            expected = self._run_module(stateful.forward, "eval")
            actual = self._run_net(stateless.forward)
        return self._compare_outputs(expected, actual)

    def _compare_training(self) -> dict[str, float | None]:
        stateful, stateless = self._make_module_side(train=True), self._make_net_side()
        with WrongKernelWatch() as watch:
            expected = self._run_module(stateful.step, "training")
        self._notes += [
            f"torch's {name} may compute wrong numbers here: {kernel.fault} (funcnet/layers/WRONG_KERNELS.md, "
            f"{kernel.number}). Write {kernel.remedy}."
            for name, kernel in watch.faults.items()
        ]
        stateless.has_gradient = stateful.has_gradient
        if not stateful.has_gradient:
            self._notes.append("No floating output depends on a weight by operations that torch can differentiate.")
        self._has_gradient = stateful.has_gradient
        actual = self._run_net(stateless.step)
        differences: dict[str, float | None] = {
            "outputs in training mode": self._compare_outputs(expected, actual),
        }
        for quantity, left, right in (
            ("gradients", stateful.gradients(), stateless.gradients()),
            ("new buffers", stateful.new_buffers(), stateless.new_buffers()),
        ):
            differences[quantity] = largest_difference(left, right) if left or right else None
        return differences

    def _compare_outputs(self, expected: object, actual: object) -> float:
        return largest_difference(self._comparable_output(expected), self._comparable_output(actual))

    def _comparable_output(self, output: object) -> object:
        """The output, where every leaf that holds no numbers is replaced by its type, whose name is recorded."""

        def replace_opaque(leaf: object) -> object:
            if leaf is None or isinstance(leaf, (Tensor, bool, int, float, complex, str)):
                return leaf
            self._opaque_types.add(type(leaf).__name__)
            return type(leaf)

        result: object = pytree.tree_map(replace_opaque, output)
        return result

    def _check_gradient(self) -> GradientCheck | NotPossible:
        self.progress("finite differences", 0.15)
        try:
            self._require("training", 0.4, self._call_seconds(9, 6))
        except SkippedError as error:
            return NotPossible(str(error))
        return check_gradient(self.module, self.args, self.kwargs, self.seed)

    # --- costs ---

    def _time_forward(self) -> Sides | NotPossible:
        self.progress("timing a forward", 0.2)
        try:
            self._require("eval", 0.3, self._call_seconds(forwards=4))
            stateful, stateless = self._make_module_side(train=False), self._make_net_side()
            with torch.no_grad():
                return self._note_rounds(measure_seconds(stateful.forward, stateless.forward, budget=self.budget))
        except Exception as error:  # the second call of a forward may raise what the first did not
            return NotPossible(describe_reason(error))

    def _time_step(self) -> Sides | NotPossible:
        self.progress("timing forward and backward", 0.4)
        try:
            self._require("training", 0.4, self._call_seconds(steps=4))
        except SkippedError as error:
            return NotPossible(str(error))
        stateful, stateless = self._make_module_side(train=True), self._make_net_side()
        stateless.has_gradient = self._has_gradient
        try:
            return self._note_rounds(measure_seconds(stateful.step, stateless.step, budget=self.budget))
        except Exception as error:  # the module kept a tensor of the graph of an earlier step
            reason = f"it cannot make a second step: {summarize_error(error, 200)}"
            self._notes.append(f"{type(self.module).__name__}: {reason}.")
            return NotPossible(reason)

    def _note_rounds(self, seconds: Sides) -> Sides:
        note = "A call takes more than a second, so the times are of one call each."
        if max(seconds.stateful, seconds.stateless) > VERY_SLOW_SECONDS and note not in self._notes:
            self._notes.append(note)
        return seconds

    def _measure_memory(self) -> Sides | NotPossible:
        self.progress("counting bytes", 0.6)
        peaks = []
        side: ModuleSide | NetSide
        try:
            self._require("training", 0.4, self._call_seconds(steps=4))
            for side in (self._make_module_side(train=True), self._make_net_side()):
                side.has_gradient = self._has_gradient
                with LiveBytes() as memory:
                    memory.count_tensors((side.state_tensors(), side.args, side.kwargs))
                    for _ in range(2):
                        memory.reset_peak()
                        side.step()
                peaks.append(memory.peak)
        except Exception as error:  # some foreign forwards do not work within a dispatch mode
            return NotPossible(describe_reason(error))
        return Sides(*peaks)

    def _compare_per_sample(self) -> PerSample | NotPossible:
        self.progress("gradients of single samples", 0.7)
        batch = (self.args, self.kwargs)
        sizes = {tensor.shape[:1] for tensor in pytree.tree_leaves(batch)}
        if len(sizes) != 1 or not (size := sizes.pop()) or size[0] < 2:
            return NotPossible("the inputs have no batch axis: a first size that all share, of 2 or more")
        if not any(weight.is_floating_point() for weight in self.module.parameters()):
            return NotPossible("the module has no parameters")
        batch = pytree.tree_map(lambda tensor: tensor[:LARGEST_SAMPLE_BATCH], batch)
        module = self._make_module_side(train=False).module
        net, buffers = self.net, self.buffers

        def module_loss(sample: tuple[Args, Kwargs]) -> Tensor:
            args, kwargs = pytree.tree_map(lambda tensor: tensor[None].clone(), sample)
            return sum_outputs(module(*args, **kwargs))

        def loss(params: TreeLike, sample: tuple[Args, Kwargs]) -> Tensor:
            args, kwargs = pytree.tree_map(lambda tensor: tensor[None], sample)
            return sum_outputs(net.apply(params, buffers, *args, **kwargs)[0])

        samples = pytree.tree_leaves(batch)[0].shape[0]
        try:
            self._require("eval", 1.0, self._call_seconds(forwards=2 * (3 * samples + 4)))
            return compare_per_sample(module, module_loss, loss, self.params, batch, self.budget)
        except fn.RandomnessError:
            draws = describe_places(effects_of(self.effects, "draws"))
            reason = f"it draws in eval mode{f' ({draws})' if draws else ''}, so a loop and vmap draw other numbers"
            return NotPossible(explain_failure(reason, self.effects))
        except SkippedError as error:
            return NotPossible(str(error))
        except Exception as error:  # vmap may have no rule for what a foreign body does
            return NotPossible(explain_failure(summarize_error(error, 200), self.effects))
