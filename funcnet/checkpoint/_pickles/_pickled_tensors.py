"""Tensors as a pickle describes them: which elements of which storage, and where its bytes lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from funcnet._typing import Shape
from funcnet.checkpoint._pickles._opaque import Opaque

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "QUInt4x2Storage": torch.uint8,
    "QUInt2x4Storage": torch.uint8,
    "UntypedStorage": torch.uint8,
}
"""The dtype in which the elements of a storage are read, by the name of its class; quantized ones as whole numbers."""


@dataclass(eq=False)
class PickledStorage:
    """A storage that tensors view.

    Attributes:
        class_name: the name of its class, without the module.
        key: its name in the archive.
        count: how many elements it has.
        data: its bytes, if the pickle itself has them.
        start: its first element in what has the key.
    """

    class_name: str
    key: str
    count: int
    data: bytes | None = None
    start: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its elements."""
        return STORAGE_DTYPES[self.class_name]

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class TensorForm:
    """What a pickle has in place of a plain tensor without gradient: so it is written again.

    Attributes:
        kind: a "tensor", a "parameter", a "storage" alone, or an object of a "subclass" of Tensor.
        requires_grad: whether it requires a gradient.
        subclass: the name of the class.
        state: attributes of the object, as the pickle has them.
        storage_class: the name of the class of a storage alone.
    """

    kind: Literal["tensor", "parameter", "storage", "subclass"] = "tensor"
    requires_grad: bool = False
    subclass: Opaque | None = None
    state: Any = None
    storage_class: str | None = None


PLAIN_FORM = TensorForm()


@dataclass(eq=False)
class PickledTensor:
    """A view of a storage.

    Attributes:
        storage: the storage.
        offset: the first element.
        shape, stride: sizes and steps, in elements.
        dtype: the dtype.
        form: what it is in the pickle.
        is_conj, is_neg: whether the elements are those of the storage, conjugated or with the other sign.
    """

    storage: PickledStorage
    offset: int
    shape: Shape
    stride: tuple[int, ...]
    dtype: torch.dtype
    form: TensorForm = field(default=PLAIN_FORM)
    is_conj: bool = False
    is_neg: bool = False


def view_storage(storage: PickledStorage) -> PickledTensor:
    """A storage alone, as the tensor of all its elements."""
    form = TensorForm("storage", storage_class=storage.class_name)
    return PickledTensor(storage, 0, (storage.count,), (1,), storage.dtype, form)
