"""Every private name of torch's tracer that funcnet relies on; the names of the rest of torch are in ``_torch.py``."""

from __future__ import annotations

import contextlib
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from threading import Lock, RLock, get_ident
from typing import Any, NamedTuple

import torch
from torch._C import _functorch as functorch

from funcnet._torch import assume_constant_result

TRANSFORM_STARTS = {
    "_vmap_increment_nesting": "torch.vmap",
    "_grad_increment_nesting": "torch.func.grad, vjp or jacrev",
    "_jvp_increment_nesting": "torch.func.jvp or jacfwd",
}
"""Names of what stands in a captured graph where a transform begins, and of the transforms."""


@contextlib.contextmanager
def contain_transforms() -> Iterator[None]:
    """A block in which transforms may be entered and not left, as where torch's tracer fails; they are left after it.

    Forward mode that stays on would break every later ``jvp`` of the process.
    """
    forward_mode, autograd = torch.autograd.forward_ad, torch._C._autograd
    depth, level = functorch.get_dynamic_layer_stack_depth(), forward_mode._current_level
    is_enabled = torch._C._is_fwd_grad_enabled()
    hooks_message = autograd._saved_tensors_hooks_get_disabled_error_message()
    try:
        yield
    finally:
        functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
        torch._C._set_fwd_grad_enabled(is_enabled)
        if hooks_message is None:
            autograd._saved_tensors_hooks_enable()
        else:
            autograd._saved_tensors_hooks_disable(hooks_message)
        if level < 0:
            forward_mode._current_level = level
            with contextlib.suppress(RuntimeError):  # it says that no level is open, as it should be
                torch._C._exit_dual_level(level=0)


_LOCK_CLASSES = (type(Lock()), type(RLock()))


_LOGGING = ("debug", "info", "warning", "error", "exception", "critical", "log", "warn")


def apply_function(function_class: type[torch.autograd.Function]) -> Callable[..., Any]:
    """What stands in a captured graph for a call of a function with a gradient of its own, which is not followed."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return function_class.apply(*args, **kwargs)

    apply.function_class = function_class  # type: ignore[attr-defined]
    return apply


def applied_function(target: object) -> type[torch.autograd.Function] | None:
    """The function with a gradient of its own that a node of a captured graph calls; None for any other node."""
    return getattr(target, "function_class", None)


@contextlib.contextmanager
def capture_settings(eager: bool) -> Iterator[None]:
    """Let torch's tracer keep marked sizes free and everything else constant, whatever its settings are outside.

    Two switches are private. Without ``backed_size_oblivious`` a free size is never 0 or 1, and code that asks for it
    is answered without a guard; with ``use_duck_shape`` sizes that are equal by chance would be taken for one size.

    Log messages and warnings of a forward do not belong to what it computes, so they are left out. A function with a
    gradient of its own is called as it is, and not followed. Locks are not taken: nobody else has the copy.

    Args:
        eager: code that asks is told that it is not being compiled, so that it does what it does outside; and functions
            are followed further down than torch's tracer does by itself.
    """
    import torch._dynamo.variables.torch as torch_variables
    from torch._dynamo.symbolic_convert import InstructionTranslatorBase
    from torch._dynamo.trace_rules import get_torch_obj_rule_map
    from torch._dynamo.utils import proxy_args_kwargs
    from torch._dynamo.variables import UserFunctionVariable
    from torch._dynamo.variables.builder import wrap_fx_proxy
    from torch._dynamo.variables.ctx_manager import NullContextVariable
    from torch._dynamo.variables.misc import AutogradFunctionVariable
    from torch.fx.experimental import _config as sizes

    settings: dict[str, Any] = {
        "specialize_int": True,
        "specialize_float": True,
        "capture_scalar_outputs": True,
        "capture_dynamic_output_shape_ops": True,
        "automatic_dynamic_shapes": False,
        "assume_static_by_default": True,
        "allow_rnn": True,
        "suppress_errors": False,
        "verbose": False,
        "ignore_logging_functions": {
            warnings.warn,
            *(method for name, method in vars(logging.Logger).items() if name.startswith(_LOGGING)),
        },
    }
    known_settings = {name: value for name, value in settings.items() if hasattr(torch._dynamo.config, name)}
    with (
        torch._dynamo.config.patch(known_settings),
        sizes.patch(use_duck_shape=False, backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        get_answers, this_thread = torch_variables.tracing_state_functions, get_ident()
        start_session = torch.compiler._compile_session_context
        answers: dict[Any, bool | None] = dict(get_answers())
        if eager:
            for name in ("is_compiling", "is_dynamo_compiling", "is_exporting"):
                answers[getattr(torch.compiler, name)] = False
            answers[torch._utils.is_compiling] = False

        def answer_this_thread() -> Any:
            return answers if get_ident() == this_thread else get_answers()

        def start_no_session() -> Any:  # a session would tell all threads that they are being compiled
            return nullcontext() if get_ident() == this_thread else start_session()

        torch_variables.tracing_state_functions = answer_this_thread  # type: ignore[assignment]
        torch.compiler._compile_session_context = start_no_session
        # Attention is followed into its parts, which are faster than the kernel for all of it and know more transforms.
        rules, functional = get_torch_obj_rule_map(), torch.nn.functional
        changed_rules = {
            functional.multi_head_attention_forward: UserFunctionVariable,
            functional._check_key_padding_mask: torch_variables.TorchInGraphFunctionVariable,  # type: ignore[attr-defined]
        }
        rules_before = {function: rules.get(function) for function in changed_rules}
        follow_function = AutogradFunctionVariable.call_apply

        def keep_function(variable: Any, tracer: Any, args: Any, kwargs: Any) -> Any:
            if get_ident() != this_thread:
                return follow_function(variable, tracer, args, kwargs)
            call = apply_function(variable.fn_cls)
            proxy = tracer.output.create_proxy("call_function", call, *proxy_args_kwargs(args, kwargs))
            return wrap_fx_proxy(tx=tracer, proxy=proxy)

        enter_context = InstructionTranslatorBase.setup_or_before_with

        def enter_unless_lock(translator: Any, instruction: Any) -> None:
            entered = translator.stack[-1].realize()
            if get_ident() == this_thread and isinstance(getattr(entered, "value", None), _LOCK_CLASSES):
                translator.stack[-1] = NullContextVariable()
            enter_context(translator, instruction)

        InstructionTranslatorBase.setup_or_before_with = enter_unless_lock  # type: ignore[assignment,method-assign]
        AutogradFunctionVariable.call_apply = keep_function  # type: ignore[assignment,method-assign]
        if eager:
            rules.update(changed_rules)
        try:
            yield
        finally:
            InstructionTranslatorBase.setup_or_before_with = enter_context  # type: ignore[method-assign]
            AutogradFunctionVariable.call_apply = follow_function  # type: ignore[method-assign]
            rules.update(rules_before)
            torch_variables.tracing_state_functions = get_answers
            torch.compiler._compile_session_context = start_session


def tracer_shape_env() -> Any:
    """The ShapeEnv of the graph that is being compiled: its guards, ranges and the inputs it knows."""
    context = torch._guards.TracingContext.get()
    assert context.fake_mode is not None
    return context.fake_mode.shape_env


def tracer_operator_rules() -> contextlib.AbstractContextManager[Any]:
    """Run operators on fakes by the rules the tracer runs them by, which know of sizes that are free."""
    from torch._dispatch.python import enable_python_dispatcher

    return enable_python_dispatcher()


assert_scalar = torch.ops.aten._assert_scalar.default
"""What the tracer calls with a condition on free sizes that code relies on."""


def print_condition(expression: Any) -> str:
    """A condition on free sizes, which torch's tracer holds as an expression of sympy, as Python code."""
    from torch.utils._sympy.printers import PythonPrinter  # imports sympy, which import torch does not

    return str(PythonPrinter().doprint(expression))


