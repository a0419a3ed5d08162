"""One run of torch's tracer over a forward, and everything it says about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from funcnet._context import outside_transforms, torch_silenced
from funcnet._errors import ConversionError
from funcnet._tensors import is_inexact
from funcnet._torch import keep_size_free
from funcnet._torch_tracer import (
    TRANSFORM_STARTS,
    CodeLine,
    assume,
    capture_settings,
    contain_transforms,
    note_assumptions,
    size_expression,
    tracer_shape_env,
    tracer_source_name,
)
from funcnet.foreign.internals import copy_with_tensors
from funcnet.program._code_lines import (
    FROM_MODULE,
    Frame,
    UntraceableError,
    describe_frame,
    innermost_frame,
    is_library_file,
    read_frames,
    untraceable_error,
)
from funcnet.program._inplace_writes import InplaceWriteFinder
from funcnet.program._inputs import Inputs
from funcnet.program._known_numbers import known_number
from funcnet.random.internals import preserve_torch_state


class GraphInput(NamedTuple):
    """What a placeholder of the graph stands for: ``kind`` is "params", "buffers", "input", "size" or "unknown".

    ``name`` is the path of a param or buffer, the number of an input, or what the tracer calls anything else.
    """

    kind: str
    name: Any


class SizeGuard(NamedTuple):
    """A condition on sizes that the capture relied on, its line, and whether the module's own code asked for it."""

    condition: Any  # a sympy expression
    where: str
    asked_by_module: bool


@dataclass
class Captured:
    """A forward as a graph, with its surroundings. In results, fake tensors take the places of tensors."""

    graph: Graph = field(default_factory=Graph)
    meta: dict[Node, dict[str, Any]] = field(default_factory=dict)  # what the tracer knows of each node
    inputs: dict[Node, GraphInput] = field(default_factory=dict)  # what each placeholder stands for
    input_sizes: list[tuple[Any, ...]] = field(default_factory=list)  # of each tensor input, as ints and symbols
    guards: list[SizeGuard] = field(default_factory=list)  # the conditions that the capture relied on
    symbols: dict[Node, Any] = field(default_factory=dict)  # of placeholders that are sizes
    pinned: list[str] = field(default_factory=list)  # lines that made a free size a constant
    writes: InplaceWriteFinder | None = None
    input_of_object: dict[int, GraphInput] = field(default_factory=dict)  # by the id of a tensor
    outputs: dict[int, Any] = field(default_factory=dict)  # id of a fake tensor -> the value of the graph
    result: Any = None  # what the forward returned
    reassigned: dict[str, Any] = field(default_factory=dict)  # the buffers that the forward replaced
    # id of a module as text -> its path and the name of its class
    modules: dict[str, tuple[str, str]] = field(default_factory=dict)
    keep_alive: list[Any] = field(default_factory=list)  # objects whose ids are used above
    failure: Exception | None = None  # an error in reading what the tracer said

    def example(self, node: Node) -> Any:
        """The fake tensor, or other value without numbers, that the tracer has for a node."""
        return self.meta.get(node, {}).get("example_value")

    def stack_trace(self, node: Node) -> str:
        """The lines of code that a node comes from, outermost first, as a traceback prints them."""
        return self.meta.get(node, {}).get("stack_trace") or ""

    def module_calls(self, node: Node) -> list[tuple[str, str, str]]:
        """The calls of modules that were running at a node, outermost first: key of the call, path, name of class."""
        stack = self.meta[node].get("nn_module_stack") or {}
        known = [(str(key), self.modules.get(str(key).split("@")[0])) for key in stack]
        return [(key, *module) for key, module in known if module is not None]

    def path_of(self, node: Node) -> str:
        """The path of the module whose forward a node comes from."""
        calls = self.module_calls(node)
        return calls[-1][1] if calls else ""

    def find_axis(self, symbol: object) -> tuple[int, int] | None:
        """The tensor input and the axis whose size a symbol is."""
        for index, sizes in enumerate(self.input_sizes):
            for axis, size in enumerate(sizes):
                if not isinstance(size, int) and size == symbol:
                    return index, axis
        return None

    def where(self, node: Node) -> str:
        """File, line and code that a node comes from."""
        return describe_frame(self._frames(node))

    def short_where(self, node: Node) -> str:
        """Name of the file, and line, that a node comes from."""
        frame = innermost_frame(self._frames(node))
        return "an unknown line" if frame is None else f"{Path(frame[0]).name}:{frame[1]}"

    def _frames(self, node: Node) -> list[Frame]:
        return read_frames(self.stack_trace(node))

    def where_of_transform(self, node: Node) -> str | None:
        """File, line and code at which the outermost transform is applied that a node is in; None if it is unknown."""
        frames = self._frames(node)
        inside = next((index for index, frame in enumerate(frames) if "_functorch" in frame[0]), None)
        return describe_frame(frames[:inside]) if inside else None


