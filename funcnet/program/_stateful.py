"""The text of a forward as classes: the modules of torch.nn themselves, and what is between them as F code."""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from funcnet.core import Body
from funcnet.program._constructors import call_of, empty_tensor, layer_constructor, tensor_literal
from funcnet.program._expressions import dotted_name
from funcnet.program._folding import Folding, ModuleCall, call_tree, calls_from_elsewhere
from funcnet.program._modes import use_module_mode
from funcnet.program._statements import (
    Block,
    ForwardProgram,
    Item,
    Routine,
    RoutineCall,
    Statement,
    StatementOrBlock,
    assigned_names,
    expression_names,
    read_names,
    relative_path,
    split_slot,
)
from funcnet.program._text import lines_of, text_of
from funcnet.program._vocabulary import Vocabulary, import_lines, import_names
from funcnet.program._writer import Writer, definition_lines, inline_statements
from funcnet.tree import join

_LISTS = (nn.Sequential, nn.ModuleList, nn.ParameterList)
_DICTS = (nn.ModuleDict, nn.ParameterDict)


def write_classes(
    program: ForwardProgram, ties: Mapping[str, str], vocabulary: Vocabulary, skip_in_eval: bool = False
) -> str:
    """The module that defines a class for a program, which builds its parts and has its forward.

    ``ties`` maps the path of a tied parameter to the path of its owner. With ``skip_in_eval``, parts that draw return
    their input in eval mode, as stochastic depth does.
    """
    drawing = use_module_mode(program)
    return _ClassWriter(program, ties, vocabulary, drawing if skip_in_eval else {}).write_text()


