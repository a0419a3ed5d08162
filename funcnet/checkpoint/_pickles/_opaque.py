"""Objects of a pickle that are not made, because that would run code: what the pickle says about each is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from funcnet.checkpoint._dtypes import NUMPY_DTYPES, dtype_name

_SHOWN_LENGTH = 60  # characters of one attribute that are shown


class PickledChange(NamedTuple):
    """What a pickle does to an object after it is made.

    Attributes:
        kind: "state" gives it attributes, "items" appends, "pairs" sets keys, "members" adds to a set.
        value: the state, a list of items or members, or a list of pairs.
    """

    kind: Literal["state", "items", "pairs", "members"]
    value: Any


class Opaque:
    """An object in a file that is shown and kept, but not made: that would run code that the file names.

    A .pt file that is converted to a .pt file keeps it; ``torch.load(path, weights_only=False)`` makes it, if you trust
    the file.

    Attributes:
        how: how the pickle makes it: it is a "name" of a class or function, the result of a "call", a "new" object of a
            class, or "persistent", which is to be found outside of the pickle.
        function: what is called, or the class; a string for a name.
        args: the arguments.
        kwargs: the arguments by name.
        changes: what is done to it afterwards.

    >>> lr = Opaque("new", Opaque("name", "argparse.Namespace"), changes=[PickledChange("state", {"lr": 0.1})])
    >>> lr
    <argparse.Namespace lr=0.1>
    >>> lr.type_name, lr.attributes
    ('argparse.Namespace', {'lr': 0.1})
    """

    __slots__ = ("args", "changes", "function", "how", "kwargs")

    def __init__(
        self,
        how: Literal["name", "call", "new", "persistent"],
        function: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        changes: list[PickledChange] | None = None,
    ) -> None:
        self.how = how
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.changes = [] if changes is None else changes

    def __deepcopy__(self, memo: object) -> Opaque:
        return self

    @property
    def type_name(self) -> str:
        """The full name of its class, as far as the pickle tells it; of a class or function, its own name."""
        if self.how == "name":
            return str(self.function)
        if self.how == "persistent":
            return "a persistent id"
        name = self.function.type_name if isinstance(self.function, Opaque) else type(self.function).__name__
        if name in SCALAR_CALLS:
            return f"numpy.{_scalar_type(self.args)}"
        position = _TYPE_IN_ARGUMENTS.get(name)
        if position is None or len(self.args) <= position:
            return name
        argument = self.args[position]
        return argument.type_name if isinstance(argument, Opaque) else name

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that the pickle gives it."""
        attributes: dict[str, Any] = {}
        for kind, value in self.changes:
            if kind == "state":
                is_pair = isinstance(value, tuple) and len(value) == 2  # of __dict__ and of slots
                for part in value if is_pair else (value,):
                    if isinstance(part, dict):
                        attributes |= {str(key): item for key, item in part.items()}
        return attributes

    def list_changed(self, kind: Literal["items", "pairs", "members"]) -> list[Any]:
        """What the pickle appends, sets or adds."""
        return [item for change in self.changes if change.kind == kind for item in change.value]

    def __repr__(self) -> str:
        if self.how == "name":
            return f"<{self.function}>"
        details = [f"{key}={_show(value)}" for key, value in self.attributes.items()]
        details += [f"{_show(key)}: {_show(value)}" for key, value in self.list_changed("pairs")]
        details += [_show(value) for value in (*self.list_changed("items"), *self.list_changed("members"))]
        if not details and isinstance(self.function, Opaque) and self.function.function in SCALAR_CALLS:
            from funcnet.checkpoint._pickles._numpy_objects import plain_value  # which is about these objects

            with contextlib.suppress(TypeError):
                details = [_show(plain_value(self))]
        if not details:
            details = [_show(value) for value in self.args if not (isinstance(value, Opaque) and value.how == "name")]
        return f"<{self.type_name}{' ' * bool(details)}{', '.join(details)}>"