_LOCK = threading.RLock()
_active: list[Captured] = []


def iter_captures(module: nn.Module, train: bool, inputs: Inputs, free: Sequence[Sequence[int]]) -> Iterator[Captured]:
    """The ways to trace the forward of a module on a private copy of it, best first: the first that is exact is taken.

    Nothing is computed and nobody's tensors are written to. Code that asks whether it is being compiled is told that it
    is not, except where it cannot be traced so. ``free`` has for each tensor of ``inputs`` the axes whose size stays
    free.

    Raises:
        ConversionError: if torch cannot trace it; names the line.
    """
    like_outside = _capture_like_outside(module, train, inputs, free, assumes_inputs=False)
    if like_outside is not None:
        yield like_outside
        # if that is not exact, it may have branched on numbers in the inputs
        assuming = _capture_like_outside(module, train, inputs, free, assumes_inputs=True)
        if assuming is not None:
            yield assuming
    try:
        yield _capture(module, train, inputs, free, told_compiling=None)
    except ConversionError as error:
        if like_outside is not None:
            return
        # what its first call sets up, such as hooks, may be there already in its second
        try:
            captured = _capture(module, train, inputs, free, told_compiling=None, is_called_before=True)
        except Exception:
            raise error from error.__cause__
        yield captured


def _capture_like_outside(
    module: nn.Module, train: bool, inputs: Inputs, free: Sequence[Sequence[int]], assumes_inputs: bool
) -> Captured | None:
    """A forward as it is outside of the compiler, but for functions that cannot be traced so; None if it cannot be."""
    told_compiling: set[CodeLine] = set()
    stopped_at: CodeLine | None = None
    while stopped_at not in told_compiling:
        if stopped_at is not None:
            told_compiling.add(stopped_at)
        captured, stopped_at = _try_capture(module, train, inputs, free, told_compiling, assumes_inputs)
        if captured is not None or stopped_at is None:
            return captured
    return None


def _try_capture(
    module: nn.Module,
    train: bool,
    inputs: Inputs,
    free: Sequence[Sequence[int]],
    told_compiling: AbstractSet[CodeLine],
    assumes_inputs: bool,
) -> tuple[Captured | None, CodeLine | None]:
    """A capture, or the function in which it stopped, if that is known."""
    try:
        return _capture(module, train, inputs, free, told_compiling, assumes_inputs=assumes_inputs), None
    except UntraceableError as error:
        return None, error.stopped_at
    except ConversionError:
        return None, None