class _ClassWriter(Folding):
    """Writes a class for each module that is not a layer of torch.nn; equal modules share one class."""

    def __init__(
        self, program: ForwardProgram, ties: Mapping[str, str], vocabulary: Vocabulary, skipped: Collection[str]
    ) -> None:
        super().__init__(program)
        self.module, self.ties, self.skipped = program.module, ties, skipped
        self.imports = list(vocabulary.imports)
        self.imported = import_names(program, self.imports)
        self.modules = dict(self.module.named_modules(remove_duplicate=False))
        self.layers: dict[str, ast.Call] = {}  # path of a layer of torch.nn -> the call that builds it
        self.elsewhere: set[int] = set()  # ids of calls of modules that no path leads to
        self.call_at: dict[str, ModuleCall] = {}
        self.classes: dict[str, str] = {}  # the text of a class without its name -> the name
        self.class_texts: list[str] = []

    def write_text(self) -> str:
        layer = layer_constructor(self.module)
        if layer is not None:
            return _one_layer(self.module, layer)
        root = call_tree(self.program)
        self.elsewhere = {id(call) for call in calls_from_elsewhere(root)}
        built = {path: layer_constructor(module) for path, module in self.modules.items() if path}
        self.layers = {path: call for path, call in built.items() if call is not None}
        self._call_layers(root)
        self.program.statements = list(root.iter_steps())
        self._set_texts(root)
        calls_per_path = Counter(
            path for calls in self.calls.values() for path in {call.call_key.path for call in calls}
        )
        for text, calls in self.calls.items():
            is_uniform = all(calls_per_path[call.call_key.path] == 1 and self._becomes_class(call) for call in calls)
            if text != root.text and is_uniform and self._has_own_buffers(text):
                self.chosen.add(text)
        main = self._main_function(root)
        self.call_at = {call.call_key.path: call for text in self.chosen for call in self.calls[text]}
        self._class_of("", main)
        text = "\n\n\n".join(self.class_texts)
        return "\n".join([*self._import_lines(text), "", "", text, ""])

    def _import_lines(self, text: str) -> list[str]:
        known = ["import collections", "import torch", "import torch.nn.functional as F"]
        lines = import_lines(text, [*self.imports, *known], self.imported)
        lines = [line for line in lines if line and not line.startswith("import funcnet")]
        standard = [line for line in lines if line.split()[1] in ("math", "operator", "collections")]
        modules = sorted({line for line in lines if line.startswith("import ")} - set(standard))
        names = sorted({line for line in lines if line.startswith("from ")} | {"from torch import nn"})
        return [*([*standard, ""] if standard else []), *modules, *names]

    def _becomes_class(self, call: ModuleCall) -> bool:
        """Whether a class is written for the module: it is not a container, not a torch.nn layer, and not in one."""
        path = call.call_key.path
        module = self.modules.get(path)
        if module is None or id(call) in self.elsewhere or _is_container(module, *_LISTS, *_DICTS):
            return False
        return all(relative_path(path, layer) is None for layer in self.layers)

    def _call_layers(self, call: ModuleCall) -> None:
        for index, item in enumerate(call.items):
            if isinstance(item, ModuleCall):
                statement = None if id(item) in self.elsewhere else self._layer_statement(item)
                if statement is None:
                    self._call_layers(item)
                else:
                    call.items[index] = statement

    def _layer_statement(self, call: ModuleCall) -> StatementOrBlock | None:
        """The call of a layer as one statement; None unless it is a layer with one input and one output.

        No layer of torch.nn enters a context itself, so a context around all that it does is around its call.
        """
        path = call.call_key.path
        composed = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
        if path not in self.layers or isinstance(self.modules[path], composed):
            return None
        steps = list(call.iter_steps())
        contexts_around: list[list[ast.expr]] = []
        within = {id(step) for step in steps}
        while len(steps) == 1 and isinstance(steps[0], Block):
            contexts_around.append(steps[0].contexts)
            steps = steps[0].body
        if any(isinstance(step, Block) for step in steps):
            return None
        assigned = [name for step in steps for name in assigned_names(step)]
        read = {name for step in steps for name in read_names(step) if split_slot(name) is None}
        inputs = read - {*assigned, *self.program.sizes}
        outside = {name for step in self.program.statements if id(step) not in within for name in read_names(step)}
        outside |= set(expression_names(self.program.returned))
        results = [name for name in assigned if name in outside]
        if len(inputs) != 1 or len(results) != 1:
            return None
        for name in [name for name in self.program.new_buffers if name.startswith(f"{path}.")]:
            del self.program.new_buffers[name]
        self.program.named.add(results[0])
        layer_call = ast.Call(ast.Name(f"self:{path}"), [ast.Name(inputs.pop())], [])
        keys = steps[0].call_keys[:-1]
        step: StatementOrBlock = Statement(layer_call, results, call_keys=keys, node=self.program.nodes.get(results[0]))
        for contexts in reversed(contexts_around):
            step = Block(contexts, [step])
        return step

    def _add_call(self, call: ModuleCall) -> None:
        if call.call_key.path:
            call.text += f"\n{self._structure(call.call_key.path)}"
        super()._add_call(call)

    def _structure(self, path: str) -> str:
        """The layers and params of a module as text; modules of one class have the same text."""
        module = self.modules.get(path)
        if module is None:
            return ""
        parts: list[str] = []
        for name, submodule in module.named_modules():
            layer = self.layers.get(join(path, name))
            parts.append(f"{name}: {type(submodule).__name__ if layer is None else text_of(layer)}")
        return "\n".join([*parts, *(f"{name} {tuple(param.shape)}" for name, param in module.named_parameters())])

    def _lower(self, call: ModuleCall) -> tuple[list[Item], dict[str, ast.expr]]:
        items, new_buffers = super()._lower(call)
        for routine_call in (item for item in items if isinstance(item, RoutineCall)):
            routine_call.new_buffers_value = None  # a method assigns its new buffers itself
            for name in [name for name in new_buffers if relative_path(name, routine_call.call_key.path) is not None]:
                del new_buffers[name]
        return items, new_buffers

    def _class_of(self, path: str, function: Routine | None) -> str:
        """The name of the class of a module; its text is written down when it is new."""
        module = self.modules[path]
        lines = self._init_lines(path, module)
        if function is not None:
            lines += ["", *self._forward_lines(path, function)]
        text = "\n".join(lines)
        if text not in self.classes:
            used_names = {*self.classes.values(), *self.imported.values()}
            names = (f"{class_name(module)}{count if count > 1 else ''}" for count in itertools.count(1))
            self.classes[text] = next(name for name in names if name not in used_names)
            base = "nn.Sequential" if _is_numbered(module) else "nn.Module"
            self.class_texts.append(f"class {self.classes[text]}({base}):\n{text}")
        return self.classes[text]

    def _init_lines(self, path: str, module: nn.Module) -> list[str]:
        children = {name: self._built(join(path, name), child) for name, child in module._modules.items()}
        base = call_of("super().__init__", [*children.values()] if _is_numbered(module) else [])
        lines = ["    def __init__(self):", *lines_of("", base, indent=8), *self._tensor_lines(path, module)]
        for name, child in {} if _is_numbered(module) else children.items():
            if name.isidentifier():
                lines += lines_of(f"self.{name} = ", child, indent=8)
            else:
                lines += lines_of("", call_of("self.add_module", [ast.Constant(name), child]), indent=8)
        if not path:
            for tied, owner in self.ties.items():
                lines.append(f"        {self._access(tied, '')} = {self._access(owner, '')}")
            frozen = [key for key, param in module.named_parameters() if not param.requires_grad and "." in key]
            lines += [f"        {self._access(key, '')}.requires_grad_(False)" for key in frozen]
        return lines

    def _tensor_lines(self, path: str, module: nn.Module) -> list[str]:
        """The lines that give a module its own parameters and buffers."""
        lines: list[str] = []
        for name, param in module._parameters.items():
            if param is None:
                lines.append(f'        self.register_parameter("{name}", None)')
                continue
            is_frozen = not param.requires_grad and join(path, name) not in self.ties
            value: ast.expr = call_of(
                "nn.Parameter", [empty_tensor(param)], **({"requires_grad": False} if is_frozen else {})
            )
            lines += lines_of(f"self.{name} = ", value, indent=8)
        for name, buffer in module._buffers.items():
            options, value = {}, ast.Constant(None) if buffer is None else empty_tensor(buffer)
            if buffer is not None and name in module._non_persistent_buffers_set:
                options, value = {"persistent": False}, tensor_literal(buffer, join(path, name))
            lines += lines_of("", call_of("self.register_buffer", [ast.Constant(name), value], **options), indent=8)
        return lines

    def _built(self, path: str, module: nn.Module | None) -> ast.expr:
        """The expression that builds a part."""
        if module is None:
            return ast.Constant(None)
        if path in self.layers:
            return self.layers[path]
        if type(module) in (nn.ParameterList, nn.ParameterDict):
            return _parameter_container(module)
        if not _is_container(module, nn.Sequential, nn.ModuleList, nn.ModuleDict):
            call = self.call_at.get(path)
            return call_of(self._class_of(path, None if call is None else self._function_for(call)), [])
        items = {name: self._built(join(path, name), child) for name, child in module._modules.items()}
        if isinstance(module, nn.ModuleDict):
            return call_of("nn.ModuleDict", [ast.Dict([ast.Constant(name) for name in items], [*items.values()])])
        if isinstance(module, nn.Sequential) and not _is_numbered(module):
            pairs: list[ast.expr] = [ast.Tuple([ast.Constant(name), item]) for name, item in items.items()]
            return call_of("nn.Sequential", [call_of("collections.OrderedDict", [ast.List(pairs)])])
        is_list = isinstance(module, nn.ModuleList)
        name = "nn.ModuleList" if is_list else "nn.Sequential"
        if len(items) > 2 and len({text_of(item) for item in items.values()}) == 1:
            count = call_of("range", [len(items)])
            loop = ast.comprehension(ast.Name("_"), count, [], 0)
            repeated = ast.GeneratorExp(next(iter(items.values())), [loop])
            return call_of(name, [repeated if is_list else ast.Starred(repeated)])
        return call_of(name, [ast.List([*items.values()])] if is_list else [*items.values()])

    def _forward_lines(self, path: str, function: Routine) -> list[str]:
        reserved = {"self", *self.imported.values(), "nn"} | set(self.classes.values())
        # of equal modules, the function is made of the first; the main function is that of the module itself
        writer = _MethodWriter(self.program, function, reserved, self._access, function.call_key.path or path)
        if path:
            arguments = [writer.names.name_argument(value) for value in function.inputs]
        else:
            arguments = list(self.program.arguments)
            writer.fix_arguments()
        lines = definition_lines("forward", ["self", *arguments], 4)
        writer.indent = 8
        if path in self.skipped and function.inputs:
            lines += ["        if not self.training:", f"            return {writer.spell(function.inputs[0])}"]
        lines += writer.body(inline_statements(self.program, function))
        for buffer, expression in function.new_buffers.items():
            lines += lines_of(f"{self._access(buffer, writer.path)} = ", expression, writer.spell, 8)
        if not path:
            return [*lines, *lines_of("return ", self.program.returned, writer.spell, 8)]
        if function.outputs:
            lines.append(f"        return {', '.join(map(writer.spell, function.outputs))}")
        return lines

    def _access(self, path: str, base: str) -> str:
        """The expression with which a method of the module at ``base`` reads what is at a path."""
        text, at = "self", base
        suffix = path[len(base) :].lstrip(".") if base else path
        for key in suffix.split(".") if suffix else []:
            holder = self.modules.get(at, self.module)
            if key.isdigit() and (_is_numbered(holder) or _is_container(holder, nn.ModuleList, nn.ParameterList)):
                text += f"[{key}]"
            elif _is_container(holder, *_DICTS):
                text += f'["{key}"]'
            elif not key.isidentifier():
                text = f'getattr({text}, "{key}")'
            else:
                text += f".{key}"
            at = join(at, key)
        return text


