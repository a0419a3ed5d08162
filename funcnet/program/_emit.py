"""A captured graph as statements, one for each operation."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from funcnet._errors import ConversionError
from funcnet._torch_functions import draws_when_called
from funcnet.program._capture import FROM_MODULE, Captured, Place
from funcnet.program._scope import FOREVER, TAKEN, Scope
from funcnet.program._trace_calls import arguments, index, operand, without_defaults
from funcnet.program._trace_inputs import Inputs
from funcnet.program._words import IN_PLACE, INFIX, PREFIX, UnspeakableError, Words

_PURE_METHODS = frozenset({"size", "dim", "new_ones", "new_zeros", "new_empty"})
_PURE = frozenset({*INFIX, *PREFIX, operator.getitem, getattr, torch.arange, torch.zeros, torch.ones, torch.empty})
_PURE |= {torch.ops.aten.sym_size.int}
_NOTHING = frozenset({torch._C._log_api_usage_once})
_INACTIVE = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout})
_FOREIGN = ("torch._functorch", "torch._C._functorch", "torch._dynamo", "torch._higher_order_ops")
_ENTER = {
    torch.amp.autocast_mode._enter_autocast: "torch.amp.autocast",
    torch.autograd.grad_mode._enter_inference_mode: "torch.inference_mode",
}
_EXIT = frozenset({torch.amp.autocast_mode._exit_autocast, torch.autograd.grad_mode._exit_inference_mode})
_CHECKS = ("_check", "_assert")  # private names of functions that are called for what they refuse
_SYMBOLS = {operator.iadd: "+", operator.isub: "-", operator.imul: "*", "add_": "+", "sub_": "-", "mul_": "*"}
_MODULE = "L['module']."  # what torch's tracer calls the module


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
    return _Emitter(captured, inputs, words, words.roots, first.returned).run()


class _Emitter:
    def __init__(self, captured: Captured, inputs: Inputs, words: Words, roots: set[str], returned: set[Place]) -> None:
        self.captured, self.inputs, self.words = captured, inputs, words
        self.nodes: list[Node] = list(captured.graph.nodes)
        self.scope = Scope(roots | set(map(inputs.inside, inputs.arguments)))
        self.names: dict[Node, str] = {}
        self.own: dict[Place, str] = {}  # what a placeholder is called since it became a value of this function
        self.gradients = True
        self.draws: dict[str, None] = {}
        self.copied: dict[str, None] = {}
        self.returned: set[Place] = set()
        order = {node: at for at, node in enumerate(self.nodes)}
        self.last = {node: max((order[user] for user in node.users), default=order[node]) for node in self.nodes}
        for number, tensor in enumerate(inputs.tensors):
            if tensor.simple:  # its name is free once it is read for the last time
                place = Place("input", number)
                uses = [self.last[node] for node, where in captured.held.items() if where == place]
                kept = place in returned or tensor.place in TAKEN | roots
                self.scope.until[inputs.inside(tensor.place)] = FOREVER if kept else max(uses, default=0)

    def run(self) -> Emitted:
        self._sizes()
        dead = self._dead()
        for at, node in enumerate(self.nodes):
            self.scope.at = at
            if node.op in ("call_function", "call_method") and node not in dead:
                self._statement(node)
        if self.scope.blocks:
            raise self._refused(self.nodes[-1], "it leaves a context open")
        result = self._result(self.captured.result, "the output")
        new = {place.name: name for place, name in self.own.items() if place.kind == "buffers"}
        for path, value in self.captured.reassigned.items():
            new[path] = self._result(value, f"buffer {path!r}")
        return Emitted(self.scope.lines, result, new, tuple(self.draws), tuple(self.copied))

    # --- what values are called ---

    def _name(self, node: Node) -> str:
        if node in self.names:
            return self.names[node]
        place = self.captured.held.get(node)
        if place is None:
            raise self._refused(node, f"the tracer kept a {node.op} of its own")
        return self._place(place)

    def _place(self, place: Place) -> str:
        if place in self.own:
            return self.own[place]
        if place.kind == "input":
            return self.inputs.inside(self.inputs.tensors[place.name].place)
        if place.kind in ("params", "buffers"):
            return place.kind + "".join(f'["{key}"]' for key in place.name.split("."))
        name = re.sub(r"\._(modules|parameters|buffers)\['(\w+)'\]", r".\2", str(place.name))
        raise ConversionError(
            f"the forward uses {name.removeprefix(_MODULE)}, neither a parameter nor a buffer nor an input. "
            f"Give it to the module by register_buffer(name, tensor, persistent=False), which changes no state_dict. "
            f"Or {FROM_MODULE}"
        )

    def _share(self, node: Node, name: str) -> None:
        self.names[node] = name
        self.scope.keep(name, self.last[node])

    def _expr(self, value: Any) -> str:
        return self.words.value(value, lambda leaf: self._name(leaf) if isinstance(leaf, Node) else None)

    def _sizes(self) -> None:
        """Name the sizes that are free and used."""
        for node in self.nodes:
            if node.op != "placeholder" or self.captured.held[node].kind != "size" or not node.users:
                continue
            symbol = self.captured.symbols.get(node)
            found = None if symbol is None else self.captured.axis_of(symbol)
            if isinstance(symbol, int):
                self.names[node] = str(symbol)
            elif found is None:
                raise self._refused(node, f"it takes the number {symbol or node.name} from outside of its inputs")
            else:
                place = self.inputs.inside(self.inputs.tensors[found[0]].place)
                name = self.scope.name("batch" if found[1] == 0 else f"{place}_size", FOREVER)
                self.scope.line(f"{name} = {place}.shape[{found[1]}]")
                self.names[node] = name

    # --- statements ---

    def _bind(self, node: Node, text: str) -> None:
        if node.users:
            self.names[node] = self.scope.name(node.name, self.last[node])
            text = f"{self.names[node]} = {text}"
        self.scope.line(text)

    def _dead(self) -> set[Node]:
        """Operations whose results nobody reads, as far as they are known to do nothing else."""
        dead: set[Node] = set()
        for node in reversed(self.nodes):
            pure = node.target in (_PURE if node.op == "call_function" else _PURE_METHODS)
            if node.target in _NOTHING or _is_trivial(node) or (pure and dead.issuperset(node.users)):
                dead.add(node)
        return dead

    def _statement(self, node: Node) -> None:
        if self._is_context(node):
            return
        self.scope.place = self.captured.path_of(node)
        try:
            for holder in self.captured.writes.written if self.captured.writes is not None else ():
                if holder in node.all_input_nodes:
                    self._make_own(holder)
            if node.op == "call_function":
                self._function(node)
            else:
                self._method(node)
        except UnspeakableError as error:
            raise self._refused(node, f"it is given {error.value!r:.60}") from None

    def _is_context(self, node: Node) -> bool:
        """Whether a node is the start or the end of a ``with`` block, and its line then."""
        blocks, target = self.scope.blocks, node.target
        if target is torch._C._set_grad_enabled:
            wanted = bool(node.args[0])
            if blocks and blocks[-1] == ("gradients", wanted):
                self.scope.close()
            elif wanted != self.gradients:
                self.words.imports["import torch"] = None
                self.scope.open(f"torch.{'enable_grad' if wanted else 'no_grad'}()", ("gradients", self.gradients))
            self.gradients = wanted
        elif target in _ENTER:
            self.words.imports["import torch"] = None
            self.scope.open(f"{_ENTER[target]}({arguments(self._expr, node.args, {})})", node)
        elif target in _EXIT:
            if not blocks or blocks[-1] is not node.args[0]:
                raise self._refused(node, "its contexts overlap")
            self.scope.close()
        else:
            return False
        return True

    def _function(self, node: Node) -> None:
        target: Any = node.target
        args = node.args
        self._refuse_private(node, target)
        if draws_when_called(target, args, node.kwargs):
            self._drawing(node, target)
        elif target in _INACTIVE:
            self._share(node, self._expr(args[0]))
        elif target in INFIX and len(args) == 2:
            left, right = (operand(self._expr, arg) for arg in args)
            self._bind(node, f"{left} {INFIX[target]} {right}")
        elif target in PREFIX:
            self._bind(node, f"{PREFIX[target]}{operand(self._expr, args[0])}")
        elif target in IN_PLACE:
            self._in_place_operator(node, target)
        elif target is operator.getitem:
            self._bind(node, f"{self._expr(args[0])}[{index(self._expr, args[1])}]")
        elif target is operator.setitem:
            self.scope.line(f"{self._expr(args[0])}[{index(self._expr, args[1])}] = {self._expr(args[2])}")
            self._share(node, self._expr(args[0]))
        elif target is getattr and len(args) == 2:
            self._bind(node, f"{self._expr(args[0])}.{args[1]}")
        else:
            given = arguments(self._expr, *without_defaults(target, args, node.kwargs))
            self._bind(node, f"{self.words.function(target)}({given})")

    def _refuse_private(self, node: Node, target: Any) -> None:
        """Refuse what belongs to torch's own machinery, and what is called for what it changes around it."""
        home, name = getattr(target, "__module__", None) or "", getattr(target, "__name__", "")
        foreign = home.startswith(_FOREIGN) or isinstance(target, torch._ops.HigherOrderOperator)
        changes = name.startswith("_") and not node.users and not name.startswith(_CHECKS)
        if foreign or (changes and node not in self._writing()):
            raise self._refused(node, f"{name} is no function that code outside of torch calls")

    def _writing(self) -> set[Node]:
        writes = self.captured.writes
        return set() if writes is None else {node for nodes in writes.written.values() for node in nodes}

    def _method(self, node: Node) -> None:
        target = str(node.target)
        unbound = getattr(Tensor, target, None)
        owner, rest = node.args[0], node.args[1:]
        holder = self._as_value(owner)
        if draws_when_called(unbound, node.args, node.kwargs):
            self._drawing(node, unbound)
        elif holder is not None and target in _SYMBOLS:
            self._replace(node, holder, f"{self._expr(owner)} {_SYMBOLS[target]} {operand(self._expr, rest[0])}")
        else:
            given = arguments(self._expr, rest, node.kwargs)
            self._bind(node, f"{operand(self._expr, owner)}.{target}({given})")

    def _in_place_operator(self, node: Node, target: Any) -> None:
        left, right = node.args
        holder, symbol = self._as_value(left), INFIX[IN_PLACE[target]]
        if holder is not None:
            self._replace(node, holder, f"{self._expr(left)} {symbol} {operand(self._expr, right)}")
        elif isinstance(left, Node) and isinstance(self.captured.meta[left].get("example_value"), Tensor):
            name = self._expr(left)
            self.scope.line(f"{name} {symbol}= {self._expr(right)}")
            self._share(node, name)
        else:  # numbers
            self._bind(node, f"{operand(self._expr, left)} {symbol} {operand(self._expr, right)}")

    def _drawing(self, node: Node, target: Any) -> None:
        """A function that draws, given what the call draws from at the path of its module."""
        path = self.captured.path_of(node)[0]
        self.draws[path] = None
        self.words.imports["import funcnet as fn"] = None
        given, rng = arguments(self._expr, node.args, node.kwargs), f'rng=rng("{path}")'
        inplace = node.kwargs.get("inplace", node.args[3] if len(node.args) > 3 else False)
        if target is F.dropout and not inplace:
            p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            self._bind(node, f"fn.random.dropout({arguments(self._expr, (node.args[0], p), {})}, {rng})")
        elif target is F.scaled_dot_product_attention:
            self._bind(node, f"fn.random.scaled_dot_product_attention({given}, {rng})")
        else:
            self._bind(node, f"fn.random.drawn({self.words.function(target)}, {given}, {rng})")

    # --- in-place writes to what belongs to the caller ---

    def _make_own(self, holder: Node) -> None:
        """Copy what is written to, here or further down, before anything else is made of it."""
        place = self.captured.held[holder]
        if place in self.own or self._as_value(holder) is not None:
            return
        text = f"{self._place(place)}.clone()"
        if place.kind == "buffers":
            self.copied[place.name] = None
        if place.kind == "input" and self.inputs.tensors[place.name].simple:
            name = self._place(place)
        else:
            base = self._place(place) if place.kind == "input" else place.name.rpartition(".")[2]
            name = self.scope.name(base, FOREVER, beside=True)
        self.scope.line(f"{name} = {text}")
        self.scope.until[name] = FOREVER
        self.own[place] = name

    def _as_value(self, value: Any) -> Node | None:
        """The placeholder of a buffer whose in-place changes read as new values, if that is what a value is."""
        writes = self.captured.writes
        if writes is None:
            return None
        holders = (holder for holder, nodes in writes.written.items() if value is holder or value in nodes)
        holder = next(holders, None)
        if holder is None or self.captured.held[holder].kind != "buffers":
            return None
        return holder if writes.only_arithmetic(holder, tuple(_SYMBOLS)) else None

    def _replace(self, node: Node, holder: Node, text: str) -> None:
        place = self.captured.held[holder]
        name = self.own.get(place) or self.scope.name(place.name.rpartition(".")[2], FOREVER, beside=True)
        self.scope.line(f"{name} = {text}")
        self.own[place] = self.names[node] = self.names[holder] = name

    # --- results ---

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
            self.returned.add(place)
            return self._place(place)
        return None

    def _refused(self, node: Node, why: str) -> ConversionError:
        return ConversionError(f"trace cannot write down {self.captured.where(node)}: {why}. {FROM_MODULE}")


def _is_trivial(node: Node) -> bool:
    """Whether a node asserts that the size of something is not negative."""
    asked = node.args[0] if node.target is torch.ops.aten._assert_scalar.default else None
    return isinstance(asked, Node) and asked.target is operator.ge and asked.args[1:] == (0,)
