"""A captured graph as statements, one for each operation."""

from __future__ import annotations

import builtins
import keyword
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from funcnet._errors import ConversionError
from funcnet.adapters._tracing._capture import FROM_MODULE, Captured, Place
from funcnet.adapters._tracing._inputs import OWN_NAMES, Inputs
from funcnet.adapters._tracing._words import IN_PLACE, INFIX, PREFIX, UnspeakableError, Words
from funcnet.random import DRAWING, draws_when_called

_SKIPPED = frozenset({torch._C._log_api_usage_once})
_PURE_METHODS = frozenset({"size", "dim", "new_ones", "new_zeros", "new_empty"})
_PURE = frozenset({*INFIX, *PREFIX, operator.getitem, getattr, torch.arange, torch.zeros, torch.ones, torch.empty})
_INACTIVE = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout})
_FOREIGN = ("torch._functorch", "torch._C._functorch", "torch._dynamo", "torch._higher_order_ops")
_TAKEN = frozenset({*keyword.kwlist, *dir(builtins), *OWN_NAMES}) - {"input"}


@dataclass
class Emitted:
    """The statements of a function, what it returns and which buffers it replaces, by path.

    ``draws`` are the paths of modules that draw, ``copied`` those of buffers that are written in place on a copy.
    """

    lines: list[str] = field(default_factory=list)
    returned: str = "None"
    new: dict[str, str] = field(default_factory=dict)
    draws: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()


def emitted(captured: Captured, inputs: Inputs, words: Words) -> Emitted:
    """The statements for a captured graph.

    Raises:
        ConversionError: if something in it cannot be written down; names the line.
    """
    # twice: names that the text imports, and inputs that are returned as they are, are known after the first time
    first = _Emitter(captured, inputs, words, set(), set())
    first.run()
    return _Emitter(captured, inputs, words, words.roots, first.returned_places).run()