SCALAR_CALLS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
"""The function that makes a number of numpy, before numpy 2 and since."""
_TYPE_IN_ARGUMENTS = {
    "copyreg._reconstructor": 0,
    "copy_reg._reconstructor": 0,
    "copyreg.__newobj__": 0,
    "copyreg.__newobj_ex__": 0,
    "builtins.getattr": 0,
    "__builtin__.getattr": 0,
    "torch._tensor._rebuild_from_type_v2": 1,
    "torch._utils._rebuild_wrapper_subclass": 0,
    "numpy.core.multiarray._reconstruct": 0,
    "numpy._core.multiarray._reconstruct": 0,
}
"""For calls of functions that make objects of any class: which argument is the class."""


def _scalar_type(args: tuple[Any, ...]) -> str:
    """The name of the dtype that is the first of these arguments."""
    code = args[0].args[0] if args and isinstance(args[0], Opaque) and args[0].args else "generic"
    code = code.decode("latin-1") if isinstance(code, bytes) else str(code).lstrip("<>|=")
    return dtype_name(NUMPY_DTYPES[code]) if code in NUMPY_DTYPES else code


def _show(value: object) -> str:
    """A value in few characters."""
    if isinstance(value, Opaque):
        return f"<{value.type_name}>"
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


_PARTS_OF_CALLS: dict[str, dict[int, str | tuple[str, ...]]] = {
    "torch._utils._rebuild_qtensor": {0: "int_repr", 4: ("", "scale", "zero_point", "axis")},
    "torch._utils._rebuild_nested_tensor": {0: "values", 1: "sizes", 2: "strides", 3: "offsets"},
}
"""For calls that make a tensor of tensors: the names of the arguments, or of what is in an argument."""
_SPARSE_PARTS: dict[int, tuple[str, ...]] = {
    4: ("indices", "values", "size", "is_coalesced"),
    3: ("indices", "values", "size"),
}


def iter_parts(obj: Opaque) -> Iterator[tuple[str, Any]]:
    """What an object consists of, each with a name: attributes, keys, indices.

    A module has the names of its ``state_dict``: the parameters, the buffers and the modules it has, in this order.
    """
    attributes = obj.attributes
    tables = [attributes.get(key) for key in ("_parameters", "_buffers", "_modules")]
    if all(isinstance(table, dict) for table in tables):
        for table in tables:
            assert isinstance(table, dict)
            yield from ((str(key), value) for key, value in table.items())
        taken = {str(key) for table in tables if table for key in table}
        attributes = {
            key: value
            for key, value in attributes.items()
            if key not in ("_parameters", "_buffers", "_modules") and key not in taken
        }
    yield from attributes.items()
    yield from ((str(key), value) for key, value in obj.list_changed("pairs"))
    others = [*obj.list_changed("items"), *obj.list_changed("members")]
    yield from ((str(index), value) for index, value in enumerate(others))
    states = [change.value for change in obj.changes if change.kind == "state"]
    if states and not attributes:
        yield from (("state", value) for value in states)
    if obj.how in ("call", "new"):
        yield from _iter_argument_parts(obj, has_index_names=bool(others))
        yield from (obj.kwargs or {}).items()


def _iter_argument_parts(obj: Opaque, has_index_names: bool) -> Iterator[tuple[str, Any]]:
    name = obj.function.type_name if isinstance(obj.function, Opaque) else ""
    if name == "torch._utils._rebuild_sparse_tensor" and len(obj.args) == 2 and isinstance(obj.args[1], tuple):
        values = obj.args[1]
        names = _SPARSE_PARTS.get(len(values), ()) if len(values) != 4 or isinstance(values[3], bool) else ()
        names = names or ("compressed_indices", "plain_indices", "values", "size")
        yield from zip(names, values, strict=False)
        return
    parts = _PARTS_OF_CALLS.get(name, {})
    for index, value in enumerate(obj.args):
        part = parts.get(index, f"args.{index}" if has_index_names else str(index))
        if isinstance(part, str):
            yield part, value
        elif isinstance(value, tuple):
            yield from zip(part, value, strict=False)


def iter_children(node: object) -> Iterable[Any]:
    """Everything that an object, dict, list or tuple refers to, whatever for."""
    if isinstance(node, Mapping):
        return node.values()
    if isinstance(node, (list, tuple)):
        return node
    assert isinstance(node, Opaque)
    children = [node.function, *node.args, node.kwargs]
    for kind, value in node.changes:
        if kind == "state":
            children.append(value)
        else:
            for item in value:
                children += item if kind == "pairs" else (item,)
    return children
