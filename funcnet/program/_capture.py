"""One run of torch's tracer over a forward, and everything it says about it."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from funcnet._context import outside_transforms
from funcnet._errors import ConversionError
from funcnet._torch import capture_settings, keep_size_free, tracer_shape_env
from funcnet.foreign.internals import copy_with_tensors
from funcnet.program._trace_inputs import Inputs
from funcnet.program._writes import Writes

FROM_MODULE = "funcnet.from_module(module) runs any forward as it is."


class Place(NamedTuple):
    """What a placeholder of the graph stands for: a param or buffer by its path, or an input by its number."""

    kind: str  # "params", "buffers" or "input"
    name: Any


class Guard(NamedTuple):
    """A condition on sizes that the capture relied on, where, and whether the module's own Python code asked for it."""

    condition: Any
    where: str
    asked: bool


@dataclass
class Captured:
    """A forward as a graph, with its surroundings.

    ``result`` is what it returned, and ``reassigned`` the buffers it replaced, with stand-ins for tensors: ``outputs``
    says which value of the graph a stand-in is, ``places`` whose tensor an object is (both by id).
    """

    graph: Graph = field(default_factory=Graph)
    meta: dict[Node, dict[str, Any]] = field(default_factory=dict)
    held: dict[Node, Place] = field(default_factory=dict)
    sizes: list[tuple[Any, ...]] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    symbols: dict[Node, Any] = field(default_factory=dict)  # of placeholders that are sizes
    pinned: list[str] = field(default_factory=list)  # lines that made a free size a constant
    writes: Writes | None = None
    places: dict[int, Place] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)
    result: Any = None
    reassigned: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)  # objects whose ids are used above
    failure: Exception | None = None

    def path_of(self, node: Node) -> tuple[str, str]:
        """The path of the module whose forward a node comes from, and the name of its class."""
        stack = self.meta[node].get("nn_module_stack") or {}
        for key in reversed(stack):
            if (found := self.modules.get(str(key).split("@")[0])) is not None:
                return found
        return "", ""

    def axis_of(self, symbol: Any) -> tuple[int, int] | None:
        """The tensor input and the axis whose size a symbol is."""
        for index, sizes in enumerate(self.sizes):
            for axis, size in enumerate(sizes):
                if not isinstance(size, int) and size == symbol:
                    return index, axis
        return None

    def where(self, node: Node) -> str:
        """File, line and code that a node comes from."""
        frames = re.findall(_FRAME, self.meta[node].get("stack_trace") or "")
        return _where([(file, int(line), code) for file, line, code in frames])


_FRAME = r'File "(.+)", line (\d+), in .+(?:\n\s+(?!File )(\S.*))?'
_LOCK = threading.RLock()
_active: list[Captured] = []


def capture(module: nn.Module, train: bool, inputs: Inputs, free: Sequence[Sequence[int]]) -> Captured:
    """Trace the forward of a module on a private copy of it; nothing is computed and nobody's tensors are written to.

    Code that asks whether it is being compiled is told that it is not; only if it cannot be traced so, that it is.

    Args:
        module: the module.
        train: the mode to trace it in.
        inputs: its example inputs.
        free: for each tensor of ``inputs``, the axes whose size stays free.

    Raises:
        ConversionError: if torch cannot trace it; names the line.
    """
    try:
        return _capture(module, train, inputs, free, eager=True)
    except ConversionError:
        return _capture(module, train, inputs, free, eager=False)


def _capture(module: nn.Module, train: bool, inputs: Inputs, free: Sequence[Sequence[int]], eager: bool) -> Captured:
    # of the same memory: tracing never computes, so nothing is written to it
    copy = differentiable(copy_with_tensors(module, torch.Tensor.detach, "trace runs a forward on a private copy"))
    for below in copy.modules():
        below.training = train
    examples = [_example(tensor.value) for tensor in inputs.tensors]
    for example, axes in zip(examples, free, strict=True):
        for axis in axes:
            keep_size_free(example, axis)
    found = _surroundings(copy, examples)
    before = dict(copy.named_buffers())
    space: dict[str, Any] = dict(inputs.words.objects)
    names = ", ".join(["module", *(f"t{index}" for index in range(len(examples)))])
    lines = [*inputs.words.imports, f"def call({names}):", f"    return module({inputs.call})", ""]
    # a code object of its own, so that what torch compiled for it goes when it goes, and counts for no other trace
    exec(compile("\n".join(lines), "<funcnet.trace>", "exec"), space)
    with _LOCK, _quiet(), outside_transforms(), torch.enable_grad(), capture_settings(eager):
        _active.append(found)
        try:
            found.result = torch.compile(space["call"], backend=_take, fullgraph=True)(copy, *examples)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise _refusal(module, error) from error
        finally:
            _active.pop()
    if found.failure is not None:
        raise found.failure
    after = dict(copy.named_buffers())
    found.reassigned = {name: after[name] for name in before if name in after and after[name] is not before[name]}
    return found


