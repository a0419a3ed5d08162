"""``trace``: a module's forward as a net of plain code; and the net that it gives."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._context import beyond_one_gradient, under_vmap
from funcnet._errors import ConversionError, ShapeError, bullet_list
from funcnet._tensors import iter_tensors
from funcnet._typing import Tree
from funcnet.core import Net, View, draw_source
from funcnet.core.internals import Call, StockNet, call_and_path, describe_input, describe_view
from funcnet.random.internals import DrawInterceptor
from funcnet.tree import get, join
from funcnet.tree import map as map_tree

Dynamic = tuple[str, ...] | Mapping[str | int, int | Sequence[int]]
"""Which sizes stay free: ``()`` for none, ``("batch",)``, or the axes of inputs by name or number."""


def trace(
    module: nn.Module,
    *example_inputs: object,
    train: bool | Literal["both"] = False,
    dynamic: Dynamic = ("batch",),
    exact: bool = True,
    **example_kwargs: object,
) -> tuple[Traced, Tree, Tree]:
    """Write a module's forward down as plain ``F.*`` code over params: a net with the same bits, and faster.

    torch's own tracer runs the forward on the shapes of the example inputs; modules, hooks, Python branches and loops
    are gone afterwards, and what is left is one statement per operation, ``net.source``. In-place writes to buffers
    become new buffers, and draws come from ``rng`` at the path of the module that makes them. Before it is handed out,
    the net is compared with a copy of the module on the examples, and must give the same bits.

    A trace holds for what it was made with, ``net.specialised``: the mode, the dtypes and sizes of inputs, everything
    else in them (numbers, flags, None, the structure of dicts), and the branches taken. Other inputs are refused. What
    the forward asked of tensors and of torch (``x.is_contiguous()``, ``requires_grad``, ``torch.is_grad_enabled()``,
    autocast, devices) is asserted by the code, so that a call in which the answer is another one is refused too.

    Args:
        module: any ``nn.Module`` whose forward torch's tracer can follow. It is not called and not written to.
        example_inputs, example_kwargs: what it is called with. Sizes, dtypes and constants matter, numbers in tensors
            do not.
        train: the mode to trace, ``True`` or ``False``; or ``"both"``, for a net that can be called in either.
        dynamic: which sizes stay free. ``("batch",)``: axis 0 of every tensor input; ``()``: none; or a mapping from
            the name or number of an input to an axis or a tuple of axes.
        exact: when false, code whose numbers differ from the module's by rounding is handed out too, and says by how
            much in its head; as where a model takes another kernel of attention while it is captured.

    Returns:
        ``(net, params, buffers)``, the trees as from :func:`funcnet.from_module`.

    Raises:
        ConversionError: if the forward cannot be traced (it branches on numbers in a tensor, calls what torch's tracer
            does not know, holds a tensor that is neither parameter nor buffer); names the line.

    Source: torch.compile's tracer, TorchDynamo, with a backend that keeps the graph.

    >>> import torch, funcnet as fn
    >>> net, params, buffers = fn.trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(4, 2))
    >>> net(params, torch.ones(7, 2)).shape
    torch.Size([7, 3])
    >>> print(net.source)
    import torch.nn.functional as F
    <BLANKLINE>
    <BLANKLINE>
    def forward(params, input):
        \"\"\"Sequential in eval mode, as a function of its params. Returns the output.
    <BLANKLINE>
        Captured by funcnet.trace for
        input: float32 (batch, 2)
        params["0"]["weight"]: float32
        \"\"\"
        # 0: Linear
        input = F.linear(input, params["0"]["weight"], params["0"]["bias"])
        # 1: ReLU
        input = F.relu(input)
        return input
    <BLANKLINE>
    """
    from funcnet.program._build import build_traced  # torch's tracer costs seconds to import

    return build_traced(module, example_inputs, example_kwargs, train, dynamic, exact)


class Check(NamedTuple):
    """A condition that a call must fulfil."""

    expression: str  # the text of the expression that is checked
    expected: str  # what it must be, in words
    condition: str  # the same as an expression
    holds_at_size_one: bool = True  # whether it holds where every free size is 1


class ModeCode(NamedTuple):
    """A forward in one mode."""

    train: bool
    signature: str  # the parameters of the module's forward, as text
    source: str  # text of ``forward(params, buffers, *arguments, rng)``, with its imports
    arguments: tuple[str, ...]  # the parameters that hold tensors
    takes_buffers: bool  # whether ``forward`` takes buffers
    checks: tuple[Check, ...]  # what must hold for a call
    conditions: tuple[str, ...]  # what ``forward`` asserts besides
    new_buffers: tuple[str, ...]  # paths of the buffers it replaces
    drawing_paths: tuple[str, ...]  # paths of the modules that draw
    copied_buffers: tuple[str, ...]  # paths of the buffers that it writes to in place, on a copy
    calls_attention_kernel: bool  # whether it calls torch's attention, which has no rules for transforms
    imports: tuple[str, ...]  # lines that the checks need
    objects_by_name: tuple[tuple[str, object], ...]  # name in the text -> an object that it cannot import


Paths = tuple[tuple[str, ...], ...]
"""Paths as tuples of their keys."""
Namespace = dict[str, Any]
"""The global names of generated code."""


class Traced(StockNet, reads_trees=True, one_piece=True, fields_in_view=False):
    """A module's forward as plain ``F.*`` code over params. Made by :func:`funcnet.trace`.

    Params, buffers and parts are those of :func:`funcnet.from_module`. Two are equal if their code and tensors are.

    >>> net, params, buffers = trace(nn.Linear(2, 3), torch.ones(4, 2))
    >>> net(params, torch.ones(5, 2)).shape
    torch.Size([5, 3])
    """

    net: Net
    codes: tuple[ModeCode, ...]

    @property
    def source(self) -> str:
        """The code itself: a function of params for each mode that was traced, complete with imports."""
        return "\n\n".join(code.source for code in self.codes)

    @property
    def specialised(self) -> tuple[str, ...]:
        """What the code is for: the mode, and what each input must be, one line each."""
        lines = {f"{check.expression}: {check.expected}": None for code in self.codes for check in code.checks}
        asserted = dict.fromkeys(condition for code in self.codes for condition in code.conditions)
        return (f"{self._mode_names()} mode", *lines, *(f"asserted: {condition}" for condition in asserted))

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

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        raise ConversionError(
            f"{self.title()} is traced: its code is one piece and calls no parts, so no other net can take the place "
            f"of {', '.join(map(repr, nets))}. Replace them in funcnet.from_module(module)[0], or in the module."
        )

    def draws(self, training: bool) -> bool:
        return any(code.drawing_paths for code in self.codes if code.train == training)

    def expects(self) -> str:
        return ", ".join(
            f"{check.expression} {check.expected}" for check in self.codes[0].checks if "_Tensor" in check.condition
        )

    @cached_property
    def forward(self) -> Any:
        """The body: finds the code for the mode, checks the inputs, and calls it."""
        namespace: Namespace = {
            **{f"_{function.__name__}": function for function in (type, list, len, id, isinstance, Tensor)},
            "torch": torch,
            "NOT_GIVEN": NOT_GIVEN,
            "_mode_of": mode_of,
            "_paths": tuple(path for path, _ in self.net.named_nets()),
            "_partial": partial,
            "_draw_source": draw_source,
            "_Interceptor": DrawInterceptor,
            "_batch_buffers": batch_buffers,
            "_may_be_batched": may_be_batched,
            "_beyond_one_gradient": beyond_one_gradient,
            "_record_buffers": record_buffers,
            "_refuse_mode": self._refuse_mode,
            "_refuse_inputs": self._refuse_inputs,
            "_refuse_call": self._refuse_call,
        }
        signature = self.codes[0].signature
        lines = [f"def body(_p{', ' * bool(signature)}{signature}):", "    _mode = _mode_of(_p, _paths)"]
        for index, code in enumerate(self.codes):
            name = f"_forward{index}"
            namespace[name] = run_text(code.source, f"{self.title()} forward", dict(code.objects_by_name))["forward"]
            namespace.update(code.objects_by_name)
            lines += [f"    {line}" for line in _calling_lines(name, code)]
        for mode in dict.fromkeys(code.train for code in self.codes):
            lines += [f"    if _mode is {mode}:", f"        _refuse_inputs(_p, {mode}, locals())"]
        lines += ["    _refuse_mode(_p, _mode)", ""]
        imports = dict.fromkeys(line for code in self.codes for line in code.imports if line != "import funcnet as fn")
        return run_text("\n".join([*imports, *lines]), f"{self.title()} body", namespace)["body"]

    def _mode_names(self) -> str:
        return " and ".join(dict.fromkeys("training" if code.train else "eval" for code in self.codes))

    def _refuse_mode(self, p: View, train: bool | None) -> None:
        called = {True: "in training mode", False: "in eval mode"}.get(train, "with some parts in training mode only")  # type: ignore[arg-type]
        way = "Trace it with train='both'" if train is not None else "A trace has one mode for all of its parts"
        raise ConversionError(
            f"{describe_view(p)} was traced in {self._mode_names()} mode and is called {called}. {way}, "
            f"or use funcnet.from_module(module)."
        )

    def _refuse_inputs(self, p: View, train: bool, arguments: Namespace) -> None:
        namespace = {**self.forward.__globals__, **arguments, "params": p._params}
        codes = [code for code in self.codes if code.train == train]
        misfits = [[check for check in code.checks if not _holds(check, namespace)] for code in codes]
        lines = [
            f"{check.expression}: expected {check.expected}, got {_describe_value_at(check.expression, namespace)}"
            for check in min(misfits, key=len)
        ]
        raise ShapeError(
            f"{describe_view(p)} was traced for other inputs:{bullet_list(lines)}\n"
            f"Trace it again with inputs like these (dynamic= keeps more sizes free), or use from_module(module)."
        )

    def _refuse_call(self, p: View, error: AssertionError) -> None:
        condition = linecache.getline(*_innermost_line(error)).strip().removeprefix("assert ")
        raise ConversionError(
            f"{describe_view(p)} was traced where something held that does not hold in this call: {condition}\n"
            f"Trace it again in such circumstances, or use from_module(module)."
        ) from error

    def _equality_key(self) -> tuple[Any, ...]:
        # the code, and the tensors it is for; the module inside the net is equal only to itself
        return (self.codes, self.title(), tuple(self._all_entries.items()), self._edits.aliases)


def _calling_lines(name: str, code: ModeCode) -> list[str]:
    """The lines that call a captured function, if the mode and the inputs are those it was captured for."""
    # buffers that are written to in place on copies: vmap allows that only if they are batched as what is written
    buffers = "_buffers" if code.copied_buffers else "_p._buffers"
    arguments = ["_p._params", *([buffers] if code.takes_buffers else []), *code.arguments]
    call = f"{name}({', '.join([*arguments, *(['rng=_partial(_draw_source, _p)'] if code.drawing_paths else [])])})"
    lines = [f"return {call}"]
    if code.new_buffers:
        lines = [
            f"_output, _new = {call}",
            f"_record_buffers(_p, {_split_paths(code.new_buffers)}, _new)",
            "return _output",
        ]
    if code.copied_buffers:
        inputs = " ".join(f"{argument}," for argument in code.arguments)
        lines = [
            "_buffers = _p._buffers",
            "if _may_be_batched():",
            f"    _buffers = _batch_buffers(_p, {_split_paths(code.copied_buffers)}, ({inputs}))",
            *lines,
        ]
    if (
        code.calls_attention_kernel
    ):  # torch's kernels of attention have no rules for transforms, funcnet's own form passes all
        lines = [
            "if _beyond_one_gradient():",
            "    with _Interceptor(_partial(_draw_source, _p)):",
            *(f"        {line}" for line in lines),
            *lines,
        ]
    if code.conditions:
        lines = [
            "try:",
            *(f"    {line}" for line in lines),
            "except AssertionError as _error:",
            "    _refuse_call(_p, _error)",
        ]
    conditions = " and ".join([f"_mode is {code.train}", *(check.condition for check in code.checks)])
    return [f"if {conditions}:", *(f"    {line}" for line in lines)]


def _innermost_line(error: BaseException) -> tuple[str, int]:
    """The file and line in which an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback is not None
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno


