"""The laboratory itself: a comparison, and all that is measured and tried of its models besides."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from funcnet.compare._compare_articles import Progress, quiet, versions
from funcnet.compare._digits import load_digits
from funcnet.compare._input_specs import parse_input_spec
from funcnet.compare._lab._capabilities import capabilities
from funcnet.compare._lab._costs import against_batch, against_depth, memory, once_each, overhead
from funcnet.compare._lab._depth import Depths, depths_of_module, depths_of_pair
from funcnet.compare._lab._differences import differences
from funcnet.compare._lab._forms import CALL, COMPILED, MODULE, NATIVE, TRACED, Allowance, make_forms, start_compiler
from funcnet.compare._lab._listings import entries_of, parts_of, stateful_listing, stateless_listing
from funcnet.compare._lab._many import ensemble, per_sample
from funcnet.compare._lab._records import Curve, Laboratory, Listing, Study
from funcnet.compare._lab._subject import Subject, subject_of_module, subject_of_pair
from funcnet.compare._measure import one_thread
from funcnet.compare._models import PAIRS
from funcnet.compare._results import Articles, Compared, NotPossible, Untrained
from funcnet.compare._target import build_target, parse_target

FORMS = (MODULE, CALL, NATIVE, TRACED, COMPILED)
COMPILING = 40.0
"""Seconds of torch.compile for all models together; graphs beyond it are left out, and say so."""
LONGEST, OTHERWISE = 80.0, 8.0
"""Seconds a study should take, and those of a model without compiling: a busy machine gets fewer graphs, not a later
report."""


def study(
    comparison: Articles | Untrained,
    *,
    budget: float = 0.12,
    compiling: float = COMPILING,
    command: str = "",
    progress: Progress = quiet,
) -> Laboratory:
    """Measure every form of each model of a comparison, and try what each can do.

    The forms are nn.Module, torch.func.functional_call, the net, its trace, and the net compiled. They take turns, on
    one thread; each number is a median with its quartiles, and what cannot be measured says why.

    Args:
        comparison: what ``compare_articles`` or ``compare_module`` returned.
        budget: seconds for each point of each curve, over all forms together.
        compiling: seconds of ``torch.compile``, shared by the models; what one leaves is there for the next.
        command: what to run to get the same again, for the record.
        progress: called as the work goes on.

    Raises:
        CompareError: if the target of the comparison cannot be built once more.

    >>> from funcnet.compare import compare_module
    >>> found = study(compare_module("torch.nn:ReLU", ["f32[4]"], budget=0.01), budget=0.001, compiling=0)
    >>> found.passes, found.studies[0].curves["per_sample"]
    (True, NotPossible(reason='ReLU has no parameters'))
    """
    start = time.perf_counter()
    studies: list[Study] = []
    progress("starting the compiler", 0.0)
    if compiling:
        start_compiler()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), one_thread():
        subjects = _subjects(comparison)
        for index, (compared, make) in enumerate(subjects):

            def report(doing: str, share: float, index: int = index, compared: Compared = compared) -> None:
                progress(f"{compared.title}: {doing}", (index + share) / len(subjects))

            report("building", 0.0)
            subject, depths = make()
            left, spent = len(subjects) - index, sum(found.compile_seconds for found in studies)
            share = min((compiling - spent) / left, (LONGEST + start - time.perf_counter()) / left - OTHERWISE)
            studies.append(_study(compared, subject, depths, budget, Allowance(max(0.0, share)), report))
        threads = torch.get_num_threads()
    progress("done", 1.0)
    return Laboratory(
        comparison=comparison,
        studies=tuple(studies),
        machine=machine(),
        versions=versions(),
        seed=comparison.seed,
        threads=threads,
        seconds=time.perf_counter() - start,
        command=command,
    )


Make = Callable[[], tuple[Subject, Depths | NotPossible]]


def _subjects(comparison: Articles | Untrained) -> list[tuple[Compared, Make]]:
    seed = comparison.seed
    if isinstance(comparison, Untrained):

        def of_module() -> tuple[Subject, Depths | NotPossible]:
            torch.manual_seed(seed)
            module = build_target(parse_target(comparison.name)).module
            subject = subject_of_module(module, [parse_input_spec(text) for text in comparison.inputs], seed)
            return subject, depths_of_module(subject)

        return [(comparison, of_module)]
    digits = load_digits()

    def of_pair(name: str) -> Make:
        def make() -> tuple[Subject, Depths | NotPossible]:
            subject = subject_of_pair(PAIRS[name], digits, seed)
            return subject, depths_of_pair(PAIRS[name], subject)

        return make

    return [(model, of_pair(model.name)) for model in comparison.models]


def _study(
    compared: Compared,
    subject: Subject,
    depths: Depths | NotPossible,
    budget: float,
    allowance: Allowance,
    report: Callable[[str, float], None],
) -> Study:
    report("writing the program", 0.02)
    stateless = stateless_listing(subject)
    makers = once_each(make_forms(subject, allowance))
    report("comparing the forms", 0.1)
    gaps, notes = differences(makers, subject)
    report("timing against batch size", 0.25)
    curves: dict[str, Curve | NotPossible] = {**against_batch(makers, subject, budget)}
    report("timing small calls, counting bytes", 0.45)
    curves["overhead"] = overhead(makers, subject, 2 * budget)
    curves["memory"] = memory(makers, subject)
    report("gradients of single samples, ensembles", 0.5)
    curves["per_sample"] = per_sample(makers, subject, budget)
    curves["ensemble"] = ensemble(makers, subject, budget)
    report("trying what each form can do", 0.6)
    can = capabilities(makers, subject, lambda share: report("trying what each form can do", 0.6 + 0.15 * share))
    report("timing against depth", 0.75)
    curves.update(against_depth(depths, subject, allowance, budget))
    if not subject.native:
        notes.insert(0, f"{NATIVE}: {_foreign(compared)}")
    return Study(
        name=compared.name,
        title=compared.title,
        inputs=tuple(_described(subject)),
        parameters=compared.parameters,
        stateful=stateful_listing(subject, compared.programs.stateful),
        stateless=stateless,
        net=Listing("as a net of funcnet", compared.programs.stateless),
        parts=parts_of(subject),
        entries=entries_of(subject),
        largest_difference=gaps,
        curves=curves,
        capabilities=can,
        compile_seconds=allowance.spent,
        notes=tuple(notes),
    )


def _foreign(compared: Compared) -> str:
    return compared.parts if isinstance(compared, Untrained) else "runs a forward of the module's own"


def _described(subject: Subject) -> list[str]:
    batch = subject.batch(subject.middle)
    named = [*((None, value) for value in batch.args), *batch.kwargs.items()]
    return [
        f"{f'{name}=' if name else ''}{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        for name, value in named
    ]


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "accelerator": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "none",
    }
    return {name: value for name, value in found.items() if value}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
