"""Turns a captured graph into the statements of a program: one for each operation."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from funcnet._errors import ConversionError
from funcnet._torch_functions import PUBLIC_DROPOUTS, draws_when_called, is_pure
from funcnet._torch_tracer import (
    ENTERING_CALLS,
    EXITING_CALLS,
    IGNORED_CALLS,
    applied_function,
    assert_scalar,
    assume,
    get_data,
    is_internal_function,
    set_grad_enabled,
)
from funcnet.program._assumptions import iter_conditions
from funcnet.program._capture import GraphInput
from funcnet.program._code_lines import FROM_MODULE
from funcnet.program._expressions import (
    IN_PLACE,
    INFIX,
    PREFIX,
    call_expression,
    dotted_name,
    operator_expression,
    shorten_calls,
    writes_in_place,
)
from funcnet.program._inputs import Inputs
from funcnet.program._statements import (
    Block,
    ForwardProgram,
    ModuleCallKey,
    Statement,
    StatementOrBlock,
    expression_names,
    map_expressions,
)
from funcnet.program._text import text_of
from funcnet.program._value_names import name_around, name_at_caller, name_of_variable
from funcnet.program._vocabulary import UnwritableError, Vocabulary

_ARITHMETIC: dict[object, object] = {"add_": operator.add, "sub_": operator.sub, "mul_": operator.mul}
_ARITHMETIC |= {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
"""Writes in place that become the calculation of a new value, where they write to the whole buffer."""
_CHECKS = ("_check", "_assert")  # private names of functions that only check
_MODULE = "L['module']."  # what torch's tracer calls the module


def add_statements(
    program: ForwardProgram, inputs: Inputs, arguments: Mapping[str, ast.expr], vocabulary: Vocabulary
) -> None:
    """Add a statement to a program for each operation of its captured graph; ``vocabulary`` collects their imports.

    ``arguments`` says how each argument of the program is read from the arguments of the forward.

    Raises:
        ConversionError: if something in the graph cannot be written down; names the line.
    """
    _GraphReader(program, inputs, arguments, vocabulary).add_all()
    map_expressions(program, lambda expression: shorten_calls(expression, assume_cpu=False))


class _GraphReader:
    """Walks through a graph, and holds the expression for the value of every node."""

    def __init__(
        self, program: ForwardProgram, inputs: Inputs, arguments: Mapping[str, ast.expr], vocabulary: Vocabulary
    ) -> None:
        self.program, self.captured, self.inputs, self.vocabulary = program, program.captured, inputs, vocabulary
        self.nodes: list[Node] = list(self.captured.graph.nodes)
        self.writers = {} if self.captured.writes is None else self.captured.writes.writers
        self.arithmetic_placeholders: dict[object, Node] = self._find_arithmetic_placeholders()
        self.values: dict[Node, ast.expr] = {}
        self.current: dict[GraphInput, str] = {}  # the present value of an input that is written to in place
        self.arguments: dict[str, str] = {}  # text of an expression over the forward's arguments -> value
        self.blocks: list[tuple[Block, object]] = []
        self.gradients_enabled = True
        self.assertions: dict[tuple[str, object], Statement] = {}  # by condition and the call that it is asked in
        self.count = 0
        for name, expression in arguments.items():
            value = self._new_value(name, named=True)
            program.arguments[name] = value
            self.arguments[text_of(expression)] = value

    def add_all(self) -> None:
        for node, graph_input in self.captured.inputs.items():
            if graph_input.kind == "input":
                expression = self._input_expression(graph_input.name)
                if isinstance(expression, ast.Name):
                    self.program.nodes.setdefault(expression.id, node)
        self._add_sizes()
        unread = self._unread_nodes()
        for node in self.nodes:
            if node.op in ("call_function", "call_method") and node not in unread:
                self._add_node(node)
        if self.blocks:
            raise self._error(self.nodes[-1], "it leaves a context open")
        program = self.program
        program.statements[:0] = [step for (_, asked_in), step in self.assertions.items() if asked_in is None]
        program.returned = self._result(self.captured.result, "the output")
        for graph_input, value in self.current.items():
            if graph_input.kind == "buffers":
                program.new_buffers[graph_input.name] = ast.Name(value)
        for path, tensor in self.captured.reassigned.items():
            program.new_buffers[path] = self._result(tensor, f"buffer {path!r}")

    def _new_value(self, hint: str, named: bool = False) -> str:
        self.count += 1
        value = f"%{self.count}"
        self.program.hints[value] = hint
        if named:
            self.program.named.add(value)
        return value

    def _value_expression(self, value: object) -> ast.expr:
        return self.vocabulary.value_expression(value, self._leaf)

    def _value_expressions(self, values: Iterable[object]) -> list[ast.expr]:
        return [self._value_expression(value) for value in values]

    def _keywords(self, node: Node) -> dict[str, ast.expr]:
        return {name: self._value_expression(value) for name, value in node.kwargs.items()}

    def _leaf(self, value: object) -> ast.expr | None:
        return self._node_expression(value) if isinstance(value, Node) else None

    def _node_expression(self, node: Node) -> ast.expr:
        placeholder = self.arithmetic_placeholders.get(node)
        if placeholder is not None and self.captured.inputs[placeholder] in self.current:
            return ast.Name(self.current[self.captured.inputs[placeholder]])
        if node in self.values:
            return self.values[node]
        if node not in self.captured.inputs:
            raise self._error(node, f"the tracer kept a {node.op} of its own")
        return self._input_value(self.captured.inputs[node])

    def _input_value(self, graph_input: GraphInput) -> ast.expr:
        """The expression for the present value of an input of the graph."""
        if graph_input in self.current:
            return ast.Name(self.current[graph_input])
        if graph_input.kind == "input":
            return self._input_expression(graph_input.name)
        if graph_input.kind in ("params", "buffers"):
            return ast.Name(f"{graph_input.kind}:{graph_input.name}")
        name = re.sub(r"\._(modules|parameters|buffers)\['(\w+)'\]", r".\2", str(graph_input.name))
        raise ConversionError(
            f"the forward uses {name.removeprefix(_MODULE)}, neither a parameter nor a buffer nor an input. "
            f"Give it to the module by register_buffer(name, tensor, persistent=False), which changes no state_dict; "
            f"or modules in a list or dict by nn.ModuleList or nn.ModuleDict. "
            f"Or {FROM_MODULE}"
        )

    def _input_expression(self, index: int) -> ast.expr:
        return self._over_arguments(self.inputs.tensors[index].expression)

    def _over_arguments(self, expression: ast.expr) -> ast.expr:
        """An expression over the arguments of the forward as one over those of the program."""
        value = self.arguments.get(text_of(expression))
        if value is not None:
            return ast.Name(value)
        if isinstance(expression, ast.Subscript):
            return ast.Subscript(self._over_arguments(expression.value), expression.slice)
        assert isinstance(expression, ast.Attribute)
        return ast.Attribute(self._over_arguments(expression.value), expression.attr)

    def _result(self, value: object, what: str) -> ast.expr:
        """The expression for an output or a buffer, which holds fake tensors for the tensors of the graph."""

        def leaf(item: object) -> ast.expr | None:
            if id(item) in self.captured.outputs:
                return self._value_expression(self.captured.outputs[id(item)])
            graph_input = self.captured.input_of_object.get(id(item))
            return None if graph_input is None else self._input_value(graph_input)

        try:
            return self.vocabulary.value_expression(value, leaf)
        except UnwritableError as error:
            raise ConversionError(
                f"{what}{error.where} is {error.value!r:.60}, of {type(error.value).__name__}: trace knows tensors, "
                f"constants, tuples, lists, dicts, NamedTuples and dataclasses. {FROM_MODULE}"
            ) from None

    def _add_sizes(self) -> None:
        """Give names to the sizes that are free and used."""
        for node in self.nodes:
            if node.op != "placeholder" or self.captured.inputs[node].kind != "size" or not node.users:
                continue
            symbol = self.captured.symbols.get(node)
            if isinstance(symbol, int):
                self.values[node] = ast.Constant(symbol)
                continue
            axis_place = None if symbol is None else self.captured.find_axis(symbol)
            if axis_place is None:
                raise self._error(node, f"it takes the number {symbol or node.name} from outside of its inputs")
            index, axis = axis_place
            text = self.inputs.tensors[index].text
            value = self._new_value("batch" if axis == 0 else _clean_name(f"{text}_size"), named=True)
            shape = ast.Attribute(self._input_expression(index), "shape")
            self._open_body().append(Statement(ast.Subscript(shape, ast.Constant(axis)), [value]))
            self.program.sizes[value] = symbol
            self.values[node] = ast.Name(value)

    def _open_body(self) -> list[StatementOrBlock]:
        return self.blocks[-1][0].body if self.blocks else self.program.statements

    def _call_keys(self, node: Node) -> tuple[ModuleCallKey, ...]:
        return tuple(ModuleCallKey(*call) for call in self.captured.module_calls(node) if call[1])

    def _assign(self, node: Node, expression: ast.expr) -> None:
        """Add the statement for a node, which assigns its value if anything reads it."""
        targets = []
        if node.users:
            value = self._new_value("")
            self._note_names(value, node)
            self.values[node] = ast.Name(value)
            targets = [value]
        self._open_body().append(Statement(expression, targets, call_keys=self._call_keys(node), node=node))
        self.program.mutated |= set(_values_written_by_calls(expression))

    def _note_names(self, value: str, node: Node) -> None:
        """Note the name that the author uses for the value of a node."""
        program, trace = self.program, self.captured.stack_trace(node)
        program.nodes[value] = node
        name = name_of_variable(node, trace)
        if name == "input" and any(call_key.title == "Sequential" for call_key in self._call_keys(node)):
            name = None  # Sequential uses this name for every value
        readers = [self.captured.stack_trace(user) for user in node.users if user.op != "output"]
        outer_name = name_at_caller(trace, readers)
        if outer_name is not None:
            program.named_by_caller.add(value)
        name = outer_name or name
        if name is not None:
            program.named.add(value)
        is_size = isinstance(self.captured.example(node), (int, torch.SymInt))
        program.hints[value] = name or (None if is_size else name_around(trace)) or ""

    def _unread_nodes(self) -> set[Node]:
        """Operations whose results nobody reads and that are known to have no other effect."""
        unread: set[Node] = set()
        for node in reversed(self.nodes):
            if node.op not in ("call_function", "call_method"):
                continue
            if (
                node.target in IGNORED_CALLS
                or _asserts_size(node)
                or (is_pure(node.target) and unread.issuperset(node.users))
            ):
                unread.add(node)
        return unread

    def _add_node(self, node: Node) -> None:
        if self._open_or_close_block(node):
            return
        try:
            for placeholder in self.writers:
                if placeholder in node.all_input_nodes:
                    self._copy_before_write(placeholder, node)
            if node.target is assume:
                self._add_assumption(node)
            elif node.op == "call_function":
                self._add_function_call(node)
            else:
                self._add_method_call(node)
        except UnwritableError as error:
            raise self._error(node, f"it is given {error.value!r:.60}") from None

    def _open_or_close_block(self, node: Node) -> bool:
        """Open or close a ``with`` block for such a node. Returns whether the node was one."""
        target = node.target
        if target is set_grad_enabled:
            enabled = bool(node.args[0])
            if self.blocks and self.blocks[-1][1] == ("gradients", enabled):
                self._close_block()
            elif enabled != self.gradients_enabled:
                function = f"torch.{'enable_grad' if enabled else 'no_grad'}"
                self._open_block(call_expression(function, []), ("gradients", self.gradients_enabled))
            self.gradients_enabled = enabled
        elif target in ENTERING_CALLS:
            self._open_block(call_expression(ENTERING_CALLS[target], self._value_expressions(node.args)), node)
        elif target in EXITING_CALLS:
            if not self.blocks or self.blocks[-1][1] is not node.args[0]:
                raise self._error(node, "its contexts overlap")
            self._close_block()
        else:
            return False
        return True

    def _open_block(self, context: ast.expr, mark: object) -> None:
        self.vocabulary.add_import("import torch")
        block = Block([context])
        self._open_body().append(block)
        self.blocks.append((block, mark))

    def _close_block(self) -> None:
        block, _ = self.blocks.pop()
        if not block.body:
            self._open_body().pop()

    def _add_function_call(self, node: Node) -> None:
        target, args = node.target, node.args
        self._refuse_internals(node)
        function_class = applied_function(target)
        if function_class is not None:
            apply = ast.Attribute(dotted_name(self.vocabulary.function_name(function_class)), "apply")
            self._assign(node, call_expression(apply, self._value_expressions(args), self._keywords(node)))
        elif draws_when_called(target, args, node.kwargs):
            self._add_draw(node, target)
        elif target in PUBLIC_DROPOUTS:  # it does not draw, so it returns its input
            self.values[node] = self._value_expression(args[0] if args else node.kwargs["input"])
        elif (target in INFIX and len(args) == 2) or target in PREFIX:
            self._assign(node, operator_expression(target, self._value_expressions(args)))
        elif target in IN_PLACE:
            self._add_in_place_operator(node)
        elif target is operator.getitem:
            self._assign(
                node,
                ast.Subscript(self._value_expression(args[0]), self.vocabulary.index_expression(args[1], self._leaf)),
            )
        elif target is operator.setitem:
            written = ast.Subscript(
                self._value_expression(args[0]), self.vocabulary.index_expression(args[1], self._leaf)
            )
            self._add_write(node, Statement(self._value_expression(args[2]), written=written))
        elif target is get_data:
            self._assign(node, ast.Attribute(self._value_expression(args[0]), "data"))
        elif target is getattr and len(args) == 2:
            self._assign(node, ast.Attribute(self._value_expression(args[0]), str(args[1])))
        else:
            self._assign(
                node, self.vocabulary.function_call(target, self._value_expressions(args), self._keywords(node))
            )

    def _refuse_internals(self, node: Node) -> None:
        """Refuse functions of torch's own machinery, and private functions that are called for an effect."""
        name = getattr(node.target, "__name__", "")
        is_hidden_change = name.startswith("_") and not node.users and not name.startswith(_CHECKS)
        writes = is_hidden_change and any(node in writers for writers in self.writers.values())
        if is_internal_function(node.target) or (is_hidden_change and not writes):
            raise self._error(node, f"{name} is no function that code outside of torch calls")

    def _add_assumption(self, node: Node) -> None:
        """Assert that what the forward asks for is as it was in the capture.

        What holds for a whole call is asserted once and first; the rest where it is asked.
        """
        devices = [
            (ast.Attribute(self._input_expression(index), "device"), tensor.value.device)
            for index, tensor in enumerate(self.inputs.tensors)
        ]
        for condition, is_for_call in iter_conditions(node, self.captured, devices, self._value_expression):
            if is_for_call:
                self.vocabulary.add_import("import torch")
            call_keys = () if is_for_call else self._call_keys(node)
            statement = Statement(condition, call_keys=call_keys, asked_at=self.captured.short_where(node))
            key = (text_of(condition), None if is_for_call else call_keys)
            if self.assertions.setdefault(key, statement) is statement and not is_for_call:
                self._open_body().append(statement)

    def _add_method_call(self, node: Node) -> None:
        name = str(node.target)
        unbound = getattr(Tensor, name, None)
        object_, args = node.args[0], node.args[1:]
        placeholder = self.arithmetic_placeholders.get(object_)
        if draws_when_called(unbound, node.args, node.kwargs):
            self._add_draw(node, unbound)
        elif placeholder is not None and name in _ARITHMETIC:
            self._add_arithmetic(node, placeholder)
        else:
            method = ast.Attribute(self._value_expression(object_), name)
            self._assign(node, call_expression(method, self._value_expressions(args), self._keywords(node)))

    def _add_in_place_operator(self, node: Node) -> None:
        left, right = node.args
        placeholder = self.arithmetic_placeholders.get(left)
        if placeholder is not None and node.target in _ARITHMETIC:
            self._add_arithmetic(node, placeholder)
        elif isinstance(left, Node) and isinstance(self.captured.example(left), Tensor):
            value, written = self._value_expression(right), self._value_expression(left)
            self._add_write(node, Statement(value, written=written, operator=IN_PLACE[node.target]()))
        else:  # numbers
            self._assign(node, operator_expression(node.target, self._value_expressions(node.args)))

    def _add_write(self, node: Node, statement: Statement) -> None:
        """Add a statement that writes in place to the first argument of a node, whose value is that argument."""
        statement.call_keys, statement.node = self._call_keys(node), node
        self._open_body().append(statement)
        self.values[node] = self._value_expression(node.args[0])
        assert statement.written is not None
        base = statement.written.value if isinstance(statement.written, ast.Subscript) else statement.written
        self.program.mutated |= set(expression_names(base)) | set(_values_written_by_calls(statement.value))

    def _add_draw(self, node: Node, function: object) -> None:
        """Add a call that draws; its ``rng`` is that of the path of its module."""
        path = self.captured.path_of(node)
        if path not in self.program.drawing_paths:
            self.program.drawing_paths.append(path)
        self.vocabulary.add_import("import funcnet as fn")
        rng: dict[str, ast.expr] = {"rng": ast.Name(f"rng:{path}")}
        args, keywords = self._value_expressions(node.args), self._keywords(node) | rng
        inplace = node.kwargs.get("inplace", node.args[3] if len(node.args) > 3 else False)
        if function is F.dropout and not inplace:
            p = self._value_expression(node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5))
            call = call_expression("fn.random.dropout", [args[0], p], rng)
        elif function is F.scaled_dot_product_attention:
            call = call_expression("fn.random.scaled_dot_product_attention", args, keywords)
        else:
            name = dotted_name(self.vocabulary.function_name(function))
            call = call_expression("fn.random.drawn", [name, *args], keywords)
        self._assign(node, call)

    def _copy_before_write(self, placeholder: Node, node: Node) -> None:
        """If this or a later statement writes to an input, copy it before its first use."""
        graph_input = self.captured.inputs[placeholder]
        if graph_input in self.current or placeholder in self.arithmetic_placeholders:
            return
        if graph_input.kind == "buffers":
            self.program.copied_buffers.append(graph_input.name)
            hint = graph_input.name.rpartition(".")[2]
        elif graph_input.kind == "input":
            hint = _clean_name(self.inputs.tensors[graph_input.name].text)
        else:
            hint = _clean_name(str(graph_input.name).rpartition(".")[2])
        value = self._new_value(hint, named=True)
        copy = call_expression(ast.Attribute(self._input_value(graph_input), "clone"), [])
        self._open_body().append(Statement(copy, [value], call_keys=self._call_keys(node)))
        self.current[graph_input] = value

    def _find_arithmetic_placeholders(self) -> dict[object, Node]:
        """Placeholders of buffers whose writes can be written as ``n = n + 1``.

        They are keyed by the placeholder itself and by each node that writes to it.
        """
        placeholders: dict[object, Node] = {}
        for placeholder, nodes in self.writers.items():
            assert self.captured.writes is not None
            is_buffer = self.captured.inputs[placeholder].kind == "buffers"
            if is_buffer and self.captured.writes.adds_only_numbers(placeholder, tuple(_ARITHMETIC)):
                placeholders |= dict.fromkeys([placeholder, *nodes], placeholder)
        return placeholders

    def _add_arithmetic(self, node: Node, placeholder: Node) -> None:
        """Add the statement that calculates the next value of a buffer, instead of a write to it."""
        graph_input, operands = self.captured.inputs[placeholder], self._value_expressions(node.args)
        value = self._new_value(graph_input.name.rpartition(".")[2], named=True)
        self.program.nodes[value] = node
        expression = operator_expression(_ARITHMETIC[node.target], operands)
        self._open_body().append(Statement(expression, [value], call_keys=self._call_keys(node), node=node))
        self.current[graph_input] = value

    def _error(self, node: Node, reason: str) -> ConversionError:
        return ConversionError(f"trace cannot write down {self.captured.where(node)}: {reason}. {FROM_MODULE}")


def _clean_name(name: str) -> str:
    """A name that an expression may be called by: ``batch["x"]`` becomes ``batch_x``."""
    name = re.sub(r"(_\d+)+$", "", re.sub(r"\W+", "_", name)).strip("_") or "value"
    return name if name.isidentifier() else f"value_{name}"


def _asserts_size(node: Node) -> bool:
    """Whether a node asserts that the size of something is not negative."""
    asserted = node.args[0] if node.target is assert_scalar else None
    return isinstance(asserted, Node) and asserted.target is operator.ge and asserted.args[1:] == (0,)


def _values_written_by_calls(expression: ast.expr) -> set[str]:
    """The values that calls in an expression may write to in place."""
    parts: list[ast.AST] = []
    for node in ast.walk(expression):
        method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if isinstance(node, ast.Call) and ("batch_norm" in method or "instance_norm" in method):
            parts += node.args[1:5]
        elif isinstance(node, ast.Call) and writes_in_place(node):
            parts.append(node)
    return {name for part in parts for name in expression_names(part)}
