"""The text of a forward as functions of params and buffers."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence

from funcnet.program._parts import folded
from funcnet.program._program import Program, Statement
from funcnet.program._source_calls import Function
from funcnet.program._text import lines_of
from funcnet.program._write import Writer


def stateless(program: Program, mode: str, inputs: Sequence[str], imports: Sequence[str]) -> str:
    """The module that defines ``forward(params, buffers, *inputs, rng=None)``.

    Args:
        program: the forward.
        mode: "eval" or "training".
        inputs: what each input is, one line each.
        imports: lines that the statements may need.
    """
    named = _imported_by_name(program, imports)
    main, functions = folded(program)
    taken = {function.name for function in functions} | {"forward", *named.values()}
    taken |= {line.split()[-1].split(".")[0] for line in imports}
    parts = [_written(program, function, taken) for function in functions]
    parts.append(_forward(program, main, taken, mode, inputs))
    text = "\n\n\n".join("\n".join(part) for part in parts)
    return "\n".join([*_import_lines(text, imports, named), "", "", text, ""])


def _written(program: Program, function: Function, taken: set[str]) -> list[str]:
    writer = Writer(program, function, taken)
    arguments: list[str] = [kind for kind in ("params", "buffers") if kind in function.places]
    arguments += [writer.argument(name) for name in function.free]
    arguments += ["rng", "path"] if "rng" in function.places else []
    call = ast.Call(ast.Name(f"def {function.name}"), [ast.Name(name) for name in arguments], [])
    lines = lines_of("", call, str, 0, ":")
    path = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", function.level.path)
    lines.append(f'    """{function.level.title}, as at {path}."""')
    lines += writer.body()
    results: list[ast.expr] = [ast.Name(name) for name in function.outputs]
    return [*lines, *_returned(program, function, writer, results)]


def _returned(program: Program, function: Function, writer: Writer, results: list[ast.expr]) -> list[str]:
    lines: list[str] = []
    if function.new:
        tree = new_tree(program, function.new, function.level.path)
        lines = lines_of("new_buffers = ", tree, writer.spoken, 4)
        whole = lines_of("return ", _results([*results, tree]), writer.spoken, 4)
        if len(whole) == 1:
            return [
                whole[0].replace("return (", "return ", 1)[:-1] if whole[0].startswith("    return (") else whole[0]
            ]
        results = [*results, ast.Name("new_buffers")]
    if not results:
        return lines
    shown = ", ".join(lines_of("", value, writer.spoken, 0)[0] for value in results)
    return [*lines, f"    return {shown}"]


def _results(values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.Tuple(values, ast.Load())


def _forward(program: Program, main: Function, taken: set[str], mode: str, inputs: Sequence[str]) -> list[str]:
    writer = Writer(program, main, taken)
    arguments = ["params", "buffers", *(writer.argument(name) for name in main.free), "*", "rng=None"]
    lines = lines_of("", ast.Call(ast.Name("def forward"), [ast.Name(name) for name in arguments], []), str, 0, ":")
    lines.append(f'    """{program.title} in {mode} mode: (output, new buffers).')
    if inputs:
        lines += ["", *(f"    {line}" for line in inputs)]
    if "rng" in main.places:
        lines += ["", "    rng: a key, funcnet.random.key(0), or a seed as of torch.manual_seed."]
    lines.append('    """')
    if lines[-2].startswith('    """'):
        lines[-2:] = [lines[-2] + '"""']
    if "rng" in main.places:
        lines.append("    rng = fn.random.ByPath(rng)")
    lines += writer.body()
    output, tail = program.returned, "buffers"
    if main.new:
        lines += lines_of("new_buffers = ", new_tree(program, main.new, ""), writer.spoken, 4)
        tail = "new_buffers"
    whole = ast.Tuple([output, ast.Name(tail)], ast.Load())
    shown = lines_of("", whole, writer.spoken, 11)
    if len(shown) == 1 and isinstance(output, ast.Name):
        return [*lines, f"    return {shown[0].strip()[1:-1]}"]
    return [*lines, *lines_of("output = ", output, writer.spoken, 4), f"    return output, {tail}"]


def new_tree(program: Program, new: Mapping[str, ast.expr], base: str) -> ast.expr:
    """The expression for all buffers below a path, with the new ones in their places."""
    inside = f"{base}." if base else ""
    names = dict.fromkeys(path[len(inside) :].split(".")[0] for path in program.buffers if path.startswith(inside))
    keys: list[ast.expr | None] = []
    values: list[ast.expr] = []
    spread = new.get(f"{base}.*")
    for name in names:
        path = f"{inside}{name}"
        below = any(key.startswith(f"{path}.") for key in new)
        if path in new:
            value = new[path]
        elif below:
            value = new_tree(program, new, path)
        elif spread is not None and any(key.startswith(f"{path}.") for key in program.new):
            if None not in keys:
                keys.append(None)
                values.append(spread)
            continue
        else:
            value = ast.Name(f"buffers:{path}", ast.Load())
        keys.append(ast.Constant(name))
        values.append(value)
    if keys == [None]:
        return values[0]
    return ast.Dict(keys, values)


# --- imports ---


def _imported_by_name(program: Program, imports: Sequence[str]) -> dict[str, str]:
    """Say ``Name`` for ``package.module.Name``; which names those are."""
    found: dict[str, str] = {}
    modules = [line.split()[1] for line in imports if " as " not in line and "." in line]

    class Change(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            text = ast.unparse(node)
            module, _, name = text.rpartition(".")
            if module in modules and not any(text != key and value == name for key, value in found.items()):
                found[text] = name
                return ast.Name(name, ast.Load())
            return self.generic_visit(node)

    change = Change()

    def through(statements: Sequence[Statement]) -> None:
        for statement in statements:
            if isinstance(statement.code, ast.With):
                through(statement.code.body)  # type: ignore[arg-type]
            else:
                statement.code = change.visit(statement.code)

    through(program.statements)
    program.returned = change.visit(program.returned)
    return found


def _import_lines(text: str, imports: Sequence[str], named: Mapping[str, str]) -> list[str]:
    lines = []
    text = re.sub(r'"""[\s\S]*?"""|# .*', "", text)  # what is said about it imports nothing
    for line in imports:
        name = line.split()[-1]
        if re.search(rf"(?<![\w.\"]){re.escape(name)}\.", text):
            lines.append(line)
    for full, name in named.items():
        lines.append(f"from {full.rpartition('.')[0]} import {name}")
    if re.search(r"(?<![\w.\"])fn\.", text) and not any(line.endswith(" as fn") for line in lines):
        lines.append("import funcnet as fn")
    standard = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
    groups = [sorted(set(group), key=_order) for group in (standard, set(lines) - set(standard)) if group]
    return [line for at, group in enumerate(groups) for line in ([""] if at else []) + group]


def _order(line: str) -> tuple[bool, str]:
    """As isort has it: first what is imported whole."""
    return line.startswith("from "), line