def _capture(
    module: nn.Module,
    train: bool,
    inputs: Inputs,
    free: Sequence[Sequence[int]],
    told_compiling: AbstractSet[CodeLine] | None,
    is_called_before: bool = False,
    assumes_inputs: bool = False,
) -> Captured:
    """One run of the tracer; ``told_compiling`` names the functions that are told that they are being compiled."""
    # the copy has the same memory: tracing never computes, so nothing is written to it, unless it is called
    tensor_for = torch.clone if is_called_before else torch.Tensor.detach
    copy = require_gradients(copy_with_tensors(module, tensor_for, "trace runs a forward on a private copy"))
    for submodule in copy.modules():
        submodule.training = train
    values = [tensor.value for tensor in inputs.tensors]
    examples = [value.detach().clone().requires_grad_(value.requires_grad) for value in values]
    for example, axes in zip(examples, free, strict=True):
        for axis in axes:
            keep_size_free(example, axis)
    buffers = dict(copy.named_buffers())
    namespace: dict[str, Any] = dict(inputs.vocabulary.objects)
    names = ", ".join(["module", *(f"t{index}" for index in range(len(examples)))])
    lines = [*inputs.vocabulary.imports, f"def call({names}):", f"    return module({inputs.call})", ""]
    # a code object of its own, so that what torch compiled for it goes when it goes, and counts for no other trace
    exec(compile("\n".join(lines), "<funcnet.trace>", "exec"), namespace)
    if is_called_before:
        with preserve_torch_state(), torch.no_grad():
            namespace["call"](copy, *(example.clone() for example in examples))
    captured = _surroundings(copy, examples)
    with (
        _LOCK,
        torch_silenced(),
        outside_transforms(),
        contain_transforms(),
        torch.enable_grad(),
        capture_settings(told_compiling),
        note_assumptions(is_library_file, partial(known_number, assumes_inputs=assumes_inputs)),
    ):
        _active.append(captured)
        try:
            captured.result = torch.compile(namespace["call"], backend=_take_graph, fullgraph=True)(copy, *examples)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise untraceable_error(module, error) from error
        finally:
            _active.pop()
    if captured.failure is not None:
        raise captured.failure
    now = dict(copy.named_buffers())
    captured.reassigned = {name: now[name] for name in buffers if name in now and now[name] is not buffers[name]}
    _refuse_constant_sizes(captured, inputs, free)
    return captured


def _surroundings(copy: nn.Module, examples: list[Tensor]) -> Captured:
    """What is known before there is a graph: which tensor is whose, and where modules are."""
    captured = Captured(keep_alive=[copy, *examples])
    for kind, tensors in (("params", copy.named_parameters()), ("buffers", copy.named_buffers())):
        captured.input_of_object |= {id(tensor): GraphInput(kind, name) for name, tensor in tensors}
    captured.input_of_object |= {id(example): GraphInput("input", index) for index, example in enumerate(examples)}
    captured.modules = {str(id(module)): (path, type(module).__name__) for path, module in copy.named_modules()}
    return captured


def require_gradients(module: nn.Module) -> nn.Module:
    """The module with gradients of all parameters that can have one: which kernels run may depend on it."""
    for param in module.parameters():
        param.requires_grad_(is_inexact(param))
    return module


def _take_graph(module: GraphModule, _: Sequence[Tensor]) -> Callable[..., list[Any]]:
    """The backend of the compiler: it keeps the graph, and returns fake tensors where the graph would be run."""
    captured = _active[-1]
    try:
        _read_graph(captured, module)
    except Exception as error:  # raised again once the tracer is done, which would wrap it in one of its own
        captured.failure = error
    results = list(next(node for node in module.graph.nodes if node.op == "output").args[0])

    def return_stand_ins(*args: Any) -> list[Any]:
        for node, arg in zip(captured.inputs, args, strict=True):
            known = captured.input_of_object.get(id(arg), captured.inputs[node])
            captured.inputs[node] = known if isinstance(arg, Tensor) else GraphInput("size", None)
        stand_ins = [_stand_in(captured, result) for result in results]
        captured.keep_alive.append(stand_ins)
        captured.outputs = {id(stand_in): result for stand_in, result in zip(stand_ins, results, strict=True)}
        return stand_ins

    return return_stand_ins


class _DistinctInt(int):
    """An int that is told apart from others of its value."""


def _stand_in(captured: Captured, result: object) -> Tensor | int:
    fake = captured.example(result) if isinstance(result, Node) else None
    if isinstance(fake, Tensor):
        return torch.empty(0, dtype=fake.dtype, device="meta")
    return _DistinctInt(0)


