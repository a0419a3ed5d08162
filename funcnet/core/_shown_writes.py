"""What the code of a body shows of its writes before it runs, so that its calls are watched closely or get copies.

The code of helpers in other files is not read; what those write to is noticed afterwards by version counters.
"""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType

from funcnet.core._body_functions import iter_code

_KEYWORDS_OF_WRITES = ("out", "inplace")
_MEMORY_NAMES = frozenset(
    (
        *("numpy", "asarray", "__array__", "from_numpy", "frombuffer", "memoryview", "data", "set_data", "data_ptr"),
        "ctypes",
        *("from_dlpack", "to_dlpack", "__dlpack__", "untyped_storage", "storage", "_typed_storage", "swap_tensors"),
    )
)
"""Names of what gives access to the numbers of a tensor past its version counter."""

_STATE_NAMES = frozenset(
    (
        *("backward", "requires_grad_", "detach_", "retain_grad", "register_hook", "setattr", "__setattr__"),
        "register_post_accumulate_grad_hook",
    )
)
"""Names of what changes the state of a tensor besides its numbers."""

_STORES = ("STORE_ATTR", "DELETE_ATTR")
_NAMES_HIDDEN_IN_TRACES = frozenset(
    ("backward", "requires_grad_", "register_hook", "register_post_accumulate_grad_hook", "swap_tensors", "set_data")
)
_STORES_HIDDEN_IN_TRACES = frozenset(("data", "grad", "requires_grad"))


@dataclass(frozen=True)
class ShownWrites:
    """What the code that a call may run shows.

    Args:
        in_place: an in-place operation on anything that may be a tensor of the trees.
        memory: a name of what reaches the numbers of a tensor past its version counter.
        touches_tensors: that, or a name of what changes gradients, hooks, flags or attributes of tensors.
        backward: a backward pass, which may add to the gradients of params.
        hidden_in_traces: the first name of a write that does not show while the compiler traces it; "" without any.
        is_all: the code shows all writes: no function of which the writes are not known can run.
    """

    in_place: bool = False
    memory: bool = False
    touches_tensors: bool = False
    backward: bool = False
    hidden_in_traces: str = ""
    is_all: bool = False


def look_for_writes(
    functions: Iterable[tuple[str, FunctionType]],
    own_functions: Iterable[tuple[str, FunctionType]],
    method: str,
    param_names: Collection[str],
    buffer_names: Collection[str],
) -> ShownWrites:
    """What the code of a net shows of the writes in a call.

    Args:
        functions: what the code of the net consists of, with the names by which code reaches it; what no code names
            that can run is left out.
        own_functions: those of them that do not belong to a foreign module, whose calls have copies of all inputs.
        method: the name of the method that is called.
        param_names: the attributes that are params.
        buffer_names: those that are buffers; to assign to one is to record a new buffer.
    """
    tensor_names = {*param_names, *buffer_names}
    functions = [*functions, *own_functions]
    in_place = any(any(_iter_writes(code, tensor_names)) for code, _ in iter_code_of_call(functions, method))
    names: set[str] = set()
    stores: set[str] = set()
    reaches_memory = False
    for code, function in iter_code_of_call(own_functions, method):
        names |= set(code.co_names)
        stores |= {str(one.argval) for one in dis.get_instructions(code) if one.opname in _STORES}
        reaches_memory = reaches_memory or any(_is_of_memory(function.__globals__.get(name)) for name in code.co_names)
    hidden = [*sorted(names & _NAMES_HIDDEN_IN_TRACES), *sorted(stores & _STORES_HIDDEN_IN_TRACES)]
    hidden += sorted(name for name in names if name.startswith("_foreach_") and name.endswith("_"))
    if in_place and "data" in names:
        hidden.append("data")
    memory = reaches_memory or not names.isdisjoint(_MEMORY_NAMES)
    return ShownWrites(
        in_place,
        memory,
        touches_tensors=memory or not names.isdisjoint(_STATE_NAMES) or not stores.issubset(buffer_names),
        backward="backward" in names,
        hidden_in_traces=hidden[0] if hidden else "",
    )


def _is_of_memory(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.partition(".")[0] in ("numpy", "ctypes")


def iter_code_of_call(
    functions: Iterable[tuple[str, FunctionType]], method: str
) -> Iterator[tuple[CodeType, FunctionType]]:
    """The code that a call may run, with the function that it belongs to."""
    codes_by_name: dict[str, list[tuple[CodeType, FunctionType]]] = {}
    for name, function in functions:
        codes_by_name.setdefault(name, []).extend((code, function) for code in iter_code(function))
    waiting = ["", "forward", method, "__call__", "__getattr__", "__getattribute__"]
    visited: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in visited:
            continue
        visited.add(name)
        for code, function in codes_by_name.get(name, ()):
            yield code, function
            waiting += code.co_names


def _iter_writes(code: CodeType, tensor_names: Collection[str]) -> Iterator[bool]:
    """For each instruction, whether it may write in place to a tensor that is no local variable."""
    for name in code.co_names:
        yield (name.endswith("_") and not name.endswith("__")) or name.startswith("_foreach_")
    for constant in code.co_consts:  # the names of keyword arguments are tuples among them
        yield isinstance(constant, tuple) and any(keyword in constant for keyword in _KEYWORDS_OF_WRITES)
    is_augmented = False
    for instruction in dis.get_instructions(code):
        kind = instruction.opname
        if is_augmented and kind in ("STORE_ATTR", "STORE_SUBSCR"):
            yield kind == "STORE_SUBSCR" or instruction.argval in tensor_names
        is_augmented = (
            kind.startswith("INPLACE_")
            or (kind == "BINARY_OP" and instruction.argrepr.endswith("="))
            or (is_augmented and kind in ("SWAP", "ROT_TWO", "ROT_THREE", "CACHE"))
        )
        yield kind == "STORE_ATTR" and instruction.argval == "data"
