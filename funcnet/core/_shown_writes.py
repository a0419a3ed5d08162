"""Whether the code of a body shows in-place operations, so that its calls are to get copies.

The code of helpers in other files is not read; what those write to is noticed afterwards by version counters.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

from funcnet.core._body_functions import iter_code

_KEYWORDS_OF_WRITES = ("out", "inplace")


def shows_writes(functions: Iterable[FunctionType], method: str, to_locals: bool) -> bool:
    """Whether the code that a call may run shows in-place operations on anything that may be a tensor.

    Args:
        functions: what the code of a net consists of; methods that no other code names are left out.
        method: the name of the method that is called.
        to_locals: whether ``x += 1`` and ``x[0] = 1`` count, which write to inputs more often than to params.
    """
    codes_by_name: dict[str, list[CodeType]] = {}
    for function in functions:
        is_method = function.__qualname__.rpartition(".")[0].rpartition(".")[2] not in ("", "<locals>")
        name = function.__name__ if is_method else ""
        codes_by_name.setdefault(name, []).extend(iter_code(function))
    waiting = ["", "forward", method, "__call__", "__getattr__", "__getattribute__"]
    visited: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in visited:
            continue
        visited.add(name)
        for code in codes_by_name.get(name, ()):
            if any(_iter_writes(code, to_locals)):
                return True
            waiting += code.co_names
    return False


def _iter_writes(code: CodeType, to_locals: bool) -> Iterator[bool]:
    """For each instruction, whether it may write to a tensor in place."""
    for name in code.co_names:
        yield (name.endswith("_") and not name.endswith("__")) or name.startswith("_foreach_")
    for constant in code.co_consts:  # the names of keyword arguments are tuples among them
        yield isinstance(constant, tuple) and any(keyword in constant for keyword in _KEYWORDS_OF_WRITES)
    is_augmented = False
    for instruction in dis.get_instructions(code):
        yield to_locals and instruction.opname == "STORE_SUBSCR"
        yield is_augmented and (to_locals or instruction.opname in ("STORE_ATTR", "SWAP", "ROT_TWO"))
        is_augmented = instruction.opname.startswith("INPLACE_") or (
            instruction.opname == "BINARY_OP" and instruction.argrepr.endswith("=")
        )
        yield instruction.opname == "STORE_ATTR" and instruction.argval == "data"
