"""The table of all forms: what makes each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from funcnet.compare._lab._compiled_form import CompileAllowance, CompiledForm
from funcnet.compare._lab._forms import CALL, COMPILED, MODULE, NATIVE, TRACED, Form
from funcnet.compare._lab._module_form import ModuleForm
from funcnet.compare._lab._pure_forms import FunctionalCallForm, NetForm, TracedForm
from funcnet.compare._lab._subject import Subject

FormMakers = Mapping[str, Callable[[], Form]]
"""Makes each form by its name. A maker may raise: then there is no such form, and the error says why."""


def make_forms(subject: Subject, allowance: CompileAllowance) -> FormMakers:
    """The makers of all forms of a model."""
    return {
        MODULE: lambda: ModuleForm(subject),
        CALL: lambda: FunctionalCallForm(subject),
        NATIVE: lambda: NetForm(subject, subject.net, NATIVE),
        TRACED: lambda: TracedForm(subject),
        COMPILED: lambda: CompiledForm(subject, allowance),
    }


def cache_forms(makers: FormMakers) -> FormMakers:
    """Makers that make their form at the first call, and return the same form, or raise the same error, ever after."""
    results: dict[str, Form | Exception] = {}

    def get_form(name: str) -> Form:
        if name not in results:
            try:
                results[name] = makers[name]()
            except Exception as error:  # a tracer may raise anything
                results[name] = error
        result = results[name]
        if isinstance(result, Exception):
            raise result
        return result

    return {name: partial(get_form, name) for name in makers}