class _Emitter:
    def __init__(self, captured: Captured, inputs: Inputs, words: Words, roots: set[str], returned: set[Place]) -> None:
        self.captured, self.inputs, self.words = captured, inputs, words
        self.nodes: list[Node] = list(captured.graph.nodes)
        self.taken = _TAKEN | roots | set(map(inputs.inside, inputs.arguments))
        self.names: dict[Node, str] = {}
        self.until: dict[str, float] = {}
        self.own: dict[Place, str] = {}  # what a placeholder is called since it became a value of this function
        self.lines: list[str] = []
        self.blocks: list[tuple[str, bool]] = []  # (opened by, whether gradients were on before)
        self.gradients = True
        self.path = self.said = ("", "")
        self.draws: dict[str, None] = {}
        self.copied: dict[str, None] = {}
        self.returned_places: set[Place] = set()
        order = {node: index for index, node in enumerate(self.nodes)}
        self.last = {node: max((order[user] for user in node.users), default=order[node]) for node in self.nodes}
        self.at = 0
        for index, tensor in enumerate(inputs.tensors):
            if tensor.simple:
                place = Place("input", index)
                held = [node for node, where in captured.held.items() if where == place]
                kept = place in returned or tensor.place in _TAKEN | roots
                self.until[inputs.inside(tensor.place)] = (
                    math.inf if kept else max((self.last[node] for node in held), default=0)
                )

    def run(self) -> Emitted:
        self._sizes()
        for at, node in enumerate(self.nodes):
            self.at = at
            if node.op in ("call_function", "call_method") and not self._is_dead(node):
                self._statement(node)
        if self.blocks:
            raise self._refused(self.nodes[-1], "it leaves a context open")
        result = self._result(self.captured.result, "the output")
        new = {
            place.name: name for place, name in self.own.items() if place.kind == "buffers" and self._is_written(place)
        }
        for path, value in self.captured.reassigned.items():
            new[path] = self._result(value, f"buffer {path!r}")
        return Emitted(self.lines, result, new, tuple(self.draws), tuple(self.copied))

    # --- names ---

    def _name(self, node: Node) -> str:
        """What a node is called where it is used."""
        if node in self.names:
            return self.names[node]
        place = self.captured.held.get(node)
        if place is None:
            raise self._refused(node, f"the tracer kept a {node.op} of its own")
        return self._place(place, node)

    def _place(self, place: Place, node: Node | None = None) -> str:
        if place in self.own:
            return self.own[place]
        if place.kind == "input":
            return self.inputs.inside(self.inputs.tensors[place.name].place)
        if place.kind in ("params", "buffers"):
            return place.kind + "".join(f'["{key}"]' for key in place.name.split("."))
        name = re.sub(r"\._(modules|parameters|buffers)\['(\w+)'\]", r".\2", str(place.name))
        name = re.sub(r"^L\['module'\]\.", "", name)
        raise ConversionError(
            f"the forward uses {name}, which is neither a parameter nor a buffer nor an input. Give it to the module "
            f"by register_buffer(name, tensor, persistent=False), which changes no state_dict; or: {FROM_MODULE}"
        )

    def _new_name(self, base: str, until: float) -> str:
        """A name that no living value has: the base itself wherever possible, so that the code reads as written."""
        base = re.sub(r"(_\d+)+$", "", base).strip("_") or "value"
        name, count = base, 0
        while (name in self.taken and name not in self.until) or self.until.get(name, -1) > self.at:
            count += 1
            name = f"{base}_{count}"
        self.until[name] = until
        return name

    def _share(self, node: Node, name: str) -> None:
        self.names[node] = name
        if name in self.until:
            self.until[name] = max(self.until[name], self.last[node])

    def _expr(self, value: Any) -> str:
        return self.words.value(value, lambda leaf: self._name(leaf) if isinstance(leaf, Node) else None)

    # --- sizes that are free ---

    def _sizes(self) -> None:
        for node in self.nodes:
            if node.op == "placeholder" and self.captured.held[node].kind == "size" and node.users:
                symbol = self.captured.symbols[node]
                if isinstance(symbol, int):
                    self.names[node] = str(symbol)
                    continue
                found = self.captured.axis_of(symbol)
                if found is None:
                    raise self._refused(node, f"it takes {symbol} from outside of its inputs")
                index, axis = found
                place = self.inputs.inside(self.inputs.tensors[index].place)
                base = "batch" if axis == 0 else f"{re.sub(r'[^0-9a-zA-Z]+', '_', place).strip('_')}_size{axis}"
                self.names[node] = self._new_name(base, math.inf)
                self._line(f"{self.names[node]} = {place}.shape[{axis}]")

    # --- statements ---

    def _line(self, text: str) -> None:
        if self.path != self.said and self.path[1]:
            self.said = self.path
            self.lines.append("    " * len(self.blocks) + f"# {self.path[0] or 'the module itself'}: {self.path[1]}")
        self.lines.append("    " * len(self.blocks) + text)

    def _bind(self, node: Node, text: str) -> None:
        if node.users:
            self.names[node] = self._new_name(node.name, self.last[node])
            text = f"{self.names[node]} = {text}"
        self._line(text)

    def _is_dead(self, node: Node) -> bool:
        if node.target in _SKIPPED:
            return True
        pure = node.target in (_PURE if node.op == "call_function" else _PURE_METHODS)
        return pure and not node.users

    def _statement(self, node: Node) -> None:
        if self._is_context(node):
            return
        try:
            self.path = self.captured.path_of(node)
            for place in self._written_by(node):
                self._make_own(place, node)
            if node.op == "call_function":
                self._function(node)
            else:
                self._method(node)
        except UnspeakableError as error:
            raise self._refused(node, f"it is given {error.value!r:.60}") from None

    def _is_context(self, node: Node) -> bool:
        """Whether a node is the start or the end of a ``with`` block, and its line then."""
        if node.target is torch._C._set_grad_enabled:
            wanted = bool(node.args[0])
            if self.blocks and self.blocks[-1] == ("gradients", wanted):
                self._close()
            elif wanted != self.gradients:
                self._line(f"with torch.{'enable_grad' if wanted else 'no_grad'}():")
                self.words.imports["import torch"] = None
                self.blocks.append(("gradients", self.gradients))
            self.gradients = wanted
            return True
        if node.target is torch.amp.autocast_mode._enter_autocast:
            self.words.imports["import torch"] = None
            self._line(f"with torch.amp.autocast({', '.join(self._expr(arg) for arg in node.args)}):")
            self.blocks.append((node.name, self.gradients))
            return True
        if node.target is torch.amp.autocast_mode._exit_autocast:
            if not self.blocks or self.blocks[-1][0] != node.args[0].name:  # type: ignore[union-attr]
                raise self._refused(node, "its contexts overlap")
            self._close()
            return True
        return False

    def _close(self) -> None:
        self.blocks.pop()
        opening = "    " * len(self.blocks) + "with "
        if self.lines[-1].startswith(opening):
            self.lines.pop()

    def _function(self, node: Node) -> None:
        target: Any = node.target
        args = node.args
        home = getattr(target, "__module__", None) or ""
        if home.startswith(_FOREIGN) or isinstance(target, torch._ops.HigherOrderOperator):
            name = getattr(target, "__name__", target)
            raise self._refused(node, f"{name} is no function that code outside of torch calls")
        if target in DRAWING and draws_when_called(target, args, node.kwargs):
            self._drawing(node, target)
        elif target in _INACTIVE:
            self._share(node, self._expr(args[0]))
        elif target in INFIX and len(args) == 2:
            self._bind(node, f"{self._operand(args[0])} {INFIX[target]} {self._operand(args[1])}")
        elif target in PREFIX:
            self._bind(node, f"{PREFIX[target]}{self._operand(args[0])}")
        elif target in IN_PLACE:
            self._in_place_operator(node, target)
        elif target is operator.getitem:
            self._bind(node, f"{self._expr(args[0])}[{self._index(args[1])}]")
        elif target is operator.setitem:
            self._line(f"{self._expr(args[0])}[{self._index(args[1])}] = {self._expr(args[2])}")
            self._share(node, self._expr(args[0]))
        elif target is getattr and len(args) == 2:
            self._bind(node, f"{self._expr(args[0])}.{args[1]}")
        else:
            self._bind(node, f"{self.words.function(target)}({self._arguments(args, node.kwargs)})")

    def _method(self, node: Node) -> None:
        target = str(node.target)
        unbound = getattr(Tensor, target, None)
        if unbound in DRAWING and draws_when_called(unbound, node.args, node.kwargs):
            self._drawing(node, unbound)
            return
        owner, rest = node.args[0], node.args[1:]
        if isinstance(owner, Node) and self._as_value(owner) and target.endswith("_"):
            place = self.captured.held[self._root(owner)]
            symbol = {"add_": "+", "sub_": "-", "mul_": "*"}[target]
            self._replace(node, place, f"{self._expr(owner)} {symbol} {self._operand(rest[0])}")
            return
        self._bind(node, f"{self._operand(owner)}.{target}({self._arguments(rest, node.kwargs)})")

    def _in_place_operator(self, node: Node, target: Any) -> None:
        left, right = node.args
        symbol = INFIX[IN_PLACE[target]]
        if isinstance(left, Node) and self._as_value(left):
            place = self.captured.held[self._root(left)]
            self._replace(node, place, f"{self._expr(left)} {symbol} {self._operand(right)}")
        elif isinstance(left, Node) and isinstance(self.captured.meta[left].get("example_value"), Tensor):
            name = self._expr(left)
            self._line(f"{name} {symbol}= {self._expr(right)}")
            self._share(node, name)
        else:
            self._bind(node, f"{self._operand(left)} {symbol} {self._operand(right)}")

    def _drawing(self, node: Node, target: Any) -> None:
        """A function that draws, given what the call draws from at the path of its module."""
        path = self.captured.path_of(node)[0]
        self.draws[path] = None
        self.words.imports["import funcnet as fn"] = None
        args, kwargs = self._arguments(node.args, node.kwargs), f'rng=rng("{path}")'
        inplace = node.kwargs.get("inplace", node.args[3] if len(node.args) > 3 else False)
        if target is F.dropout and not inplace:
            p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            self._bind(node, f"fn.random.dropout({self._arguments((node.args[0], p), {})}, {kwargs})")
        elif target is F.scaled_dot_product_attention:
            self._bind(node, f"fn.random.scaled_dot_product_attention({args}, {kwargs})")
        else:
            self._bind(node, f"fn.random.drawn({self.words.function(target)}, {args}, {kwargs})")

    # --- in-place writes to what belongs to the caller ---

    def _is_written(self, place: Place) -> bool:
        writes = self.captured.writes
        return writes is not None and any(self.captured.held[node] == place for node in writes.written)

    def _written_by(self, node: Node) -> list[Place]:
        """Placeholders that a node uses and that are written to, there or elsewhere, and are the caller's until now."""
        writes = self.captured.writes
        if writes is None:
            return []
        used = [other for other in node.all_input_nodes if other in writes.written]
        return [self.captured.held[other] for other in used if self.captured.held[other] not in self.own]

    def _make_own(self, place: Place, node: Node) -> None:
        holder = next(other for other, where in self.captured.held.items() if where == place)
        if self._as_value(holder):
            return
        text = f"{self._place(place)}.clone()"
        if place.kind == "buffers":
            self.copied[place.name] = None
        base = place.name.rpartition(".")[2] if place.kind != "input" else self._place(place)
        simple = place.kind == "input" and self.inputs.tensors[place.name].simple
        name = base if simple else self._new_name(re.sub(r"\W+", "_", base), math.inf)
        self._line(f"{name} = {text}")
        self.until[name] = math.inf
        self.own[place] = name

    def _root(self, node: Node) -> Node:
        """The placeholder that a chain of in-place calls started from."""
        while node.op != "placeholder" and node.args and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def _as_value(self, node: Node) -> bool:
        """Whether all writes to a buffer are calls like ``add_`` of the whole of it: they read as new values then."""
        writes, root = self.captured.writes, self._root(node)
        if writes is None or root not in writes.written or self.captured.held[root].kind != "buffers":
            return False
        nodes = writes.written[root]
        return writes.shared[root] <= set(nodes) and all(self._is_whole_call(root, one) for one in nodes)

    def _is_whole_call(self, root: Node, node: Node) -> bool:
        fake = self.captured.meta[root]["example_value"]
        owner, others = (node.args[0] if node.args else None), [*node.args[1:], *node.kwargs.values()]
        chained = isinstance(owner, Node) and (owner is root or owner in self.captured.writes.written[root])  # type: ignore[union-attr]
        known = node.target in (operator.iadd, operator.isub, operator.imul, "add_", "sub_", "mul_")
        numbers = len(others) == 1 and isinstance(others[0], (int, float) if fake.is_floating_point() else int)
        return chained and known and numbers and not node.kwargs

    def _replace(self, node: Node, place: Place, text: str) -> None:
        name = self.own.get(place) or self._new_name(place.name.rpartition(".")[2], math.inf)
        self._line(f"{name} = {text}")
        self.own[place] = name
        self.until[name] = math.inf
        self.names[node] = name
        for other, where in self.captured.held.items():
            if where == place:
                self.names[other] = name

    # --- words ---

    def _operand(self, value: Any) -> str:
        text = self._expr(value)
        return f"({text})" if text.startswith("-") else text

    def _arguments(self, args: Sequence[Any], kwargs: Any) -> str:
        return ", ".join([*map(self._expr, args), *(f"{key}={self._expr(value)}" for key, value in kwargs.items())])

    def _index(self, index: Any) -> str:
        if isinstance(index, tuple) and index:
            return ", ".join(map(self._index, index)) + ("," if len(index) == 1 else "")
        if isinstance(index, slice):
            start, stop, step = (
                "" if part is None else self._expr(part) for part in (index.start, index.stop, index.step)
            )
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return self._expr(index)

    def _result(self, value: Any, what: str) -> str:
        try:
            return self.words.value(value, self._leaf)
        except UnspeakableError as error:
            raise ConversionError(
                f"{what}{error.where} is {error.value!r:.60}, of {type(error.value).__name__}: trace knows tensors, "
                f"constants, tuples, lists, dicts, NamedTuples and dataclasses. {FROM_MODULE}"
            ) from None

    def _leaf(self, value: Any) -> str | None:
        if id(value) in self.captured.outputs:
            return self._expr(self.captured.outputs[id(value)])
        if id(value) in self.captured.places:
            place = self.captured.places[id(value)]
            self.returned_places.add(place)
            return self._place(place)
        return None

    def _refused(self, node: Node, why: str) -> ConversionError:
        return ConversionError(f"trace cannot write down {self.captured.where(node)}: {why}. {FROM_MODULE}")
