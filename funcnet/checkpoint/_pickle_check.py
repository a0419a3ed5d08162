"""A look at a pickle before it is loaded: whether its tuples unfold into far more than it is made of.

A tuple that is the key of a dict is hashed, together with everything in it, each time anew. Forty tuples, each of which
holds the one before it twice, take some hundred bytes in a pickle, and no processor comes to the end of hashing the
last.
"""

from __future__ import annotations

import pickletools
from typing import IO

_MAX_UNFOLDED = 4_000_000
_GET_OPCODES = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUT_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_OPCODES_THAT_NEST = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ"})


def check_tuples(stream: IO[bytes]) -> None:
    """Refuse a pickle whose tuples name each other too often. The stream is left at the end of the pickle.

    Raises:
        ValueError: if they do, or the stream holds no pickle.
    """
    stack: list[int] = []  # for each value on the stack of the unpickler: how many values hashing it would visit
    marks: list[int] = []
    memo: dict[int, int] = {}
    unfolded = 0
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in _GET_OPCODES:
            stack.append(memo.get(int(argument), 1))  # type: ignore[arg-type]
            unfolded += stack[-1] - 1
            if unfolded > _MAX_UNFOLDED:
                raise ValueError("has tuples that name each other so often that nobody can go through them")
        elif name in _PUT_OPCODES or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]  # type: ignore[arg-type]
        else:
            takes_mark = pickletools.markobject in opcode.stack_before
            popped = opcode.stack_before.index(pickletools.markobject) if takes_mark else len(opcode.stack_before)
            start = (marks.pop() if takes_mark else len(stack)) - popped
            if start < 0:
                raise ValueError("takes from an empty stack")
            size = 1 + sum(stack[start:]) if name in _OPCODES_THAT_NEST else 1
            del stack[start:]
            stack += [size] * len(opcode.stack_after)
