"""Every private name of torch that funcnet relies on, in one place, so that a new torch is checked here first."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import DisableTorchFunctionSubclass as DisableTorchFunctionSubclass
from torch._C import _functorch as functorch
from torch._functorch import pyfunctorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import _functions as functions
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNormLoadStateDictPreHook

_P = ParamSpec("_P")
_R = TypeVar("_R")

parse_to_arguments = torch._C._nn._parse_to
"""``nn.Module.to``'s reading of its arguments: (device, dtype, non_blocking, memory_format)."""


pytree = torch.utils._pytree
"""Functions over nested containers, as torch itself walks them: ``tree_leaves``, ``tree_map``, ``tree_flatten``."""


def assume_constant_result(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Does what torch.compiler.assume_constant_result does, without importing the compiler, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


broadcast_to_leaves: Callable[[Any, Any], list[Any] | None] = pytree._broadcast_to_and_flatten
"""(in_dims, structure) -> one entry for each leaf, as torch.vmap reads its in_dims; None where they do not fit."""

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


add_batch_axis: Callable[[torch.Tensor, int, int], torch.Tensor] = functorch._add_batch_dim
"""(tensor, axis, level) -> what the vmap of that level sees of a tensor whose examples lie along an axis."""

remove_batch_axis: Callable[[torch.Tensor, int, int, int], torch.Tensor] = functorch._remove_batch_dim
"""(tensor, level, size, axis) -> the tensor beneath, its examples along an axis, expanded if need be."""

current_transform_level = functorch.maybe_current_level
"""The level of the innermost transform of torch.func that is active, or None."""


def unwrap_all(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside of all that transforms of torch.func put around it; one that has ended leaves its wrapper."""
    while is_wrapped_by_transform(tensor):
        tensor = unwrap_once(tensor)
    return tensor


count_dispatch_modes = torch._C._len_torch_dispatch_stack
"""The number of modes that see operators before they run: those that trace, fake or log them."""


read_forward_mode_state: Callable[[str], Any] = torch.autograd.forward_ad.__dict__.get
"""("_current_level") -> the level of forward mode that is active, negative outside of it. A built-in, for hot paths."""


def count_gradient_bytes(node: Any) -> int:
    """The bytes of the gradients that a backward pass hands to a node in the graph of autograd."""
    return sum(math.prod(metadata.shape) * metadata.dtype.itemsize for metadata in node._input_metadata)


def current_autograd_node() -> Any:
    """The node whose backward is running, as its hooks see it."""
    return torch._C._current_autograd_node()


def is_traced_by_compiler() -> bool:
    """Whether torch.compile is tracing, even if the code that it traces is told otherwise."""
    return torch.compiler.is_compiling() or torch._guards.TracingContext.try_get() is not None


saved_tensors_hooks: Callable[[bool], object] = torch._C._autograd._top_saved_tensors_default_hooks
"""(True) -> the hooks on tensors that autograd saves, such as those of torch.utils.checkpoint; None without hooks."""


def lazy_clone(tensor: torch.Tensor) -> torch.Tensor:
    """A clone that shares memory until one of the two is written to; where torch cannot, one that does not."""
    try:
        return torch._lazy_clone(tensor)
    except (RuntimeError, NotImplementedError):  # the memory is not torch's own, or the layout is not strided
        return tensor.clone()


read_frame_compiler: Callable[[], Any] = torch._C._dynamo.eval_frame.get_eval_frame_callback
set_frame_compiler: Callable[[Any], Any] = torch._C._dynamo.eval_frame.set_eval_frame
"""What compiles the frames that this thread enters, as between the graphs of torch.compile; None outside of it."""


def never_compile_alone(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function whose frame torch.compile enters from its caller only, and never by itself where that one is plain."""
    frames = torch._C._dynamo.eval_frame
    strategy = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
    frames.set_code_exec_strategy(function.__code__, strategy)
    return function


def hooks_of_tensor(tensor: torch.Tensor) -> list[dict[Any, Any]]:
    """The dicts in which a tensor holds its hooks: those on its gradient, and those after it is accumulated."""
    return [tensor._backward_hooks or {}, tensor._post_accumulate_grad_hooks or {}]


AccumulateGrad: type = getattr(torch._C._functions, "AccumulateGrad")
"""The class of the nodes that stand for leaves in the graph of autograd."""

_run_backward = torch.autograd.graph._engine_run_backward


def backward_by(value: torch.Tensor, inputs: list[torch.Tensor], create_graph: bool) -> tuple[torch.Tensor | None, ...]:
    """The gradient of a scalar by each input, None where it does not depend on it.

    It is torch.autograd.grad with ``allow_unused``, without the reading of its many arguments, which takes a fifth of
    the time of the forward and backward of a tiny net.
    """
    if type(value) is not torch.Tensor:
        return torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True)
    seeds = (torch.ones_like(value),)
    return _run_backward((value,), seeds, create_graph, create_graph, tuple(inputs), True, accumulate_grad=False)


foreach_norm = torch._foreach_norm
"""(tensors, order) -> the norm of each, with the bits of torch.linalg.vector_norm; it has no rule for transforms."""

foreach_mul = torch._foreach_mul
foreach_mul_ = torch._foreach_mul_
"""(tensors, factor) -> the products, with the bits of torch.mul; the second writes them over the tensors."""

foreach_lerp = torch._foreach_lerp
foreach_lerp_ = torch._foreach_lerp_
"""(tensors, ends, weight) -> interpolations, with the bits of torch.lerp; the second writes them over the tensors."""

_group_tensors = torch.utils._foreach_utils._group_tensors_by_device_and_dtype


def group_by_device_and_dtype(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors in the order of torch's own foreach code: grouped by device and dtype."""
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) == 1:
        return tensors
    groups = _group_tensors([tensors])  # type: ignore[list-item]  # torch means lists that may hold None
    return [tensor for (group,), _ in groups.values() for tensor in group if tensor is not None]


any_autocast = torch._C._is_any_autocast_enabled
"""Whether autocast is on for some device."""


check_attention_shapes = torch.nn.functional._mha_shape_check  # type: ignore[attr-defined]
"""(query, key, value, key_padding_mask, attn_mask, num_heads) -> whether they are batched; refuses wrong ranks."""

canonical_mask = torch.nn.functional._canonical_mask
"""A mask as floats to be added to scores: a bool one becomes 0 and -inf."""

none_or_dtype = torch.nn.functional._none_or_dtype
"""The dtype of a tensor or None."""

detect_causal_mask = torch.nn.modules.transformer._detect_is_causal_mask
"""Whether a mask hides exactly the later positions: ``(mask, hint, size)``; a hint that is not None is believed."""

safe_softmax = torch.ops.aten._safe_softmax.default
"""Softmax that gives zeros, not NaN, where every score is -inf; torch._safe_softmax stops the compiler."""


def set_lazy_shapes(module: torch.nn.Module, *inputs: torch.Tensor) -> type[torch.nn.Module]:
    """Give a lazy module on the meta device the shapes that fit its inputs; returns the class that it then has."""
    module.initialize_parameters(*inputs)  # type: ignore[operator]
    return module.cls_to_become  # type: ignore[return-value]


def sync_batch_norm(*arguments: Any) -> torch.Tensor:
    """(input, weight, bias, running mean and var, written to, eps, momentum, process group, its size) -> y."""
    return functions.SyncBatchNorm.apply(*arguments)


def cross_map_lrn(*arguments: Any) -> torch.Tensor:
    """(input, size, alpha, beta, k) -> y; its gradient is written by hand, and knows no transforms."""
    return functions.CrossMapLRN2d.apply(*arguments)


def private_backend_name() -> str:
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


def inject_parametrized_class(module: torch.nn.Module) -> None:
    """Give a module its own class, in which parametrized tensors are properties."""
    parametrize._inject_new_class(module)


def inject_parametrized_property(module: torch.nn.Module, name: str) -> None:
    """Turn an attribute of such a module into a property that its parametrizations compute."""
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
"""A context that is shown every operator before it runs, below autograd."""

count_storage_uses: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count")
"""(storage._cdata) -> how many tensors, and objects of Python, hold a storage."""

Memory = StorageWeakRef
"""A name for the memory of an untyped storage: hashable, and given to no other memory as long as it is held."""


@cache
def written_arguments(operator: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operator declares to write to."""
    arguments = enumerate(operator._schema.arguments)
    return tuple(
        (index, argument.name)
        for index, argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def operator_name(operator: Any) -> str:
    """The name of an operator without its library and its overload."""
    return str(operator._schema.name.split("::")[-1])


def module_inside_wrapper(module: torch.nn.Module) -> torch.nn.Module | None:
    """The module inside of one that only wraps it: one that is compiled, checkpointed, or runs on several devices.

    Classes that take long to import are asked for by name.
    """
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return module.module
    if type(module).__name__ == "OptimizedModule" and type(module).__module__.startswith("torch._dynamo."):
        return module._modules["_orig_mod"]
    if _is_of_class(module, "ActivationWrapper", "torch.distributed.algorithms._checkpoint"):
        return module._modules["_checkpoint_wrapped_module"]
    return None


def shards_tensors(module: torch.nn.Module) -> bool:
    """Whether a module holds its parts' tensors in flat shards of its own, as the first generation of FSDP does."""
    return _is_of_class(module, "FullyShardedDataParallel", "torch.distributed.fsdp")


def _is_of_class(module: torch.nn.Module, name: str, package: str) -> bool:
    return any(cls.__name__ == name and cls.__module__.startswith(package) for cls in type(module).__mro__)


TRANSPARENT_NAMES = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_checkpoint_wrapped_module",  # torch's checkpoint_wrapper and offload_wrapper
        "_fsdp_wrapped_module",  # FSDP
        "_forward_module",  # Lightning
    }
)
"""Names that only wrappers give to what they wrap, so that they mean nothing wherever they stand in a key."""