class _MethodWriter(Writer):
    """Writes a method, in which a slot is an attribute."""

    def __init__(
        self,
        program: ForwardProgram,
        function: Routine,
        reserved: set[str],
        access: Callable[[str, str], str],
        path: str,
    ) -> None:
        super().__init__(program, function, reserved, path=path)
        self.access = access

    def spell_slot(self, kind: str, path: str) -> str:
        return super().spell_slot(kind, path) if kind == "rng" else self.access(path, self.path)

    def add_comment(self, path: str, title: str) -> None:
        """A method needs no comments: its calls say what runs."""

    def routine_call(self, function: Routine, arguments: Sequence[str], path: str, tail: str | None = None) -> ast.Call:
        text = self.access(path, self.path)
        if tail is not None:
            text += "[i]" + "".join(f".{key}" for key in tail.split(".") if key)
        return ast.Call(ast.Name(text), [ast.Name(name) for name in arguments], [])


def _one_layer(module: nn.Module, layer: ast.Call) -> str:
    """A class that is a layer of torch.nn with its arguments."""
    kind = type(module).__name__
    call = ast.Call(dotted_name("super().__init__"), layer.args, layer.keywords)
    imports = ["import torch"] * ("torch." in text_of(layer)) + ["from torch import nn"]
    lines = [f"class {kind}(nn.{kind}):", "    def __init__(self):", *lines_of("", call, indent=8)]
    return "\n".join([*imports, "", "", *lines, ""])


