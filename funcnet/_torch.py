"""Every private name of torch that funcnet relies on, in one place, so that a new torch is checked here first."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import _functorch as functorch
from torch._functorch import pyfunctorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import _functions as functions
from torch.nn.utils import parametrizations, parametrize

_P = ParamSpec("_P")
_R = TypeVar("_R")

parse_to = torch._C._nn._parse_to
"""``nn.Module.to``'s reading of its arguments: (device, dtype, non_blocking, memory_format)."""


pytree = torch.utils._pytree
"""Functions over nested containers, as torch itself walks them: ``tree_leaves``, ``tree_map``, ``tree_flatten``."""


def constant_result(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """What torch.compiler.assume_constant_result does, without importing the compiler (a second) to do it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


register_constant = pytree.register_constant
"""Declares a class of immutable, hashable values that compiled code may treat as constants."""


TransformType = functorch.TransformType
"""The kinds of transforms: Vmap, Grad, Jvp and more."""

peek_transform = functorch.peek_interpreter_stack
"""The innermost transform of torch.func that is active, or None."""

active_transforms = pyfunctorch.retrieve_all_functorch_interpreters
"""The transforms of torch.func that are active, the outermost first; each has a ``key()`` and a ``level()``."""

without_transforms = pyfunctorch.temporarily_clear_interpreter_stack
"""A context in which no transform of torch.func is active."""

is_batched_by_vmap = functorch.is_batchedtensor
"""Whether the outermost transform that wraps a tensor is a vmap."""

is_wrapped_by_transform = functorch.is_functorch_wrapped_tensor
wrapping_level = functorch.maybe_get_level
unwrap_once = functorch.get_unwrapped
"""Whether a transform wraps a tensor, the level of the outermost that does, and the tensor that this one wraps."""

count_dispatch_modes = torch._C._len_torch_dispatch_stack
"""The number of modes that see operators before they run: those that trace, fake or log them."""


def forward_mode() -> bool:
    """Whether the caller differentiates in forward mode, by ``torch.func.jvp`` or ``torch.autograd.forward_ad``."""
    return torch.autograd.forward_ad._current_level >= 0


def lazy_clone(tensor: torch.Tensor) -> torch.Tensor:
    """A clone that shares memory until one of the two is written to; where torch cannot, one that does not."""
    try:
        return torch._lazy_clone(tensor)
    except (RuntimeError, NotImplementedError):  # memory that is not torch's own, layouts other than strided
        return tensor.clone()


AccumulateGrad: type = getattr(torch._C._functions, "AccumulateGrad")
"""What stands for a leaf in the graph of autograd."""

any_autocast = torch._C._is_any_autocast_enabled
"""Whether autocast is on for some device."""


check_attention_shapes = torch.nn.functional._mha_shape_check  # type: ignore[attr-defined]
"""Refuses wrong ranks of (query, key, value, key_padding_mask, attn_mask, num_heads); whether they are batched."""

canonical_mask = torch.nn.functional._canonical_mask
"""A mask as floats to be added to scores: a bool one becomes 0 and -inf."""

none_or_dtype = torch.nn.functional._none_or_dtype
"""The dtype of a tensor or None."""

detect_causal = torch.nn.modules.transformer._detect_is_causal_mask
"""Whether a mask hides exactly what comes later: ``(mask, hint, size)``; a hint that is not None is believed."""

safe_softmax = torch.ops.aten._safe_softmax.default
"""Softmax that gives zeros, not NaN, where every score is -inf; torch._safe_softmax stops the compiler."""


def lazy_shapes(module: torch.nn.Module, *inputs: torch.Tensor) -> type[torch.nn.Module]:
    """Give a lazy module on the meta device the shapes that fit its inputs; the class it then is."""
    module.initialize_parameters(*inputs)  # type: ignore[operator]
    return module.cls_to_become  # type: ignore[return-value]


def sync_batch_norm(*arguments: Any) -> torch.Tensor:
    """(input, weight, bias, running mean and var, written to, eps, momentum, process group, its size) -> y."""
    return functions.SyncBatchNorm.apply(*arguments)


def cross_map_lrn(*arguments: Any) -> torch.Tensor:
    """(input, size, alpha, beta, k) -> y; its gradient is written by hand, and knows no transforms."""
    return functions.CrossMapLRN2d.apply(*arguments)


def private_backend() -> str:
    """The name of the device that an extension of torch may have registered."""
    return torch._C._get_privateuse1_backend_name()


unpool_output_size: Callable[..., Any] = getattr(torch.nn.functional, "_unpool_output_size")
"""The size a max_unpool function gives: (input, kernel_size, stride, padding, output_size)."""


AdaptiveSoftmaxOutput = torch.nn.modules.adaptive._ASMoutput
"""The named tuple ``(output, loss)`` that adaptive softmax returns."""

fractional_max_pool2d = torch._C._nn.fractional_max_pool2d
fractional_max_pool3d = torch._C._nn.fractional_max_pool3d
"""(input, kernel_size, output_size, random_samples) -> (y, indices): the kernels, which draw nothing themselves."""

weight_norm = torch._weight_norm
"""(weight_v, weight_g, dim) -> weight: the kernel, which has a formula for one backward pass only."""

fans_of: Callable[[torch.Tensor], tuple[int, int]] = torch.nn.init._calculate_fan_in_and_fan_out
"""The pair (fan_in, fan_out) of a weight."""

WeightNormModule: type[torch.nn.Module] = parametrizations._WeightNorm
SpectralNormModule: type[torch.nn.Module] = parametrizations._SpectralNorm
OrthogonalModule: type[torch.nn.Module] = parametrizations._Orthogonal
OrthogonalMap = parametrizations._OrthMaps


def parametrized_class(module: torch.nn.Module) -> None:
    """Give a module the class of its own that parametrized tensors are properties of."""
    parametrize._inject_new_class(module)


def parametrized_property(module: torch.nn.Module, name: str) -> None:
    """Make an attribute of such a module the tensor that its parametrizations compute."""
    parametrize._inject_property(module, name)


fused_sgd: Callable[..., None] = torch._fused_sgd_
fused_adam: Callable[..., None] = torch._fused_adam_
fused_adamw: Callable[..., None] = torch._fused_adamw_
fused_adagrad: Callable[..., None] = torch._fused_adagrad_
"""Steps of optimizers, written over lists of params and state; all tensors must have the strides of their params."""

foreach_add: Callable[..., Any] = torch._foreach_add
foreach_add_: Callable[..., None] = torch._foreach_add_
"""Sums of a list of tensors and one number or 0-d tensor."""

DispatchMode = torch.utils._python_dispatch.TorchDispatchMode
"""A context in which every operator is shown, below autograd, before it runs."""

Memory = StorageWeakRef
"""A name for the memory of an untyped storage: hashable, and given to no other memory as long as it is held."""


@cache
def written_arguments(operator: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operator declares to write to."""
    arguments = enumerate(operator._schema.arguments)
    return tuple((at, one.name) for at, one in arguments if one.alias_info is not None and one.alias_info.is_write)


def operator_name(operator: Any) -> str:
    """The name of an operator without its library and its overload."""
    return str(operator._schema.name.split("::")[-1])


def inside_wrapper(module: torch.nn.Module) -> torch.nn.Module | None:
    """What a module that only wraps another one wraps: one compiled, or handed to several devices or processes."""
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return module.module
    if type(module).__name__ == "OptimizedModule" and type(module).__module__.startswith("torch._dynamo."):
        return module._modules["_orig_mod"]  # asked by name: to import its class takes a second
    return None


call_impl = torch.nn.Module._call_impl.__code__
"""The code of every call of a module, hooks included: a frame of it says which module is running."""


_LOGGING = ("debug", "info", "warning", "error", "exception", "critical", "log", "warn")


@contextlib.contextmanager
def capture_settings(eager: bool) -> Iterator[None]:
    """Let torch's tracer keep marked sizes free and everything else constant, whatever its settings are outside.

    Private switches: without ``backed_size_oblivious`` a size that is free is never 0 or 1, and code that asks is
    answered without a guard; with ``use_duck_shape`` sizes that are equal by chance would be one.

    What a forward logs or warns of is no part of what it computes, and is left out.

    Args:
        eager: tell code that asks that it is not being compiled, so that it does what it does outside; and follow
            functions further down than torch's tracer does by itself.
    """
    import torch._dynamo.variables.torch as of_functions
    from torch._dynamo.trace_rules import get_torch_obj_rule_map
    from torch._dynamo.variables import UserFunctionVariable
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
    known = {name: value for name, value in settings.items() if hasattr(torch._dynamo.config, name)}
    with (
        torch._dynamo.config.patch(known),
        sizes.patch(use_duck_shape=False, backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        told, me = of_functions.tracing_state_functions, get_ident()
        session = getattr(torch.compiler, "_compile_session_context", nullcontext)  # not before torch 2.13
        answers: dict[Any, bool | None] = dict(told())
        if eager:
            for name in ("is_compiling", "is_dynamo_compiling", "is_exporting"):
                answers[getattr(torch.compiler, name)] = False
            answers[torch._utils.is_compiling] = False
        of_functions.tracing_state_functions = lambda: answers if get_ident() == me else told()  # type: ignore
        # which tells all threads that they are being compiled
        torch.compiler._compile_session_context = lambda: nullcontext() if get_ident() == me else session()  # type: ignore
        # attention is followed into its parts, which are faster than the whole and know more transforms
        rules, functional = get_torch_obj_rule_map(), torch.nn.functional
        changed = {
            functional.multi_head_attention_forward: UserFunctionVariable,
            functional._check_key_padding_mask: of_functions.TorchInGraphFunctionVariable,  # type: ignore[attr-defined]
        }
        before = {function: rules.get(function) for function in changed}
        if eager:
            rules.update(changed)
        try:
            yield
        finally:
            rules.update(before)
            of_functions.tracing_state_functions = told
            torch.compiler._compile_session_context = session  # type: ignore[assignment]


def keep_size_free(tensor: torch.Tensor, axis: int) -> None:
    """Ask torch's tracer not to take one size of a tensor for a constant; it may still find that it is one."""
    import torch._dynamo

    torch._dynamo.maybe_mark_dynamic(tensor, axis)


def graphs_allowed(most: int = 64) -> contextlib.AbstractContextManager[Any]:
    """Let torch.compile keep more graphs of one function than it does by itself, as many shapes need."""
    import torch._dynamo

    return torch._dynamo.config.patch(recompile_limit=most)


def tracers_shapes() -> Any:
    """The ShapeEnv of the graph that is being compiled: its guards, ranges and the inputs it knows."""
    context = torch._guards.TracingContext.get()
    assert context.fake_mode is not None
    return context.fake_mode.shape_env


def as_traced() -> contextlib.AbstractContextManager[Any]:
    """Run operators on fakes by the rules the tracer runs them by, which know of sizes that are free."""
    from torch._dispatch.python import enable_python_dispatcher

    return enable_python_dispatcher()


def show_to_modes(functions: Iterable[Any]) -> None:
    """Have the compiler hand these functions of torch to TorchFunctionModes, as torch itself does in eager calls.

    Its list of functions that can be overridden lacks some, ``torch.normal`` and ``torch.rand_like`` among them: in
    compiled code they would draw from the global generator without anyone being told.
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(functions)


def checkpoint_offset(tensor: torch.Tensor) -> int | None:
    """Where in its file the storage of a tensor lies that ``torch.load(..., map_location="meta")`` made."""
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)


def dcp_storage_info(relative_path: str, offset: int, length: int) -> Any:
    """What the metadata of torch.distributed.checkpoint says about where the bytes of one tensor lie."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    return _StorageInfo(relative_path, offset, length)


def storage_class(dtype: torch.dtype) -> type | None:
    """The class by which torch.save names a storage of this dtype; None where it goes by bytes and the dtype."""
    name = torch.storage._dtype_to_storage_type_map().get(dtype)
    return getattr(torch, name) if name else None


rebuild_tensor_v2 = torch._utils._rebuild_tensor_v2
"""What a pickled tensor calls to be made of a storage of its dtype."""

rebuild_tensor_v3 = torch._utils._rebuild_tensor_v3
"""The same for dtypes that have no storage class of their own."""

sample_gamma = torch._standard_gamma
sample_dirichlet = torch._sample_dirichlet
"""What torch.distributions draws by."""
