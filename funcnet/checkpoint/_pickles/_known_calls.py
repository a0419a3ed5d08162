"""The calls in a pickle that are carried out, by code of funcnet: those that make tensors and plain values.

Each function here does what the function of that name does as far as a file may ask for it, and raises a
``ValueError`` or ``TypeError`` at anything else. None of them runs what the file names, and none reserves memory that
the file does not have the bytes for.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from funcnet._typing import Shape
from funcnet.checkpoint._pickles._opaque import Opaque
from funcnet.checkpoint._pickles._pickled_tensors import (
    PLAIN_FORM,
    STORAGE_DTYPES,
    PickledStorage,
    PickledTensor,
    TensorForm,
)

_MAX_KEY_PARTS = 1000  # of a tuple that is a key: hashing it goes through all of it, each time anew
_DTYPE_KINDS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)


def known_name(module: str, name: str) -> Any:
    """The value that a name stands for, if it is a plain value of torch, as ``torch.float32`` is; None for others."""
    value = getattr(torch, name, None) if module == "torch" else None
    return value if isinstance(value, _DTYPE_KINDS) else None


def check_key(key: object) -> None:
    """Refuse a key that cannot be hashed, or only in boundless time or depth.

    Raises:
        TypeError: if it cannot be hashed.
        ValueError: if it is a tuple of too many.
    """
    pending, count = [key], 0
    while pending:
        value = pending.pop()
        if isinstance(value, (tuple, frozenset)):
            pending += value
            count += 1 + len(value)
            if count > _MAX_KEY_PARTS:
                raise ValueError("a key of tuples in tuples, which nobody can go through")
        elif isinstance(value, (dict, list, set, bytearray)):
            raise TypeError(f"a {type(value).__name__} as a key")


def _make_ordered_dict(*args: Any) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in args[0].items() if args and isinstance(args[0], dict) else _only_list(args):
        check_key(key)
        result[key] = value
    return result


def _make_counter(*args: Any) -> Counter[Any]:
    if len(args) > 1 or not all(isinstance(arg, dict) for arg in args):
        raise TypeError("a Counter of something else than a dict")
    result: Counter[Any] = Counter()
    for key, value in (args[0] if args else {}).items():
        result[key] = value
    return result


def _make_set(*args: Any) -> set[Any]:
    values = _only_list(args)
    for value in values:
        check_key(value)
    return set(values)


def _make_frozenset(*args: Any) -> frozenset[Any]:
    return frozenset(_make_set(*args))


def _only_list(args: tuple[Any, ...]) -> list[Any]:
    if len(args) > 1 or not all(isinstance(arg, (list, tuple, set, frozenset)) for arg in args):
        raise TypeError("a container of something else than a list")
    return list(args[0]) if args else []


def _make_bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(data) if isinstance(data, (bytes, bytearray)) else bytearray(_encode(data, encoding))


def _make_bytes(data: Any = b"", encoding: str = "latin-1") -> bytes:
    return bytes(data) if isinstance(data, (bytes, bytearray)) else _encode(data, encoding)


def _encode(text: Any, encoding: Any = "latin-1", *others: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii") or others:
        raise TypeError("bytes of something else than a text")
    return text.encode(encoding)


def _make_complex(real: Any, imag: Any = 0.0) -> complex:
    if not all(isinstance(part, (int, float)) for part in (real, imag)):
        raise TypeError("a complex number of something else than numbers")
    return complex(real, imag)


def _make_size(sizes: Any = ()) -> torch.Size:
    return torch.Size(_check_ints(sizes))


def _make_device(kind: Any, index: Any = None) -> torch.device:
    if not isinstance(kind, str) or len(kind) > 30 or not isinstance(index, (int, type(None))):
        raise TypeError("a device of something else than a name")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _get_layout(name: Any) -> torch.layout:
    value = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(value, torch.layout):
        raise ValueError(f"the layout {str(name)[:40]!r}")
    return value


def _check_ints(values: Any) -> Shape:
    if not isinstance(values, (tuple, list)) or not all(type(value) is int for value in values):
        raise TypeError("sizes that are not numbers")
    return tuple(values)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> PickledTensor:
    """A view of a storage, in the dtype of the storage."""
    if not isinstance(storage, PickledStorage):
        raise TypeError("a tensor without a storage")
    return _view(storage, storage.dtype, offset, size, stride, requires_grad, metadata)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> PickledTensor:
    """A view of a storage of bytes, in another dtype."""
    if not isinstance(storage, PickledStorage) or not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor without a storage")
    return _view(storage, dtype, offset, size, stride, requires_grad, metadata)


def _view(
    storage: PickledStorage, dtype: torch.dtype, offset: Any, size: Any, stride: Any, requires_grad: Any, metadata: Any
) -> PickledTensor:
    if type(offset) is not int:
        raise TypeError("an offset that is no number")
    shape, steps = _check_ints(size), _check_ints(stride)
    if len(shape) != len(steps):
        raise ValueError(f"a tensor with {len(shape)} sizes and {len(steps)} strides")
    form = TensorForm(requires_grad=True) if requires_grad is True else PLAIN_FORM
    flags = metadata if isinstance(metadata, dict) else {}
    is_conj, is_neg = flags.get("conj") is True, flags.get("neg") is True
    return PickledTensor(storage, offset, shape, steps, dtype, form, is_conj, is_neg)


def _rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> PickledTensor:
    if not isinstance(data, PickledTensor):
        raise TypeError("a parameter without data")
    form = TensorForm("parameter", requires_grad is True, state=state or None)
    return PickledTensor(
        data.storage, data.offset, data.shape, data.stride, data.dtype, form, data.is_conj, data.is_neg
    )


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> PickledTensor:
    """An object of a class that is derived from Tensor and stores its elements as a tensor does."""
    if not (isinstance(function, Opaque) and isinstance(kind, Opaque) and isinstance(args, tuple)):
        raise TypeError("a tensor of no class")
    rebuild = _TENSOR_CALLS.get(str(function.function))
    if rebuild is None:
        raise ValueError("a tensor of parts")
    tensor = rebuild(*args)
    if kind.function == "torch.Tensor" and not state:
        return tensor
    form = TensorForm("subclass", tensor.form.requires_grad, kind, state)
    return PickledTensor(
        tensor.storage, tensor.offset, tensor.shape, tensor.stride, tensor.dtype, form, tensor.is_conj, tensor.is_neg
    )


def _rebuild_from_cpu(data: Any, dtype: Any, device: Any, requires_grad: Any) -> PickledTensor:
    if not isinstance(data, PickledTensor) or data.dtype is not dtype:
        raise TypeError("a tensor without data")
    return data


VIEW_CALLS: dict[str, Callable[..., PickledTensor]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}
"""The functions that make a tensor of a storage. A file in which one of them is called otherwise is damaged."""
_TENSOR_CALLS: dict[str, Callable[..., PickledTensor]] = {
    **VIEW_CALLS,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_from_cpu,
}
_FIRST_ARGUMENT: Callable[..., Any] = lambda value, *others: value  # noqa: E731  what TorchScript says of types is left
KNOWN_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSOR_CALLS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": _make_ordered_dict,
    "collections.Counter": _make_counter,
    "builtins.set": _make_set,
    "builtins.frozenset": _make_frozenset,
    "builtins.bytearray": _make_bytearray,
    "builtins.bytes": _make_bytes,
    "builtins.complex": _make_complex,
    "__builtin__.set": _make_set,
    "__builtin__.frozenset": _make_frozenset,
    "__builtin__.bytearray": _make_bytearray,
    "__builtin__.bytes": _make_bytes,
    "__builtin__.complex": _make_complex,
    "_codecs.encode": _encode,
    "torch.Size": _make_size,
    "torch.device": _make_device,
    "torch.serialization._get_layout": _get_layout,
    **{f"torch.jit._pickle.build_{kind}list": _FIRST_ARGUMENT for kind in ("int", "tensor", "double", "bool")},
    "torch.jit._pickle.restore_type_tag": _FIRST_ARGUMENT,
}
"""Functions by the name that a pickle calls them by -> what is done in their place."""


def storage_class_name(kind: object) -> str:
    """The class of a storage, from the name in the pickle.

    Raises:
        ValueError: if it is none.
    """
    name = str(kind.function).rpartition(".")[2] if isinstance(kind, Opaque) and kind.how == "name" else ""
    if name not in STORAGE_DTYPES or not str(kind.function).startswith("torch."):  # type: ignore[attr-defined]
        raise ValueError(f"a storage of the class {str(kind)[:60]}")
    return name
