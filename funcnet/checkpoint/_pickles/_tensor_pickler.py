"""Pickles as ``torch.save`` writes them, of tensors that are known by shape and dtype alone."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from funcnet._torch import storage_class_name_of
from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._errors import CheckpointError, summarize_error, truncated_list
from funcnet.checkpoint._pickles._opaque import Opaque
from funcnet.checkpoint._pickles._pickled_tensors import PLAIN_FORM, PickledStorage, PickledTensor, TensorForm
from funcnet.checkpoint._structure import ObjectNode, fill, iter_objects

_PROTOCOL = 2  # that of torch.save


def _name(module: str, name: str) -> Opaque:
    return Opaque("name", f"{module}.{name}", (module, name))


_STORAGE_WORD, _CPU_WORD = "storage", "cpu"
_REBUILD_TENSOR = _name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_TENSOR_OF_BYTES = _name("torch._utils", "_rebuild_tensor_v3")
_REBUILD_PARAMETER = _name("torch._utils", "_rebuild_parameter")
_REBUILD_PARAMETER_WITH_STATE = _name("torch._utils", "_rebuild_parameter_with_state")
_REBUILD_SUBCLASS = _name("torch._tensor", "_rebuild_from_type_v2")
_UNTYPED_STORAGE = _name("torch.storage", "UntypedStorage")
_ORDERED_DICT = _name("collections", "OrderedDict")


@dataclass(frozen=True, eq=False)
class _WrittenTensor:
    """A tensor of the file that is written: its storage is the member ``key``, all of which it views row-major."""

    key: str
    spec: Spec
    form: object


class _TensorPickler(pickle._Pickler):  # the one in Python: in C there is no way to write the name of an unknown class
    """Writes tensors as the calls that torch.save writes for them, and opaque objects as the pickle had them."""

    write: Any  # what the class of the standard library has, though its stubs do not say so
    save: Any
    memo: Any
    memoize: Any
    get: Any

    def __init__(self, out: io.BytesIO, tensor_of: Callable[[object], _WrittenTensor]) -> None:
        super().__init__(out, _PROTOCOL)
        self._tensor_of = tensor_of
        self._storage_classes: dict[str, Opaque] = {}

    def _save_known(self, value: object) -> None:
        """Save a value that is often there already."""
        entry = self.memo.get(id(value))
        if entry is None:
            self.save(value)
        else:
            self.write(self.get(entry[0]))

    def save_tensor(self, tensor: _WrittenTensor) -> None:
        form = tensor.form
        if isinstance(form, Opaque):
            self._save_known(form)
            return
        assert isinstance(form, TensorForm)
        if form.kind == "storage":
            self._write_storage(tensor, form.storage_class)
            return
        if form.kind == "parameter":
            self._save_known(_REBUILD_PARAMETER if form.state is None else _REBUILD_PARAMETER_WITH_STATE)
            self.write(pickle.MARK)
            self._write_call(tensor, False)
            self.write(pickle.NEWTRUE if form.requires_grad else pickle.NEWFALSE)
            self._write_empty_ordered_dict()
            if form.state is not None:
                self.save(form.state)
            self.write(pickle.TUPLE + pickle.REDUCE)
        elif form.kind == "subclass":
            self._save_known(_REBUILD_SUBCLASS)
            self.write(pickle.MARK)
            self._write_function_and_arguments(tensor, form.requires_grad, form.subclass)
            self.save(form.state)
            self.write(pickle.TUPLE + pickle.REDUCE)
        else:
            self._write_call(tensor, form.requires_grad)
        self.memoize(tensor)

    def _write_call(self, tensor: _WrittenTensor, requires_grad: bool) -> None:
        self._write_function_and_arguments(tensor, requires_grad)
        self.write(pickle.REDUCE)

    def _write_function_and_arguments(
        self, tensor: _WrittenTensor, requires_grad: bool, between: Opaque | None = None
    ) -> None:
        """The function that makes a tensor of a storage, and its arguments; something else may stand between them."""
        has_class = storage_class_name_of(tensor.spec.dtype) is not None
        self._save_known(_REBUILD_TENSOR if has_class else _REBUILD_TENSOR_OF_BYTES)
        if between is not None:
            self._save_known(between)
        self.write(pickle.MARK)
        self._write_storage(tensor)
        shape = tensor.spec.shape
        flag = pickle.NEWTRUE if requires_grad else pickle.NEWFALSE
        self.write(_encode_int(0) + _encode_ints(shape) + _encode_ints(_row_major_stride(shape)) + flag)
        self._write_empty_ordered_dict()
        if not has_class:
            self.save(tensor.spec.dtype)
        self.write(pickle.TUPLE)

    def _write_storage(self, tensor: _WrittenTensor, class_name: str | None = None) -> None:
        name = class_name or storage_class_name_of(tensor.spec.dtype)
        count = tensor.spec.nbytes if name is None else tensor.spec.nbytes // tensor.spec.dtype.itemsize
        if name in (None, "UntypedStorage"):
            kind = _UNTYPED_STORAGE
        else:
            kind = self._storage_classes.setdefault(name, _name("torch", name))
        self.write(pickle.MARK)
        self._save_known(_STORAGE_WORD)
        self._save_known(kind)
        key = tensor.key.encode()
        self.write(pickle.BINUNICODE + len(key).to_bytes(4, "little") + key)
        self._save_known(_CPU_WORD)
        self.write(_encode_int(count) + pickle.TUPLE + pickle.BINPERSID)

    def _write_empty_ordered_dict(self) -> None:
        self._save_known(_ORDERED_DICT)
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE)

    def save_opaque(self, obj: Opaque) -> None:
        if obj.how == "name":
            self.write(_encode_name(*obj.args))
            self.memoize(obj)
            return
        self.save(obj.function)
        self.save(obj.args)
        if obj.how == "call":
            self.write(pickle.REDUCE)
        elif obj.kwargs is None:
            self.write(pickle.NEWOBJ)
        else:
            self.save(obj.kwargs)
            self.write(pickle.NEWOBJ_EX)
        if id(obj) in self.memo:  # one of its arguments refers to it
            self.write(pickle.POP + self.get(self.memo[id(obj)][0]))
            return
        self.memoize(obj)
        for kind, value in obj.changes:
            if kind == "state":
                self.save(value)
                self.write(pickle.BUILD)
                continue
            self.write(pickle.MARK)
            for item in value:
                for part in item if kind == "pairs" else (item,):
                    self.save(part)
            self.write({"items": pickle.APPENDS, "pairs": pickle.SETITEMS, "members": pickle.ADDITEMS}[kind])

    def save_object_node(self, node: ObjectNode) -> None:
        self.save(node.obj)

    def save_described(self, described: PickledTensor | PickledStorage) -> None:
        self.save(self._tensor_of(described))

    dispatch: ClassVar[Any] = {
        **pickle._Pickler.dispatch,
        _WrittenTensor: save_tensor,
        Opaque: save_opaque,
        ObjectNode: save_object_node,
        PickledTensor: save_described,
        PickledStorage: save_described,
    }


def _encode_name(module: str, name: str) -> bytes:
    try:
        text = f"{module}\n{name}\n".encode("ascii")
        if text.count(b"\n") == 2:
            return pickle.GLOBAL + text
    except UnicodeEncodeError:
        pass
    parts = [part.encode() for part in (module, name)]
    texts = [pickle.BINUNICODE + len(part).to_bytes(4, "little") + part for part in parts]
    return b"".join(texts) + pickle.STACK_GLOBAL


def _encode_int(value: int) -> bytes:
    if value < 1 << 8:
        return pickle.BININT1 + value.to_bytes(1, "little")
    if value < 1 << 31:
        return pickle.BININT + value.to_bytes(4, "little")
    return pickle.LONG1 + b"\x09" + value.to_bytes(9, "little")


def _encode_ints(values: Shape) -> bytes:
    return pickle.MARK + b"".join(map(_encode_int, values)) + pickle.TUPLE


def _row_major_stride(shape: Shape) -> Shape:
    stride: list[int] = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def dump_content(content: Content, *, is_nested: bool) -> bytes:
    """The pickle of a file.

    Args:
        content: what to write. The storage of its n-th tensor is called "n".
        is_nested: whether it is the tree that was saved, and not a flat dict of names.

    Raises:
        CheckpointError: if a value is of a class that funcnet does not write; lists every path.
    """
    check_writable(content.extras)
    state: dict[str, Any] = {}
    for number, (name, spec) in enumerate(content.specs.items()):
        state[name] = _WrittenTensor(str(number), spec, content.forms.get(name, PLAIN_FORM))
    for alias, owner in content.aliases.items():
        form = content.forms.get(alias, PLAIN_FORM)
        is_same = form == state[owner].form
        state[alias] = state[owner] if is_same else _WrittenTensor(state[owner].key, state[owner].spec, form)
    named = dict(state)
    state |= content.extras
    names: dict[int, str] = {}
    if is_nested and content.structure is not None:
        for _, node in iter_objects(content.structure):
            names |= node.names
        state = fill(content.structure, state, for_pickle=True)
    return _dump(state, lambda described: named[names[id(described)]])


def dump_value(value: object) -> bytes:
    """The pickle of a value that is no tensor."""
    return _dump(value, lambda described: _refuse(described))


def _refuse(described: object) -> Any:
    raise CheckpointError("holds a tensor")


def _dump(value: object, tensor_of: Callable[[object], _WrittenTensor]) -> bytes:
    out = io.BytesIO()
    try:
        _TensorPickler(out, tensor_of).dump(value)
    except Exception as error:  # the __reduce__ of a value may raise anything
        raise CheckpointError(f"a value cannot be pickled: {summarize_error(error)}. Leave it out.") from None
    return out.getvalue()


_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, bytearray)
_TORCH_TYPES = (torch.Size, torch.dtype, torch.device, torch.layout)


def check_writable(values: Mapping[str, object]) -> None:
    """Refuse values of classes that funcnet does not write.

    Raises:
        CheckpointError: lists every path.
    """
    problems = [problem for name, value in values.items() for problem in _iter_unwritable(value, name, frozenset())]
    if problems:
        raise CheckpointError(
            f"these are neither tensors nor plain values, so weights_only=True would refuse them:"
            f"{truncated_list(problems)}\nLeave them out; of a module save module.state_dict()."
        )


def _iter_unwritable(value: object, path: str, above: frozenset[int]) -> Iterator[str]:
    kind = type(value)
    if kind in _PLAIN_TYPES or kind in _TORCH_TYPES or (isinstance(value, Opaque) and value.how != "persistent"):
        return
    if kind in (dict, OrderedDict, Counter) and id(value) not in above:
        assert isinstance(value, dict)
        for key, item in value.items():
            yield from _iter_unwritable(item, f"{path}.{key}" if path else str(key), above | {id(value)})
            if type(key) not in _PLAIN_TYPES:
                yield from _iter_unwritable(key, f"{path}, a key", above | {id(value)})
    elif kind in (list, tuple, set, frozenset) and id(value) not in above:
        assert isinstance(value, (list, tuple, set, frozenset))
        for index, item in enumerate(value):
            if type(item) not in _PLAIN_TYPES:
                yield from _iter_unwritable(item, f"{path}.{index}", above | {id(value)})
    elif kind in (torch.UntypedStorage, torch.TypedStorage):
        yield f"{path}: a {kind.__name__}, of which a tensor can be saved: torch.empty(0, dtype=dtype).set_(storage)"
    elif not _is_loadable(value):
        yield f"{path}: a {kind.__name__}"


def _is_loadable(value: object) -> bool:
    """Whether ``torch.load(weights_only=True)`` accepts a value."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except Exception:  # the __reduce__ of a value may raise anything
        return False
    return True