def _split_paths(paths: Sequence[str]) -> Paths:
    return tuple(tuple(path.split(".")) for path in paths)


def run_text(text: str, name: str, namespace: Namespace) -> Namespace:
    """The names that a text defines; its lines show in tracebacks."""
    file = f"<funcnet.trace: {name} {blake2b(text.encode(), digest_size=4).hexdigest()}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), namespace)
    return namespace


def batch_buffers(p: View, paths: Paths, inputs: object) -> Tree:
    """The buffers of a call, with those at some paths batched as its params and inputs are."""
    tree = map_tree(lambda leaf: leaf, p._buffers)
    zeros = [leaf.new_zeros(()) for leaf in iter_tensors((p._params, inputs))]
    for path in paths:
        node = get(tree, ".".join(path[:-1]))
        for zero in zeros:
            node[path[-1]] = node[path[-1]] + zero.to(node[path[-1]].dtype)
    return tree


def may_be_batched() -> bool:
    """Whether tensors of a call may be batches of a vmap; in compiled code this is unknown: True."""
    return under_vmap() or torch.compiler.is_compiling()


class _NotGiven:
    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = _NotGiven()
"""Stands for a default that cannot be written as a constant."""


def mode_of(p: View, paths: Sequence[str]) -> bool | None:
    """The mode of a view and of everything below it; None where parts are in different modes."""
    up: Any = p._up
    while type(up) is not Call:
        up = up._up
    if isinstance(up.train, bool):
        return up.train
    flags = {bool(up.train(join(call_and_path(p)[1], path))) for path in paths}
    return flags.pop() if len(flags) == 1 else None


def record_buffers(p: View, paths: Paths, new_buffers: Mapping[str, Any]) -> None:
    """Put new buffers in the call's own tree."""
    call, _ = call_and_path(p)
    if call.closed:
        return
    for path in paths:
        node, value = p._buffers, new_buffers
        for key in path[:-1]:
            node, value = node[key], value[key]
        node[path[-1]] = value[path[-1]]


def _holds(check: Check, namespace: Namespace) -> bool:
    try:
        return bool(eval(check.condition, namespace))
    except (AttributeError, KeyError, IndexError, TypeError):
        return False


def _describe_value_at(expression: str, namespace: Namespace) -> str:
    try:
        return describe_input(eval(expression, namespace))
    except (AttributeError, KeyError, IndexError, TypeError, NameError):
        return "nothing"