FakeTensor = torch._subclasses.FakeTensor
"""A tensor without numbers, by which torch's tracer follows shapes and memory."""


set_grad_enabled = torch._C._set_grad_enabled
"""What stands in a captured graph where gradients are switched on or off."""


ENTERING_CALLS: dict[object, str] = {
    torch.amp.autocast_mode._enter_autocast: "torch.amp.autocast",
    torch.autograd.grad_mode._enter_inference_mode: "torch.inference_mode",
}
"""What stands in a captured graph where a context is entered -> the public name of the context."""


EXITING_CALLS = frozenset({torch.amp.autocast_mode._exit_autocast, torch.autograd.grad_mode._exit_inference_mode})
"""What stands in a captured graph where such a context is left."""


IGNORED_CALLS = frozenset({torch._C._log_api_usage_once})
"""What stands in a captured graph and computes nothing."""

get_data: object = getattr(torch._C._autograd, "_get_data_attr", None)
"""What stands in a captured graph for a read of ``tensor.data``."""


def is_internal_function(function: object) -> bool:
    """Whether a function of a captured graph belongs to the machinery of torch, and cannot be called from outside."""
    module = getattr(function, "__module__", None) or ""
    internals = ("torch._functorch", "torch._C._functorch", "torch._dynamo", "torch._higher_order_ops")
    return module.startswith(internals) or isinstance(function, torch._ops.HigherOrderOperator)


def size_expression(size: int | torch.SymInt) -> Any:
    """A size as an int, or as a sympy expression of free sizes."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else size.node.expr


def tracer_source_name(source: Any) -> str:
    """What torch's tracer calls an input of a graph."""
    name = source.name  # a method before torch 2.10, and a property since
    return name() if callable(name) else name


class _TracedVersions(NamedTuple):
    graph_of: Callable[[], Any]
    """The graph that is being traced, or None once it is gone."""

    versions: dict[Any, int]
    """The nodes that it had, and the versions of their tensors."""


_watched_traces: list[_TracedVersions] = []


def _read_traced_versions() -> tuple[Any, dict[Any, int]]:
    """The graph that the compiler is tracing, and the versions of the tensors that its nodes stand for."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    output = InstructionTranslator.current_tx().output
    versions = {}
    for tracer in output.tracers:
        for node in tracer.graph.nodes:
            value = node.meta.get("example_value")
            if isinstance(value, torch.Tensor):
                while functorch.is_functorch_wrapped_tensor(value):
                    value = functorch.get_unwrapped(value)
                versions[node] = value._version
    return output, versions


@assume_constant_result
def start_watching_trace() -> bool:
    """Remember, while code is being traced, the tensors that exist and their versions."""
    output, versions = _read_traced_versions()
    _watched_traces[:] = [trace for trace in _watched_traces if trace.graph_of() is output]  # others have failed
    _watched_traces.append(_TracedVersions(weakref.ref(output), versions))
    return True


@assume_constant_result
def list_traced_writes() -> str:
    """The tensors that were written to since :func:`start_watching_trace`, in words; "" if there are none."""
    _, versions = _read_traced_versions()
    before = _watched_traces.pop().versions
    # an input of the graph that was first read since then starts with version 0
    written = [
        node
        for node, version in versions.items()
        if version != before.get(node, 0 if node.op == "placeholder" else version)
    ]
    return ", ".join(_describe_traced(node) for node in written)


def _describe_traced(node: Any) -> str:
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", None)
    return str(name() if callable(name) else name) if name is not None else str(node)