def saves_by_own_code(module: torch.nn.Module) -> bool:
    """Whether the ``state_dict`` of a module is more than the tensors of it and its parts: its code has a say in it."""
    return (
        _overrides(module, "state_dict", "_save_to_state_dict")
        or bool(module._state_dict_hooks)
        or bool(module._state_dict_pre_hooks)
    )


def loads_by_own_code(module: torch.nn.Module) -> bool:
    """Whether code of a module, or hooks on it, have a say in how a ``state_dict`` is loaded."""
    return (
        _overrides(module, "load_state_dict", "_load_from_state_dict")
        or bool(live_load_hooks(module))
        or bool(module._load_state_dict_post_hooks)
    )


def live_load_hooks(module: torch.nn.Module) -> list[Any]:
    """The hooks that change a ``state_dict`` before a module loads it.

    ``torch.nn.utils.remove_spectral_norm`` leaves its own hook on the module, where it refuses every later
    ``state_dict`` of the module. That hook is left out.
    """
    hooks: list[Any] = [getattr(hook, "hook", hook) for hook in module._load_state_dict_pre_hooks.values()]
    forward_hooks = list(module._forward_pre_hooks.values())
    return [
        hook for hook in hooks if not (type(hook) is SpectralNormLoadStateDictPreHook and hook.fn not in forward_hooks)
    ]


