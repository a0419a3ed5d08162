"""The text of a forward as classes: the modules of torch.nn themselves, and what is between them as F code."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from funcnet.core import Body
from funcnet.program._constructors import constructor, empty, literal
from funcnet.program._loops import looped
from funcnet.program._modes import in_either_mode
from funcnet.program._parts import _Folding
from funcnet.program._program import Program, Statement, defined, names_in
from funcnet.program._source_calls import Call, Function, Use, call_tree, elsewhere
from funcnet.program._stateless import _import_lines, _imported_by_name
from funcnet.program._text import lines_of
from funcnet.program._write import Writer

_LISTS = (nn.Sequential, nn.ModuleList, nn.ParameterList)
_DICTS = (nn.ModuleDict, nn.ParameterDict)


def stateful(
    program: Program, module: nn.Module, ties: Mapping[str, str], imports: Sequence[str], skipped: bool = False
) -> str:
    """The module that defines a class for a program, which builds its parts and has its forward.

    Args:
        program: the forward.
        module: what it was captured from.
        ties: path of a parameter -> of the one that it is.
        imports: lines that the statements may need.
        skipped: whether parts that draw give back what they are given in eval mode, as stochastic depth does.
    """
    drawing = in_either_mode(program)
    named = _imported_by_name(program, imports)
    return _Classes(program, module, ties, imports, named, drawing if skipped else {}).text()


class _Classes(_Folding):
    def __init__(
        self,
        program: Program,
        module: nn.Module,
        ties: Mapping[str, str],
        imports: Sequence[str],
        named: Mapping[str, str],
        skipped: Collection[str],
    ) -> None:
        super().__init__(program)
        self.module, self.ties, self.imports, self.named = module, ties, imports, named
        self.skipped = skipped
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.classes: dict[str, str] = {}  # the text of a class without its name -> the name
        self.class_texts: list[str] = []
        self.class_of: dict[str, str] = {}

    def text(self) -> str:
        whole = constructor(self.module)
        if isinstance(whole, ast.Call):
            return _one_layer(self.module, whole)
        root = call_tree(self.program)
        self.away = {id(call) for call in elsewhere(root)}
        built = {path: constructor(one) for path, one in self.modules.items() if path}
        self.layers = {path: made for path, made in built.items() if made is not None}
        self._as_layers(root)
        self.program.statements = list(root.statements())
        self._describe(root)
        self.texts: dict[str, set[str]] = {}
        for text, calls in self.calls.items():
            for call in calls:
                self.texts.setdefault(call.level.path, set()).add(text)
        self.chosen = {
            text
            for text, calls in self.calls.items()
            if all(self._is_own(call) and id(call) not in self.away for call in calls)
            and calls[0] is not root
            and self._whole(text)
        }
        self.chosen.discard(root.text)
        self.outputs = self._outputs(root)
        main = Function("forward", root.level, list(self.program.arguments.values()), [])
        main.outputs = [*names_in(self.program.returned)]
        main.items, main.new = self._lowered(root.items, "", main)
        looped(main)
        self.by_path = {
            call.level.path: call for calls in self.calls.values() for call in calls if call.text in self.chosen
        }
        self._class("", main)
        text = "\n\n\n".join(self.class_texts)
        known = ["import collections", "import torch", "import torch.nn.functional as F"]
        lines = _import_lines(text, [*self.imports, *known], self.named)
        head = [line for line in lines if not line.startswith("import funcnet")]
        while head and not head[-1]:
            head.pop()
        at = max((index for index, line in enumerate(head) if line.startswith("import torch")), default=-1)
        head.insert(at + 1, "from torch import nn")
        first = [line for line in head if line.startswith("import ")]
        later = [line for line in head if line.startswith("from ")]
        standard = [line for line in first if line.split()[1] in ("math", "operator", "collections")]
        others = [*sorted(set(first) - set(standard)), *sorted(set(later))]
        groups = [*([*standard, ""] if standard else []), *others]
        return "\n".join([*groups, "", "", text, ""])

    def _is_own(self, call: Call) -> bool:
        """Whether a module is no layer of torch.nn, and all its calls are equal."""
        path = call.level.path
        own = path in self.modules and path not in self.layers and not _only_holds(self.modules[path], *_LISTS, *_DICTS)
        inside = any(path.startswith(f"{layer}.") for layer in self.layers) or id(call) in self.away
        return own and len(self.texts[path]) == 1 and not inside

    # --- layers of torch.nn are called as they are ---

    def _as_layers(self, call: Call) -> None:
        for at, item in enumerate(call.items):
            if isinstance(item, Call):
                made = None if id(item) in self.away else self._as_layer(item)
                if made is not None:
                    call.items[at] = made
                else:
                    self._as_layers(item)

    def _as_layer(self, call: Call) -> Statement | None:
        path = call.level.path
        if path not in self.layers or isinstance(
            self.modules[path], (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
        ):
            return None
        statements = list(call.statements())
        made = [name for statement in statements for name in defined(statement.code)]
        read = [name for statement in statements for name in names_in(statement.code, ast.Load)]
        given = list(dict.fromkeys(name for name in read if name not in made and name not in self.program.sizes))
        given = [name for name in given if ":" not in name]
        within = {id(statement) for statement in statements}
        outside = {
            name
            for statement in self.program.statements
            if id(statement) not in within
            for name in names_in(statement.code, ast.Load)
        } | set(names_in(self.program.returned))
        results = [name for name in made if name in outside]
        if len(given) != 1 or len(results) != 1:
            return None
        for name in [one for one, value in self.program.new.items() if one.startswith(f"{path}.")]:
            del self.program.new[name]
        code = ast.Assign(
            [ast.Name(results[0], ast.Store())], ast.Call(ast.Name(f"self:{path}"), [ast.Name(given[0])], [])
        )
        self.program.stored.add(results[0])
        return Statement(code, call.level and statements[0].levels[:-1], self.program.nodes.get(results[0]))

    # --- functions become methods ---

    def _describe(self, call: Call) -> None:
        super()._describe(call)
        if call.level.path:
            self.calls[call.text].remove(call)
            if not self.calls[call.text]:
                del self.calls[call.text]
            call.text += f"\n{self._shape_of(call.level.path)}"
            self.calls.setdefault(call.text, []).append(call)

    def _shape_of(self, path: str) -> str:
        """What a module is built of, as text."""
        below = self.modules.get(path)
        if below is None:
            return ""
        parts = []
        for name, one in below.named_modules():
            built = self.layers.get(_join(path, name))
            parts.append(f"{name}: {type(one).__name__ if built is None else ast.unparse(ast.Expression(built))}")
        return "\n".join([*parts, *(f"{name} {tuple(one.shape)}" for name, one in below.named_parameters())])

    def _lowered(self, items: Sequence[Statement | Call], path: str, function: Function) -> tuple[list[Any], Any]:
        lowered, new = super()._lowered(items, path, function)
        done = {item.level.path for item in lowered if isinstance(item, Use)}
        for item in lowered:
            if isinstance(item, Use):
                item.state = None
        new = {
            name: value
            for name, value in new.items()
            if name not in done and not any(name.startswith(f"{one}.") for one in done)
        }
        return lowered, new

    # --- text ---

    def _class(self, path: str, function: Function | None) -> str:
        """The name of the class of a module; its text is written down when it is new."""
        module = self.modules[path]
        body = [*self._init(path, module)]
        if function is not None:
            body += ["", *self._forward(path, function)]
        text = "\n".join(body)
        if text not in self.classes:
            base = class_name(module)
            name, count = base, 1
            while name in self.classes.values() or name in self.named.values():
                count += 1
                name = f"{base}{count}"
            self.classes[text] = name
            self.class_texts.append(f"class {name}({'nn.Sequential' if _in_order(module) else 'nn.Module'}):\n{text}")
        return self.classes[text]

    def _init(self, path: str, module: nn.Module) -> list[str]:
        lines = ["    def __init__(self):", "        super().__init__()"]

        def add(head: str, text: str, tail: str = "") -> None:
            lines.extend(lines_of(head, ast.parse(text, mode="eval").body, str, 8, tail))

        for name, param in module._parameters.items():
            full = _join(path, name)
            if param is None:
                lines.append(f'        self.register_parameter("{name}", None)')
            elif full not in self.ties:
                frozen = "" if param.requires_grad else ", requires_grad=False"
                add(f"self.{name} = ", f"nn.Parameter({empty(param)}{frozen})")
            else:
                add(f"self.{name} = ", f"nn.Parameter({empty(param)})")
        for name, buffer in module._buffers.items():
            if buffer is None:
                lines.append(f'        self.register_buffer("{name}", None)')
            elif name in module._non_persistent_buffers_set:
                add("", f'self.register_buffer("{name}", {literal(buffer, _join(path, name))}, persistent=False)')
            else:
                add("", f'self.register_buffer("{name}", {empty(buffer)})')
        children = {name: self._built(_join(path, name), child) for name, child in module._modules.items()}
        if _in_order(module):
            lines[1:2] = lines_of("", ast.Call(ast.Name("super().__init__"), [*children.values()], []), str, 8)
            children = {}
        for name, built in children.items():
            if name.isidentifier():
                lines += lines_of(f"self.{name} = ", built, str, 8)
            else:
                lines += lines_of("", ast.Call(ast.Name("self.add_module"), [ast.Constant(name), built], []), str, 8)
        if not path:
            for tied, owner in self.ties.items():
                lines.append(f"        {self._access(tied, '')} = {self._access(owner, '')}")
            fixed = [key for key, one in module.named_parameters() if not one.requires_grad and "." in key]
            lines += [f"        {self._access(key, '')}.requires_grad_(False)" for key in fixed]
        return lines

    def _built(self, path: str, module: nn.Module | None) -> ast.expr:
        """The expression that builds a part."""
        if module is None:
            return ast.Constant(None)
        if path in self.layers:
            return self.layers[path]
        many = isinstance(module, nn.ModuleList)
        if _only_holds(module, nn.Sequential) and not _in_order(module):
            pairs: list[ast.expr] = [
                ast.Tuple([ast.Constant(name), self._built(_join(path, name), child)])
                for name, child in module._modules.items()
            ]
            ordered = ast.Call(ast.Name("collections.OrderedDict"), [ast.List(pairs)], [])
            return ast.Call(ast.Name("nn.Sequential"), [ordered], [])
        if _only_holds(module, nn.Sequential, nn.ModuleList):
            items = [self._built(_join(path, name), child) for name, child in module._modules.items()]
            if len(items) > 2 and len({ast.unparse(ast.Expression(item)) for item in items}) == 1:
                each = f"{ast.unparse(ast.Expression(items[0]))} for _ in range({len(items)})"
                return ast.Name(f"nn.ModuleList({each})" if many else f"nn.Sequential(*({each}))")
            if many:
                return ast.Call(ast.Name("nn.ModuleList"), [ast.List(items)], [])
            return ast.Call(ast.Name("nn.Sequential"), items, [])
        if _only_holds(module, nn.ModuleDict):
            parts = [
                (ast.Constant(name), self._built(_join(path, name), child)) for name, child in module._modules.items()
            ]
            return ast.Call(
                ast.Name("nn.ModuleDict"), [ast.Dict([key for key, _ in parts], [one for _, one in parts])], []
            )
        if type(module) in (nn.ParameterList, nn.ParameterDict):
            tensors = [f"nn.Parameter({empty(one)})" for one in module._parameters.values() if one is not None]
            if type(module) is nn.ParameterList:
                return ast.parse(f"nn.ParameterList([{', '.join(tensors)}])", mode="eval").body
            keys = [f'"{key}": {one}' for key, one in zip(module._parameters, tensors, strict=True)]
            return ast.parse(f"nn.ParameterDict({{{', '.join(keys)}}})", mode="eval").body
        call = self.by_path.get(path)
        return ast.Call(ast.Name(self._class(path, None if call is None else self._function(call))), [], [])

    def _forward(self, path: str, function: Function) -> list[str]:
        taken = {"self", *self.named.values(), "nn"} | set(self.classes.values())
        writer = _Methods(self.program, function, taken, self._access)
        writer.path = path if function.level.path == "" else function.level.path
        arguments = ["self", *(writer.argument(name) for name in function.free)]
        lines = lines_of("", ast.Call(ast.Name("def forward"), [ast.Name(name) for name in arguments], []), str, 4, ":")
        writer.indent = 8
        if path in self.skipped and function.free:
            lines += ["        if not self.training:", f"            return {writer.spoken(function.free[0])}"]
        lines += writer.body()
        for name, value in function.new.items():
            lines += lines_of(f"{self._access(name, writer.path)} = ", value, writer.spoken, 8)
        if not path:
            return [*lines, *lines_of("return ", self.program.returned, writer.spoken, 8)]
        if function.outputs:
            lines.append(f"        return {', '.join(map(writer.spoken, function.outputs))}")
        return lines

    def _access(self, path: str, base: str) -> str:
        """How a method of the module at ``base`` reaches what is at a path."""
        text, at = "self", base
        rest = path[len(base) :].lstrip(".") if base else path
        for key in rest.split(".") if rest else []:
            holder = self.modules.get(at)
            if key.isdigit() and (_in_order(holder) or isinstance(holder, (nn.ModuleList, nn.ParameterList))):
                text += f"[{key}]"
            elif isinstance(holder, _DICTS):
                text += f'["{key}"]'
            elif not key.isidentifier():
                text = f'getattr({text}, "{key}")'
            else:
                text += f".{key}"
            at = _join(at, key)
        return text


class _Methods(Writer):
    """Writes a method, where a place is an attribute."""

    def __init__(self, program: Program, function: Function, taken: set[str], access: Any) -> None:
        super().__init__(program, function, taken)
        self.access = access

    def spoken(self, name: str) -> str:
        kind, colon, rest = name.partition(":")
        if colon and name not in self.names and kind in ("params", "buffers", "self"):
            return self.access(rest, self.path)
        return super().spoken(name)

    def say(self, path: str, title: str) -> None:
        """A method needs no comments: its calls say what runs."""

    def call(self, function: Function, given: list[str], path: str, number: tuple[str, str] | None) -> ast.Call:
        text = self.access(path, self.path)
        if number is not None:
            head = self.access(number[0], self.path)
            text = f"{head}[i]" + "".join(f".{key}" for key in number[1].split(".") if key)
        return ast.Call(ast.Name(text), [ast.Name(name) for name in given], [])


def _one_layer(module: nn.Module, built: ast.Call) -> str:
    """A class that is a layer of torch.nn with its arguments."""
    kind = type(module).__name__
    call = ast.Call(ast.Name("super().__init__"), built.args, built.keywords)
    imports = ["import torch"] * ("torch." in ast.unparse(ast.Expression(call))) + ["from torch import nn"]
    lines = [f"class {kind}(nn.{kind}):", "    def __init__(self):", *lines_of("", call, str, 8)]
    return "\n".join([*imports, "", "", *lines, ""])


def class_name(module: nn.Module) -> str:
    """What the class for a module is called: a body written as a function, after the function."""
    name = module._get_name()
    if isinstance(module, Body):
        name = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    return re.sub(r"\W", "", name) or "Module"


def _only_holds(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is such a container, with nothing of its own."""
    plain = isinstance(module, (nn.ParameterList, nn.ParameterDict)) or not (module._parameters or module._buffers)
    own = isinstance(module, nn.Sequential) and type(module).forward is not nn.Sequential.forward
    return isinstance(module, kinds) and plain and not own


def _in_order(module: nn.Module | None) -> bool:
    """Whether a module is a Sequential whose children are numbered."""
    return isinstance(module, nn.Sequential) and list(module._modules) == [*map(str, range(len(module)))]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
