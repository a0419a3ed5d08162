"""A look at a pickle before it is loaded: whether its tuples unfold into far more than it is made of.

A tuple is hashed when it is the key of a dict, and all that is in it with it, each time anew. Forty tuples that hold
the one before twice take some hundred bytes, and no processor comes to the end of hashing the last.
"""

from __future__ import annotations

import pickletools
from typing import IO

_MOST = 4_000_000
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_HOLDING = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ"})


def check_tuples(stream: IO[bytes]) -> None:
    """Refuse a pickle whose tuples name each other so often. The stream is left at its end.

    Raises:
        ValueError: if they do, or it is no pickle.
    """
    stack: list[int] = []  # of each value how many there are in it, as far as hashing goes
    marks: list[int] = []
    memo: dict[int, int] = {}
    unfolded = 0
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in _GETS:
            stack.append(memo.get(int(argument), 1))  # type: ignore[arg-type]
            unfolded += stack[-1] - 1
            if unfolded > _MOST:
                raise ValueError("has tuples that name each other so often that nobody can go through them")
        elif name in _PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]  # type: ignore[arg-type]
        else:
            marked = pickletools.markobject in opcode.stack_before
            before = opcode.stack_before.index(pickletools.markobject) if marked else len(opcode.stack_before)
            start = (marks.pop() if marked else len(stack)) - before
            if start < 0:
                raise ValueError("takes from an empty stack")
            held = 1 + sum(stack[start:]) if name in _HOLDING else 1
            del stack[start:]
            stack += [held] * len(opcode.stack_after)