def _overrides(module: torch.nn.Module, *methods: str) -> bool:
    return any(
        name in vars(module) or getattr(type(module), name) is not getattr(torch.nn.Module, name) for name in methods
    )


MODULE_CALL_CODE = torch.nn.Module._call_impl.__code__
"""The code of every call of a module, hooks included: a frame of it says which module is running."""


def keep_size_free(tensor: torch.Tensor, axis: int) -> None:
    """Ask torch's tracer not to take one size of a tensor for a constant; it may still find that it is one."""
    import torch._dynamo

    torch._dynamo.maybe_mark_dynamic(tensor, axis)


def allow_graphs(limit: int = 64) -> contextlib.AbstractContextManager[Any]:
    """Let torch.compile keep more graphs of one function than it does by itself, as many shapes need."""
    import torch._dynamo

    return torch._dynamo.config.patch(recompile_limit=limit)


def show_functions_to_modes(functions: Iterable[Any]) -> None:
    """Have the compiler hand these functions of torch to TorchFunctionModes, as torch itself does in eager calls.

    Its list of functions that can be overridden lacks some, ``torch.normal`` and ``torch.rand_like`` among them: in
    compiled code they would draw from the global generator without anyone being told.
    """
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(functions)


def dcp_storage_info(relative_path: str, offset: int, length: int) -> Any:
    """What the metadata of torch.distributed.checkpoint says about where the bytes of one tensor lie."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    return _StorageInfo(relative_path, offset, length)


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has shape and dtype alone, as those of FakeTensorMode."""
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(tensor, module.FakeTensor)


def storage_class_name_of(dtype: torch.dtype) -> str | None:
    """The class by which torch.save names a storage of this dtype; None where it goes by bytes and the dtype."""
    name: str | None = torch.storage._dtype_to_storage_type_map().get(dtype)
    return name


sample_gamma = torch._standard_gamma
sample_dirichlet = torch._sample_dirichlet
"""The functions by which torch.distributions draws."""


def is_operator(function: object) -> bool:
    """Whether a function is an operator under ``torch.ops``, or one of its overloads."""
    return isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


def native_functions() -> dict[str, object]:
    """The modules in which torch keeps functions that have no public name, by the names of the modules."""
    return {"torch._C._nn": torch._C._nn, "torch._C": torch._C}


@cache
def give_dtensors_forward_mode() -> None:
    """Let DTensors have tangents: torch asks an operator about their memory that it has no rule for."""
    from torch.distributed.tensor import DTensor

    def compare_local(operator: Any, args: tuple[object, ...], kwargs: dict[str, object], /) -> Any:
        return operator(*[tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in args])

    handlers: Any = DTensor._op_dispatcher._custom_op_handlers
    handlers.setdefault(torch.ops.aten._has_same_storage_numel.default, compare_local)
