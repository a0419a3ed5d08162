"""Every private name of torch's tracer that funcnet relies on; the names of the rest of torch are in ``_torch.py``."""

from __future__ import annotations

import contextlib
import dis
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
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


def assume(
    subject: object, question: str, arguments: Sequence[object] | None, answer: object, **keywords: object
) -> None:
    """What stands in a captured graph where code asks for something that may be otherwise in another call.

    Args:
        subject: the tensor that is asked; None where it is torch.
        question: the name of an attribute or method of the tensor, ``"bool"`` for its truth; or of a function of torch.
        arguments, keywords: those of the method or function; ``arguments`` is None of an attribute.
        answer: what the code got.
    """


_ASKED_ATTRIBUTES = frozenset({"requires_grad", "is_leaf", "grad_fn", "grad", "_base", "dtype", "device", "is_cuda"})
_ASKED_METHODS = frozenset({"is_contiguous", "stride", "storage_offset", "is_inference"})
_ASKED_OF_TORCH = ("is_", "are_", "get_")  # how names of functions start that tell the state of torch


KnownNumber = Callable[[torch.fx.Node], "tuple[Any, bool] | None"]
"""Returns the number that a node computes and whether it is assumed; None where it is not known."""


@contextlib.contextmanager
def note_assumptions(is_library_file: Callable[[str], bool], known_number: KnownNumber) -> Iterator[None]:
    """Let torch's tracer put an ``assume`` into the graph for each question of the traced code, libraries left out.

    Code that branches on a number which is known is followed, where torch's tracer would stop; and so is code that sets
    ``requires_grad`` of what it computed, which changes neither outputs nor gradients by params.

    Args:
        is_library_file: tells files whose questions only choose between ways to compute the same.
        known_number: says which numbers are known.
    """
    from torch._dynamo import symbolic_convert
    from torch._dynamo.variables import ConstantVariable, TensorVariable, TorchInGraphFunctionVariable

    this_thread = get_ident()

    def note(tracer: Any, subject: Any, question: str, args: Any, answer: Any, keywords: Any = None) -> None:
        if not is_library_file(tracer.f_code.co_filename):
            tracer.output.create_proxy("call_function", assume, (subject, question, args, answer), keywords or {})

    get_attribute_name = "var_getattr" if hasattr(TensorVariable, "var_getattr") else "tp_getattro_impl"  # before 2.14
    get_attribute, call_method = getattr(TensorVariable, get_attribute_name), TensorVariable.call_method
    call_function = TorchInGraphFunctionVariable.call_function

    def answer_attribute(variable: Any, tracer: Any, name: str) -> Any:
        result = get_attribute(variable, tracer, name)
        if name in _ASKED_ATTRIBUTES and get_ident() == this_thread and result.is_python_constant():
            answer, example = result.as_python_constant(), variable.proxy.node.meta["example_value"]
            if name == "is_cuda":
                name, answer = "device", example.device
            if name != "requires_grad" or answer == example.requires_grad:  # else the forward has set it
                note(tracer, variable.as_proxy(), name, None, answer)
        return result

    def answer_method(variable: Any, tracer: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "item" and get_ident() == this_thread:
            known = known_number(variable.proxy.node)
            if known is not None and not known[1]:
                return ConstantVariable.create(known[0])
        result = call_method(variable, tracer, name, args, kwargs)
        if name in _ASKED_METHODS and get_ident() == this_thread and result.is_python_constant():
            asked = [arg.as_python_constant() for arg in args]
            named = {key: arg.as_python_constant() for key, arg in kwargs.items()}
            note(tracer, variable.as_proxy(), name, asked, result.as_python_constant(), named)
        return result

    def answer_function(variable: Any, tracer: Any, args: Any, kwargs: Any) -> Any:
        result = call_function(variable, tracer, args, kwargs)
        function, name = variable.value, getattr(variable.value, "__name__", "")
        asks = name.startswith(_ASKED_OF_TORCH) and getattr(torch, name, None) is function and not kwargs
        if asks and get_ident() == this_thread and result is not None and result.is_python_constant():
            asked = [arg.as_python_constant() if arg.is_python_constant() else arg for arg in args]
            if all(isinstance(arg, (str, torch.device)) for arg in asked):
                note(tracer, None, name, asked, result.as_python_constant())
        return result

    def answer_branch(jump: Callable[..., None]) -> Callable[..., None]:
        def jump_by_number(tracer: Any, instruction: Any) -> None:
            variable = tracer.stack[-1].realize()
            known = None
            if isinstance(variable, TensorVariable) and get_ident() == this_thread:
                known = known_number(variable.proxy.node)
            if known is not None:
                number, is_assumed = known
                if is_assumed:
                    args = (variable.as_proxy(), "bool", None, bool(number))
                    tracer.output.create_proxy("call_function", assume, args, {})
                tracer.stack[-1] = ConstantVariable.create(bool(number))
            jump(tracer, instruction)

        return jump_by_number

    def set_attribute(store: Callable[..., None]) -> Callable[..., None]:
        def store_unless_flag(tracer: Any, instruction: Any) -> None:
            value, tensor = (variable.realize() for variable in tracer.stack[-2:])
            is_flag = instruction.argval == "requires_grad" and isinstance(tensor, TensorVariable)
            is_computed = is_flag and tensor.source is None and get_ident() == this_thread
            if is_computed and value.is_python_constant() and value.as_python_constant() is True:
                del tracer.stack[-2:]  # gradients by what is computed are nobody's
                tensor.requires_grad = True
            else:
                store(tracer, instruction)

        return store_unless_flag

    translators = (symbolic_convert.InstructionTranslator, *_subclasses(symbolic_convert.InliningInstructionTranslator))
    branches = {code for name, code in dis.opmap.items() if "JUMP" in name and ("_TRUE" in name or "_FALSE" in name)}
    wrappers = {**dict.fromkeys(branches, answer_branch), dis.opmap["STORE_ATTR"]: set_attribute}
    handlers = [(cls.dispatch_table, code, cls.dispatch_table[code]) for cls in translators for code in wrappers]
    setattr(TensorVariable, get_attribute_name, answer_attribute)
    TensorVariable.call_method = answer_method  # type: ignore[assignment,method-assign]
    TorchInGraphFunctionVariable.call_function = answer_function  # type: ignore[assignment,method-assign]
    for table, code, handler in handlers:
        table[code] = wrappers[code](handler)
    try:
        yield
    finally:
        setattr(TensorVariable, get_attribute_name, get_attribute)
        TensorVariable.call_method = call_method  # type: ignore[method-assign]
        TorchInGraphFunctionVariable.call_function = call_function  # type: ignore[method-assign]
        for table, code, handler in handlers:
            table[code] = handler


def _subclasses(cls: Any) -> list[Any]:
    """A class, and all that are made from it."""
    return [cls, *(inner for subclass in cls.__subclasses__() for inner in _subclasses(subclass))]


CodeLine = tuple[str, int]
"""The file and the number of a line."""


@contextlib.contextmanager
def capture_settings(told_compiling: AbstractSet[CodeLine] | None) -> Iterator[None]:
    """Let torch's tracer keep marked sizes free and everything else constant, whatever its settings are outside.

    Two switches are private. Without ``backed_size_oblivious`` a free size is never 0 or 1, and code that asks for it
    is answered without a guard; with ``use_duck_shape`` sizes that are equal by chance would be taken for one size.

    Log messages and warnings of a forward do not belong to what it computes, so they are left out. A function with a
    gradient of its own is called as it is, and not followed. Locks are not taken: nobody else has the copy.

    Args:
        told_compiling: code that asks is told that it is not being compiled, so that it does what it does outside, but
            for the functions with these lines and what they call; and functions are followed further down than torch's
            tracer does by itself. None tells all code that it is being compiled.
    """
    import torch._dynamo.variables.torch as torch_variables
    from torch._dynamo.symbolic_convert import InstructionTranslatorBase
    from torch._dynamo.trace_rules import get_torch_obj_rule_map
    from torch._dynamo.utils import proxy_args_kwargs
    from torch._dynamo.variables import ConstantVariable, UserFunctionVariable
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
        call_function, this_thread = torch_variables.TorchInGraphFunctionVariable.call_function, get_ident()
        start_session = torch.compiler._compile_session_context
        devices = (torch.cuda, torch.xpu)
        asks_streams = {getattr(device, "is_current_stream_capturing", None) for device in devices}
        asks = {torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling, torch._utils.is_compiling}

        def tell(variable: Any, tracer: Any, args: Any, kwargs: Any) -> Any:
            if told_compiling is None or get_ident() != this_thread:
                return call_function(variable, tracer, args, kwargs)
            if variable.value in asks_streams:  # none of them records, as nothing is computed
                return ConstantVariable.create(False)
            if variable.value not in asks:
                return call_function(variable, tracer, args, kwargs)
            return ConstantVariable.create(not told_compiling.isdisjoint(_running_lines(tracer)))

        def start_no_session() -> Any:  # a session would tell all threads that they are being compiled
            return nullcontext() if get_ident() == this_thread else start_session()

        torch_variables.TorchInGraphFunctionVariable.call_function = tell  # type: ignore[assignment,method-assign]
        torch.compiler._compile_session_context = start_no_session
        # Attention is followed into its parts, which are faster than the kernel for all of it and know more transforms.
        rules, functional = get_torch_obj_rule_map(), torch.nn.functional
        changed_rules = {
            **dict.fromkeys(asks_streams, torch_variables.TorchInGraphFunctionVariable),
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
        if told_compiling is not None:
            rules.update(changed_rules)
        try:
            yield
        finally:
            InstructionTranslatorBase.setup_or_before_with = enter_context  # type: ignore[method-assign]
            AutogradFunctionVariable.call_apply = follow_function  # type: ignore[method-assign]
            rules.update(rules_before)
            torch_variables.TorchInGraphFunctionVariable.call_function = call_function  # type: ignore[method-assign]
            torch.compiler._compile_session_context = start_session


def _running_lines(tracer: Any) -> Iterator[CodeLine]:
    """All lines of the functions that are running at a place in the traced code."""
    while tracer is not None:
        for *_, line in tracer.f_code.co_lines():
            if line is not None:
                yield tracer.f_code.co_filename, line
        tracer = tracer.parent


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
