"""The net that a trace gives."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from funcnet._context import beyond_one_gradient, under_vmap
from funcnet._errors import ConversionError, ShapeError, bullet_list
from funcnet._typing import Tree
from funcnet.core import Net, View, draw_source
from funcnet.core.internals import Call, StockNet, call_and_path, describe_place, describe_value
from funcnet.program._code import Check, Code
from funcnet.random.internals import DrawInterceptor
from funcnet.tree import get, join
from funcnet.tree import map as map_tree


class Traced(StockNet, reads_trees=True, one_piece=True, fields_in_view=False):
    """A module's forward as plain ``F.*`` code over params. Made by :func:`funcnet.trace`.

    Params, buffers and parts are those of :func:`funcnet.from_module`. Two are equal if their code and tensors are.
    """

    net: Net
    codes: tuple[Code, ...]

    @property
    def source(self) -> str:
        """The code itself: a function of params for each mode that was traced, complete with imports."""
        return "\n\n".join(code.source for code in self.codes)

    @property
    def specialised(self) -> tuple[str, ...]:
        """What the code is for: the mode, and what each input must be, one line each."""
        modes = " and ".join(self._modes())
        lines = {f"{check.place}: {check.expected}": None for code in self.codes for check in code.checks}
        return (f"{modes} mode", *lines)

    # --- what it shares with the net of the module ---

    def title(self) -> str:
        return self.net.title()

    def parts(self) -> Mapping[str, Any]:
        return self.net._parts

    def as_module(self) -> nn.Module:
        return self.net.as_module()

    def check_init(self, path: str) -> None:
        self.net.check_init(path)

    def drawing_order(self) -> Iterable[str]:
        return self.net.drawing_order()

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        raise ConversionError(
            f"{self.title()} is traced: its code is one piece and calls no parts, so no other net can take the place "
            f"of {', '.join(map(repr, nets))}. Replace them in funcnet.from_module(module)[0], or in the module."
        )

    # --- its own body ---

    def draws(self, training: bool) -> bool:
        return any(code.draws for code in self.codes if code.train == training)

    def expects(self) -> str:
        return ", ".join(
            f"{check.place} {check.expected}" for check in self.codes[0].checks if "_Tensor" in check.condition
        )

    @cached_property
    def forward(self) -> Any:
        """The body: finds the code for the mode, checks the inputs, and calls it."""
        paths = tuple(path for path, _ in self.net.named_nets())
        space: dict[str, Any] = {
            **{f"_{function.__name__}": function for function in (type, list, len, id, isinstance, Tensor)},
            "torch": torch,
            "NOT_GIVEN": NOT_GIVEN,
            "_mode_of": mode_of,
            "_paths": paths,
            "_partial": partial,
            "_draws_at": draw_source,
            "_Intercept": DrawInterceptor,
            "_batched": batched,
            "_vmapped": vmapped,
            "_beyond": beyond_one_gradient,
            "_record": record,
            "_refuse_mode": self._refuse_mode,
            "_refuse_inputs": self._refuse_inputs,
        }
        signature = self.codes[0].signature
        lines = [f"def body(_p{', ' * bool(signature)}{signature}):", "    _mode = _mode_of(_p, _paths)"]
        for index, code in enumerate(self.codes):
            name = f"_forward{index}"
            space[name] = _run(code.source, f"{self.title()} forward", dict(code.objects))["forward"]
            space.update(code.objects)
            lines += [f"    {line}" for line in _calling(name, code)]
        for mode in dict.fromkeys(code.train for code in self.codes):
            lines += [f"    if _mode is {mode}:", f"        _refuse_inputs(_p, {mode}, locals())"]
        lines += ["    _refuse_mode(_p, _mode)", ""]
        imports = dict.fromkeys(line for code in self.codes for line in code.imports if line != "import funcnet as fn")
        return _run("\n".join([*imports, *lines]), f"{self.title()} body", space)["body"]

    def _modes(self) -> list[str]:
        return list(dict.fromkeys("training" if code.train else "eval" for code in self.codes))

    def _refuse_mode(self, p: View, train: Any) -> None:
        modes = " and ".join(self._modes())
        called = {True: "in training mode", False: "in eval mode"}.get(train, "with some parts in training mode only")
        way = "Trace it with train='both'" if train is not None else "A trace has one mode for all of its parts"
        raise ConversionError(
            f"{describe_place(p)} was traced in {modes} mode and is called {called}. {way}, "
            f"or use funcnet.from_module(module)."
        )

    def _refuse_inputs(self, p: View, train: bool, given: dict[str, Any]) -> None:
        space = {**self.forward.__globals__, **given, "params": p._params}
        codes = [code for code in self.codes if code.train == train]
        misfits = [[check for check in code.checks if not _holds(check, space)] for code in codes]
        lines = [
            f"{check.place}: expected {check.expected}, got {_got(check, space)}" for check in min(misfits, key=len)
        ]
        raise ShapeError(
            f"{describe_place(p)} was traced for other inputs:{bullet_list(lines)}\n"
            f"Trace it again with inputs like these (dynamic= keeps more sizes free), or use from_module(module)."
        )

    # --- a value ---

    def _record(self) -> tuple[Any, ...]:
        # the code, and the tensors it is for; the template behind the net is equal to itself only
        return (self.codes, self.title(), tuple(self._all_entries.items()), self._edits.aliases)


def _calling(name: str, code: Code) -> list[str]:
    """The lines that call a captured function, if the mode and the inputs are those it was captured for."""
    given = ["_p._params", *(["_p._buffers"] if code.buffers else []), *code.arguments]
    call = f"{name}({', '.join([*given, *(['rng=_partial(_draws_at, _p)'] if code.draws else [])])})"
    then = [f"return {call}"]
    if code.replaced:
        paths = tuple(tuple(path.split(".")) for path in code.replaced)
        then = [f"_output, _new = {call}", f"_record(_p, {paths}, _new)", "return _output"]
    if code.copied:  # written to in place on copies, which vmap allows only if they are batched as what is written
        paths = tuple(tuple(path.split(".")) for path in code.copied)
        call = call.replace("_p._buffers", "_buffers", 1)
        then = [line.replace("_p._buffers", "_buffers") for line in then]
        then = [
            "_buffers = _p._buffers",
            "if _vmapped():",
            f"    _buffers = _batched(_p, {paths}, ({' '.join(f'{name},' for name in code.arguments)}))",
            *then,
        ]
    if code.attends:  # torch's kernels of attention have no rules for transforms, funcnet's own form passes all
        then = [
            "if _beyond():",
            "    with _Intercept(_partial(_draws_at, _p)):",
            *(f"        {line}" for line in then),
            *then,
        ]
    conditions = " and ".join([f"_mode is {code.train}", *(check.condition for check in code.checks)])
    return [f"if {conditions}:", *(f"    {line}" for line in then)]


def batched(p: View, paths: tuple[tuple[str, ...], ...], given: Any) -> Tree:
    """The buffers of a call, with those at some paths batched as all that is given is."""
    tree = map_tree(lambda leaf: leaf, p._buffers)
    zeros = [leaf.new_zeros(()) for leaf in tree_leaves((p._params, given)) if isinstance(leaf, Tensor)]
    for path in paths:
        node = get(tree, ".".join(path[:-1]))
        for zero in zeros:
            node[path[-1]] = node[path[-1]] + zero.to(node[path[-1]].dtype)
    return tree


def vmapped() -> bool:
    return under_vmap() or torch.compiler.is_compiling()


class _NotGiven:
    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = _NotGiven()


def mode_of(p: View, paths: tuple[str, ...]) -> bool | None:
    """The mode of a view and of everything below it; None where they are not all in one."""
    up: Any = p._up
    while type(up) is not Call:
        up = up._up
    if isinstance(up.train, bool):
        return up.train
    flags = {bool(up.train(join(call_and_path(p)[1], path))) for path in paths}
    return flags.pop() if len(flags) == 1 else None


def record(p: View, paths: tuple[tuple[str, ...], ...], new: Mapping[str, Any]) -> None:
    """Put new buffers in the call's own tree."""
    call, _ = call_and_path(p)
    if call.closed:
        return
    for path in paths:
        node, value = p._buffers, new
        for key in path[:-1]:
            node, value = node[key], value[key]
        node[path[-1]] = value[path[-1]]


def _run(text: str, name: str, space: dict[str, Any]) -> dict[str, Any]:
    """The names a text defines; its lines show in tracebacks."""
    file = f"<funcnet.trace: {name} {blake2b(text.encode(), digest_size=4).hexdigest()}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), space)
    return space


def _holds(check: Check, space: dict[str, Any]) -> bool:
    try:
        return bool(eval(check.condition, space))
    except (AttributeError, KeyError, IndexError, TypeError):
        return False


def _got(check: Check, space: dict[str, Any]) -> str:
    try:
        return describe_value(eval(check.place, space))
    except (AttributeError, KeyError, IndexError, TypeError, NameError):
        return "nothing"