def _read_graph(captured: Captured, module: GraphModule) -> None:
    """Read what the tracer knows now and forgets when it is done."""
    captured.graph = module.graph
    captured.meta = {node: dict(node.meta) for node in module.graph.nodes}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            source = getattr(node.meta.get("grapharg"), "source", None)
            if isinstance(value := node.meta.get("example_value"), torch.SymInt):
                captured.symbols[node] = size_expression(value)
            name = tracer_source_name(source) if source is not None else node.name
            captured.inputs[node] = GraphInput("unknown", name)
    _read_sizes(captured)
    refused = next((node for node in module.graph.nodes if node.op in ("get_attr", "call_module")), None)
    if refused is not None:
        raise ConversionError(
            f"trace cannot write down {captured.where(refused)}: it holds a function or tensor of its own "
            f"({refused.target}), as torch.utils.checkpoint, torch.cond and autograd.Function do. {FROM_MODULE}"
        )
    nodes = list(module.graph.nodes)
    for index, node in enumerate(nodes):
        transform = TRANSFORM_STARTS.get(getattr(node.target, "__name__", ""))
        if transform is not None:
            where = next(filter(None, map(captured.where_of_transform, nodes[index:])), "an unknown line")
            raise ConversionError(
                f"trace cannot write down {where}: there {transform} is applied inside of the forward, and trace "
                f"writes one statement for each operation, which a transform is not. Apply it to the net instead, as "
                f"in torch.vmap(net); or {FROM_MODULE}"
            )
    for node in nodes:
        if node.target is assume and node.args[0] is None:
            # what the forward set itself is so in every call
            _, question, args, answer = node.args
            if getattr(torch, str(question))(*args) != answer:
                module.graph.erase_node(node)
    fakes = {node: meta["example_value"] for node, meta in captured.meta.items() if "example_value" in meta}
    captured.writes = InplaceWriteFinder(module, fakes)


def _read_sizes(captured: Captured) -> None:
    """Read the sizes of the tensor inputs, and what the tracer asked of them."""
    shapes = tracer_shape_env()
    fakes = {tracer_source_name(tracked.source): tracked.fake for tracked in shapes.tracked_fakes}
    count = len([graph_input for graph_input in captured.input_of_object.values() if graph_input.kind == "input"])
    for index in range(count):
        fake = fakes.get(f"L['t{index}']")
        captured.input_sizes.append(() if fake is None else tuple(size_expression(size) for size in fake.shape))
    for guard in shapes.guards:
        where = str(guard.sloc.maybe_user_loc or "")
        if any(getattr(shapes.replacements.get(symbol), "is_number", False) for symbol in guard.expr.free_symbols):
            captured.pinned.append(where)
        condition = shapes.simplify(guard.expr.xreplace(shapes.replacements))
        if condition != True:  # noqa: E712 - a sympy expression, never identical to True
            # where torch's tracer asked: for the code it follows, or for an operation
            frame = guard.sloc.framework_loc
            follows = "_dynamo" in getattr(frame, "filename", str(frame)) and getattr(frame, "name", "") != "run_node"
            captured.guards.append(SizeGuard(condition, where, follows))


def _refuse_constant_sizes(captured: Captured, inputs: Inputs, free: Sequence[Sequence[int]]) -> None:
    """Refuse a size that should stay free but that the forward fixes."""
    batches = [tensor.value.shape[0] for tensor, axes in zip(inputs.tensors, free, strict=True) if 0 in axes]
    for tensor, axes, sizes in zip(inputs.tensors, free, captured.input_sizes, strict=False):
        for axis in axes:
            if sizes and isinstance(sizes[axis], int) and tensor.value.shape[axis] == batches[0]:
                where = next(iter(captured.pinned), "")
                raise ConversionError(
                    f"axis {axis} of {tensor.text} cannot stay free: the forward needs its size to be {sizes[axis]}"
                    f"{f', as at {where}' if where else ''}. Pass dynamic=() to keep every size, or {FROM_MODULE}"
                )
