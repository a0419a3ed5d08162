"""The laboratory itself: takes a comparison, and measures and tries every form of its models."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch

from funcnet.compare._digits import load_digits
from funcnet.compare._environment import describe_machine, installed_versions
from funcnet.compare._input_specs import dtype_name, parse_input_spec
from funcnet.compare._lab._capabilities import try_capabilities
from funcnet.compare._lab._compiled_form import CompileAllowance, start_compiler
from funcnet.compare._lab._costs import measure_batch_curves, measure_depth_curves, measure_memory, measure_overhead
from funcnet.compare._lab._depth import Depths, depths_of_module, depths_of_pair
from funcnet.compare._lab._form_differences import compare_forms
from funcnet.compare._lab._form_makers import cache_forms, make_forms
from funcnet.compare._lab._forms import NATIVE
from funcnet.compare._lab._listings import list_tensors, part_classes, stateful_listing, stateless_listing
from funcnet.compare._lab._module_form import ModuleForm
from funcnet.compare._lab._records import Curve, Laboratory, Listing, Study
from funcnet.compare._lab._subject import Subject, subject_from_module, subject_from_pair
from funcnet.compare._lab._vmap_curves import ensemble_curve, sample_gradients_curve
from funcnet.compare._measure import read_clock, single_threaded
from funcnet.compare._models import PAIRS
from funcnet.compare._progress import Progress, ignore_progress, subtask_progress
from funcnet.compare._results import Articles, Compared, NotPossible, Untrained
from funcnet.compare._target import build_target, parse_target
from funcnet.compare._time_limit import TIME_LIMIT, TimeLimit
from funcnet.random.internals import preserve_torch_state

COMPILE_SECONDS = 40.0
"""Seconds of torch.compile for all models together. Graphs beyond it are not compiled, and the results say so."""
STUDY_SECONDS, UNCOMPILED_SECONDS = 80.0, 8.0
"""Seconds that a whole study should take, and that one model takes without compiling. A busy machine therefore gets
fewer graphs, and not a later report."""


def study(
    comparison: Articles | Untrained,
    *,
    budget: float = 0.12,
    compiling: float = COMPILE_SECONDS,
    time_limit: float = TIME_LIMIT,
    command: str = "",
    progress: Progress = ignore_progress,
) -> Laboratory:
    """Measure every form of each model of a comparison, and try what each form can do.

    The forms are nn.Module, torch.func.functional_call, the net, its trace, and the compiled net. They take turns, on
    one thread; each number is a median with its quartiles, and a reason stands in place of a number that could not be
    measured.

    Args:
        comparison: the result of ``compare_articles`` or ``compare_module``.
        budget: seconds for each point of each curve, for all forms together.
        compiling: seconds of ``torch.compile``, shared by the models; seconds that one does not use go to the next.
        time_limit: seconds for everything. What would take longer than what is left is not begun, and says so.
        command: the command that repeats the study, for the record.
        progress: is called as the work goes on.

    Raises:
        CompareError: if the target of the comparison cannot be built a second time.

    >>> from funcnet.compare import compare_module
    >>> laboratory = study(compare_module("torch.nn:ReLU", ["f32[4]"], budget=0.01), budget=0.001, compiling=0)
    >>> laboratory.passes, laboratory.studies[0].curves["per_sample"]
    (True, NotPossible(reason='ReLU has no parameters'))
    """
    start = time.perf_counter()
    limit = TimeLimit(time_limit)
    studies: list[Study] = []
    progress("starting the compiler", 0.0)
    if compiling:
        start_compiler()
    with preserve_torch_state(), single_threaded():
        tasks = _list_tasks(comparison, limit)
        for index, (compared, make_subject) in enumerate(tasks):
            report = subtask_progress(progress, compared.title, index, len(tasks))
            report("building", 0.0)
            subject, depths = make_subject()
            subject = replace(subject, effects=compared.effects, call_seconds=_time_call(subject))
            remaining = len(tasks) - index
            compile_share = (compiling - sum(study.compile_seconds for study in studies)) / remaining
            time_share = (STUDY_SECONDS + start - time.perf_counter()) / remaining - UNCOMPILED_SECONDS
            allowance = CompileAllowance(max(0.0, min(compile_share, time_share)))
            model_limit = limit.part(1 / remaining)
            studies.append(_study_model(compared, subject, depths, budget, allowance, model_limit, report))
        threads = torch.get_num_threads()
    progress("done", 1.0)
    return Laboratory(
        comparison=comparison,
        studies=tuple(studies),
        machine=describe_machine(),
        versions=installed_versions(),
        seed=comparison.seed,
        threads=threads,
        seconds=time.perf_counter() - start,
        command=command,
    )


SubjectMaker = Callable[[], tuple[Subject, Depths | NotPossible]]


def _list_tasks(comparison: Articles | Untrained, limit: TimeLimit) -> list[tuple[Compared, SubjectMaker]]:
    """The models to study: the results of each in the comparison, and what builds the subject of its study."""
    seed = comparison.seed
    if isinstance(comparison, Untrained):

        def make_module_subject() -> tuple[Subject, Depths | NotPossible]:
            torch.manual_seed(seed)
            module = build_target(parse_target(comparison.name)).module
            subject = subject_from_module(
                module, [parse_input_spec(text) for text in comparison.inputs], seed, limit.part(0.2)
            )
            return subject, depths_of_module(subject)

        return [(comparison, make_module_subject)]
    digits = load_digits()

    def pair_subject_maker(name: str) -> SubjectMaker:
        def make_pair_subject() -> tuple[Subject, Depths | NotPossible]:
            subject = subject_from_pair(PAIRS[name], digits, seed)
            return subject, depths_of_pair(PAIRS[name], subject)

        return make_pair_subject

    return [(model, pair_subject_maker(model.name)) for model in comparison.models]


def _study_model(
    compared: Compared,
    subject: Subject,
    depths: Depths | NotPossible,
    budget: float,
    allowance: CompileAllowance,
    limit: TimeLimit,
    report: Progress,
) -> Study:
    report("writing the program", 0.02)
    stateless = stateless_listing(subject, limit.part(0.2))
    makers = cache_forms(make_forms(subject, allowance))
    report("comparing the forms", 0.1)
    differences, notes = compare_forms(makers, subject, limit.part(0.6))
    report("timing against batch size", 0.25)
    curves: dict[str, Curve | NotPossible] = {**measure_batch_curves(makers, subject, budget, limit.part(0.5))}
    report("timing small calls, counting bytes", 0.45)
    curves["overhead"] = measure_overhead(makers, subject, 2 * budget, limit.part(0.2))
    curves["memory"] = measure_memory(makers, subject, limit.part(0.2))
    report("gradients of single samples, ensembles", 0.5)
    curves["per_sample"] = sample_gradients_curve(makers, subject, budget, limit.part(0.3))
    curves["ensemble"] = ensemble_curve(makers, subject, budget, limit.part(0.3))
    report("trying what each form can do", 0.6)
    capabilities = try_capabilities(
        makers, subject, lambda share: report("trying what each form can do", 0.6 + 0.15 * share), limit.part(0.8)
    )
    report("timing against depth", 0.75)
    curves.update(measure_depth_curves(depths, subject, allowance, budget, limit))
    if not subject.is_native:
        parts = compared.parts if isinstance(compared, Untrained) else "runs a forward of the module's own"
        notes.insert(0, f"{NATIVE}: {parts}")
    return Study(
        name=compared.name,
        title=compared.title,
        inputs=tuple(_describe_inputs(subject)),
        parameters=compared.parameters,
        stateful=stateful_listing(subject, compared.programs.stateful),
        stateless=stateless,
        net=Listing("as a net of funcnet", compared.programs.stateless),
        parts=part_classes(subject),
        entries=list_tensors(subject),
        largest_difference=differences,
        curves=curves,
        capabilities=capabilities,
        compile_seconds=allowance.spent,
        notes=tuple(notes),
        effects=compared.effects,
        gradient=compared.gradient,
    )


def _time_call(subject: Subject) -> float:
    """About how long a call of the module takes, in the slower of both modes."""
    form, batch = ModuleForm(subject), subject.batch(subject.middle_size)
    seconds = 0.0
    for call in (form.forward(batch), form.step(batch)):
        start = read_clock()
        with suppress(Exception):  # a call that raises has its time too
            call()
        seconds = max(seconds, read_clock() - start)
    return seconds


def _describe_inputs(subject: Subject) -> list[str]:
    batch = subject.batch(subject.middle_size)
    named_tensors = [*((None, tensor) for tensor in batch.args), *batch.kwargs.items()]
    return [
        f"{f'{name}=' if name else ''}{dtype_name(tensor.dtype)}{list(tensor.shape)}" for name, tensor in named_tensors
    ]