def class_name(module: nn.Module) -> str:
    """The name of the class for a module; for a body written as a function, it comes from the function's name."""
    name = module._get_name()
    if isinstance(module, Body):
        name = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    return re.sub(r"\W", "", name) or "Module"


def _is_container(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is a container of one of these kinds, with no tensors and no forward of its own."""
    is_plain = isinstance(module, (nn.ParameterList, nn.ParameterDict)) or not (module._parameters or module._buffers)
    has_forward = isinstance(module, nn.Sequential) and type(module).forward is not nn.Sequential.forward
    return isinstance(module, kinds) and is_plain and not has_forward


def _is_numbered(module: nn.Module) -> bool:
    """Whether a module is a Sequential whose children are numbered."""
    return isinstance(module, nn.Sequential) and list(module._modules) == [*map(str, range(len(module)))]


def _parameter_container(module: nn.Module) -> ast.Call:
    """The expression that builds a list or a dict of parameters."""
    params = {name: param for name, param in module._parameters.items() if param is not None}
    tensors: list[ast.expr] = [call_of("nn.Parameter", [empty_tensor(param)]) for param in params.values()]
    if type(module) is nn.ParameterList:
        return call_of("nn.ParameterList", [ast.List(tensors)])
    return call_of("nn.ParameterDict", [ast.Dict([ast.Constant(name) for name in params], tensors)])
