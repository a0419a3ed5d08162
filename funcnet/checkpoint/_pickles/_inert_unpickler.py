"""An unpickler that calls nothing a file names, and that no file can lead to boundless work or memory."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

from funcnet.checkpoint._pickles._known_calls import KNOWN_CALLS, VIEW_CALLS, check_key, known_name
from funcnet.checkpoint._pickles._opaque import Opaque, PickledChange

_CODE_RUNNERS = {
    *("os", "nt", "posix", "subprocess", "sys", "shutil", "pty", "commands", "popen2", "socket", "ctypes", "_ctypes"),
    *("importlib", "runpy", "imp", "pkgutil", "zipimport", "pickle", "_pickle", "cPickle", "dill", "marshal", "shelve"),
    *("bdb", "pdb", "timeit", "cProfile", "webbrowser", "urllib", "http", "httplib", "ftplib", "smtplib", "requests"),
    *(
        "aiohttp",
        "asyncio",
        "multiprocessing",
        "pip",
        "pydoc",
        "doctest",
        "ensurepip",
        "idlelib",
        "distutils",
        "_thread",
    ),
}
"""Modules that run code, or reach files, processes and the network. No object that people save is of one of them."""
_CODE_RUNNING_BUILTINS = {
    *("eval", "exec", "execfile", "compile", "open", "file", "input", "raw_input", "__import__", "breakpoint"),
    *("setattr", "delattr", "globals", "locals", "vars", "exit", "quit", "help", "apply", "reload"),
}
_CODE_RUNNING_NAMES = {
    *("torch.load", "torch.save", "torch.serialization.load", "torch.hub.load", "torch.jit.load", "numpy.load"),
    *("numpy.testing._private.utils.runstring", "operator.attrgetter", "operator.methodcaller", "joblib.load"),
    *("pandas.read_pickle", "pandas.eval", "torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline"),
    *(
        "types.FunctionType",
        "types.CodeType",
        "code.interact",
        "code.InteractiveInterpreter",
        "profile.run",
        "trace.Trace",
    ),
    *("threading.Thread", "functools.reduce", "platform.popen", "tempfile.mktemp"),
}


class InertUnpickler(pickle._Unpickler):  # the one in Python: a file can lead the one in C to reserve much memory
    """Reads a pickle of any protocol; what it would call becomes an :class:`Opaque`, unless it is known and plain.

    Args:
        stream: where the pickle is; its ``read`` must not reserve memory for more bytes than there are.
        persistent_load: returns what a persistent id stands for.
    """

    stack: Any  # what the class of the standard library has, though its stubs do not say so
    append: Any
    pop_mark: Any
    read: Any

    def __init__(self, stream: IO[bytes], persistent_load: Callable[[Any], Any] | None = None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._persistent_load = persistent_load
        self._names: dict[tuple[str, str], Any] = {}

    def _decode_string(self, value: bytes) -> str | bytes:
        """A string of Python 2, which may be a text or not."""
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            return Opaque("persistent", None, (pid,))
        return self._persistent_load(pid)

    def find_class(self, module: str, name: str) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("names a class that is no text")
        if (module, name) not in self._names:
            _refuse_code(module, name)
            value = known_name(module, name)
            self._names[module, name] = Opaque("name", f"{module}.{name}", (module, name)) if value is None else value
        return self._names[module, name]

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"names a class by the number {code}, which only the program that wrote it knows")

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Opaque):
            raise pickle.UnpicklingError(f"calls a {type(function).__name__}")
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError("calls a function with something else than a tuple")
        name = function.function if function.how == "name" else None
        if name in VIEW_CALLS:
            return VIEW_CALLS[name](*args)
        if name in KNOWN_CALLS:
            try:
                return KNOWN_CALLS[name](*args)
            except (TypeError, ValueError, OverflowError, RuntimeError):
                pass  # something that funcnet does not read as plain: it is kept as the call that it is
        return Opaque("call", function, args)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._make_new(self.stack[-1], args, None)

    def load_newobj_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._make_new(self.stack[-1], args, kwargs)

    def _make_new(self, cls: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(cls, Opaque) or not isinstance(args, tuple) or not isinstance(kwargs, (dict, type(None))):
            raise pickle.UnpicklingError("makes an object of something else than a class")
        if cls.how == "name" and cls.function == "collections.OrderedDict" and not args and not kwargs:
            return OrderedDict()
        return Opaque("new", cls, args, kwargs or None)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Opaque):
            target.changes.append(PickledChange("state", state))
        elif type(target) is OrderedDict and isinstance(state, dict):
            target.__dict__.update({str(key): value for key, value in state.items()})
        else:
            raise pickle.UnpicklingError(f"gives attributes to a {type(target).__name__}")

    def load_append(self) -> None:
        self._append_all([self.stack.pop()])

    def load_appends(self) -> None:
        self._append_all(self.pop_mark())

    def _append_all(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif isinstance(target, Opaque):
            target.changes.append(PickledChange("items", items))
        else:
            raise pickle.UnpicklingError(f"appends to a {type(target).__name__}")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_all([(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_all(list(zip(items[::2], items[1::2], strict=True)))

    def _set_all(self, pairs: list[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.changes.append(PickledChange("pairs", pairs))
        elif isinstance(target, dict):
            for key, value in pairs:
                if type(key) is not str:
                    check_key(key)
                target[key] = value
        else:
            raise pickle.UnpicklingError(f"sets keys of a {type(target).__name__}")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_all(list(zip(items[::2], items[1::2], strict=True)))

    def load_additems(self) -> None:
        members, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, Opaque):
            target.changes.append(PickledChange("members", members))
        elif type(target) is set:
            for member in members:
                check_key(member)
                target.add(member)
        else:
            raise pickle.UnpicklingError(f"adds members to a {type(target).__name__}")

    def load_frozenset(self) -> None:
        members = self.pop_mark()
        for member in members:
            check_key(member)
        self.append(frozenset(members))

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _refuse_code(module: str, name: str) -> None:
    """Refuse names that no checkpoint has a reason to hold: the file is made to run code.

    Raises:
        pickle.UnpicklingError: names it.
    """
    root = module.partition(".")[0]
    is_builtin = root in ("builtins", "__builtin__") and name.partition(".")[0] in _CODE_RUNNING_BUILTINS
    reaches_another_module = not _CODE_RUNNERS.isdisjoint(name.split(".")[:-1])  # as "logging" and "os.system"
    if root in _CODE_RUNNERS or is_builtin or reaches_another_module or f"{module}.{name}" in _CODE_RUNNING_NAMES:
        raise pickle.UnpicklingError(
            f"names {module}.{name}, which no checkpoint needs and which can run any code: whoever loads this file "
            f"with another tool may run a program of its author"
        )