def _surroundings(copy: nn.Module, examples: list[Tensor]) -> Captured:
    """What is known before a graph is: whose tensor is which, and where modules are."""
    held = [("params", copy.named_parameters()), ("buffers", copy.named_buffers())]
    found = Captured(kept=[copy, *examples])
    found.places = {id(tensor): Place(kind, name) for kind, named in held for name, tensor in named}
    found.places |= {id(example): Place("input", index) for index, example in enumerate(examples)}
    found.modules = {str(id(below)): (path, type(below).__name__) for path, below in copy.named_modules()}
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch's tracer warns of and logs in this thread: what matters of it is raised."""
    me = threading.get_ident()
    handlers = logging.getLogger("torch").handlers

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != me

    for handler in handlers:
        handler.addFilter(elsewhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(elsewhere)


def differentiable(module: nn.Module) -> nn.Module:
    """The module with gradients of all parameters that can have one: which kernels run may depend on it."""
    for param in module.parameters():
        param.requires_grad_(param.is_floating_point() or param.is_complex())
    return module


def _example(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _take(module: GraphModule, _: Any) -> Any:
    """The compiler's end: keeps the graph and returns stand-ins where the graph would be run."""
    found = _active[-1]
    try:
        _read(found, module)
    except Exception as error:  # raised again once the tracer is done, which would wrap it in one of its own
        found.failure = error
    results = list(next(node for node in module.graph.nodes if node.op == "output").args[0])

    def stand_ins(*args: Any) -> list[Any]:
        for node, arg in zip(found.held, args, strict=True):
            found.held[node] = found.places.get(id(arg), found.held[node]) if isinstance(arg, Tensor) else _SIZE
        made = [_stand_in(found, result) for result in results]
        found.kept.append(made)
        found.outputs = {id(one): result for one, result in zip(made, results, strict=True)}
        return made

    return stand_ins


_SIZE = Place("size", None)


class _Number(int):
    """An int that is told apart from others of its value."""


def _stand_in(found: Captured, result: Any) -> Any:
    fake = found.meta[result].get("example_value") if isinstance(result, Node) else None
    if isinstance(fake, Tensor):
        return torch.empty(0, dtype=fake.dtype, device="meta")
    return _Number(0)


def _read(found: Captured, module: GraphModule) -> None:
    """What the tracer knows now and forgets when it is done."""
    found.graph = module.graph
    found.meta = {node: dict(node.meta) for node in module.graph.nodes}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            source = getattr(node.meta.get("grapharg"), "source", None)
            if isinstance(value := node.meta.get("example_value"), torch.SymInt):
                found.symbols[node] = _size(value)
            found.held[node] = Place("unknown", _name_of(source) if source is not None else node.name)
    shapes = tracer_shape_env()
    known = {_name_of(tracked.source): tracked.fake for tracked in shapes.tracked_fakes}
    tensors = len([place for place in found.places.values() if place.kind == "input"])
    for index in range(tensors):
        fake = known.get(f"L['t{index}']")
        found.sizes.append(() if fake is None else tuple(_size(size) for size in fake.shape))
    for guard in shapes.guards:
        if any(getattr(shapes.replacements.get(symbol), "is_number", False) for symbol in guard.expr.free_symbols):
            found.pinned.append(str(guard.sloc.maybe_user_loc or ""))
        condition = shapes.simplify(guard.expr.xreplace(shapes.replacements))
        if condition != True:  # noqa: E712 - a sympy expression, never identical to True
            frame = guard.sloc.framework_loc  # where torch's tracer asked: for the code it follows, or for an operation
            asked = "_dynamo" in getattr(frame, "filename", str(frame)) and getattr(frame, "name", "") != "run_node"
            found.guards.append(Guard(condition, str(guard.sloc.maybe_user_loc or ""), asked))
    refused = next((node for node in module.graph.nodes if node.op in ("get_attr", "call_module")), None)
    if refused is not None:
        raise ConversionError(
            f"trace cannot write down {found.where(refused)}: it holds a function or tensor of its own "
            f"({refused.target}), as torch.utils.checkpoint, torch.cond and autograd.Function do. {FROM_MODULE}"
        )
    fakes = {node: meta["example_value"] for node, meta in found.meta.items() if "example_value" in meta}
    found.writes = Writes(module, fakes)


def _size(size: Any) -> Any:
    """A size as an int, or as an expression of free sizes."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else size.node.expr


def _name_of(source: Any) -> str:
    name = source.name
    return name() if callable(name) else name


# --- errors ---


def _refusal(module: nn.Module, error: Exception) -> ConversionError:
    frames = [
        (frame.filename, frame.lineno or 0, frame.line or "") for frame in getattr(error, "real_stack", None) or ()
    ]
    text = str(error)
    if not frames:
        code = text.rpartition("from user code:")[2]
        frames = [(file, int(line), "") for file, line in re.findall(r'File "([^"<]+)", line (\d+)', code)]
    if not frames:
        frames = [
            (frame.filename, frame.lineno or 0, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
        ]
        frames = [frame for frame in frames if not _torchs_own(frame[0])] or frames
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if "data-dependent" in reason.lower():
        reason = "what it does depends on numbers in a tensor"
    explanation = next((line.partition(":")[2].strip() for line in lines if line.startswith("Explanation:")), "")
    sentences = [f"{text.rstrip('.')}." for text in (reason, explanation) if text]
    return ConversionError(
        f"cannot capture {type(module).__name__}: torch's tracer stopped at {_where(frames)}: {' '.join(sentences)} "
        f"Write that line without it, or keep the model as it is: {FROM_MODULE}"
    )


def _where(frames: Sequence[tuple[str, int, str]]) -> str:
    """The innermost frame that is not torch's own, or the innermost: file, line and code."""
    frames = [frame for frame in frames if not frame[0].startswith("<")]
    if not frames:
        return "an unknown line"
    own = [frame for frame in frames if not _torchs_own(frame[0])]
    file, line, code = (own or list(frames))[-1]
    return f"{file}:{line}" + (f" (`{code.strip()}`)" if code.strip() else "")


def _torchs_own(file: str) -> bool:
    return Path(file).is_relative_to(_TORCH) or Path(file).is_relative_to(_FUNCNET)


_TORCH = Path(torch.__file__).parent
_FUNCNET = Path(__file__).parents[1]
