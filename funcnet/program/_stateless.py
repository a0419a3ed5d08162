"""The text of a forward as functions of params and buffers."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from funcnet.program._folding import Folding
from funcnet.program._statements import ForwardProgram, Routine
from funcnet.program._text import lines_of
from funcnet.program._vocabulary import Vocabulary, import_lines, import_names
from funcnet.program._writer import Writer, buffer_tree, definition_lines, inline_statements, return_lines


def write_functions(program: ForwardProgram, mode: str, input_lines: Sequence[str], vocabulary: Vocabulary) -> str:
    """The module that defines ``forward(params, buffers, *inputs, rng=None)``; ``input_lines`` describe the inputs."""
    imports = list(vocabulary.imports)
    imported = import_names(program, imports)
    folding = Folding(program)
    main = folding.fold()
    reserved = {*folding.function_names, *imported.values(), *vocabulary.global_names}
    conditions: dict[str, None] = {}
    parts = [_function_lines(program, function, reserved, conditions) for function in folding.order]
    parts.append(_forward_lines(program, main, reserved, mode, input_lines, conditions))
    text = "\n\n\n".join("\n".join(part) for part in parts)
    return "\n".join([*import_lines(text, imports, imported), "", "", text, ""])


def _function_lines(
    program: ForwardProgram, function: Routine, reserved: set[str], conditions: dict[str, None]
) -> list[str]:
    """The lines of a function; ``conditions`` collects what they assert."""
    writer = Writer(program, function, reserved)
    arguments: list[str] = [kind for kind in ("params", "buffers") if kind in function.kinds]
    arguments += [writer.names.name_argument(value) for value in function.inputs]
    arguments += ["rng", "path"] if "rng" in function.kinds else []
    path = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", function.call_key.path)
    head = [*definition_lines(function.name, arguments), f'    """{function.call_key.title}, as at {path}."""']
    body = writer.body(inline_statements(program, function))
    conditions |= writer.conditions
    return [*head, *body, *_result_lines(program, function, writer)]


def _result_lines(program: ForwardProgram, function: Routine, writer: Writer) -> list[str]:
    """The last lines of a function: its outputs, and the tree of its buffers if it makes any of them new."""
    results: list[ast.expr] = [ast.Name(name) for name in function.outputs]
    lines: list[str] = []
    if function.new_buffers:
        tree = buffer_tree(program, function.new_buffers, function.call_key.path)
        result = ast.Tuple([*results, tree]) if results else tree
        shown = lines_of("return ", result, writer.spell, 4)
        if len(shown) == 1:
            return [shown[0].replace("return (", "return ", 1)[:-1]] if results else shown
        lines = lines_of("new_buffers = ", tree, writer.spell, 4)
        results = [*results, ast.Name("new_buffers")]
    if not results:
        return lines
    return [*lines, f"    return {', '.join(lines_of('', result, writer.spell)[0] for result in results)}"]


def _forward_lines(
    program: ForwardProgram,
    main: Routine,
    reserved: set[str],
    mode: str,
    input_lines: Sequence[str],
    conditions: dict[str, None],
) -> list[str]:
    writer = Writer(program, main, reserved)
    writer.fix_arguments()
    body = writer.body(inline_statements(program, main))
    lines = definition_lines("forward", ["params", "buffers", *program.arguments, "*", "rng=None"])
    about = [f"{program.title} in {mode} mode: (output, new buffers)."]
    if input_lines:
        about += ["", *(f"    {line}" for line in input_lines)]
    if conditions | writer.conditions:
        about += ["", *(f"    asserted: {condition}" for condition in conditions | writer.conditions)]
    if "rng" in main.kinds:
        about += ["", "    rng: a key, funcnet.random.key(0), or a seed as of torch.manual_seed."]
    lines += f'    """{about[0]}"""'.splitlines() if len(about) == 1 else [f'    """{about[0]}', *about[1:], '    """']
    if "rng" in main.kinds:
        lines.append("    rng = fn.random.ByPath(rng)")
    return [*lines, *body, *return_lines(program, writer, unchanged="buffers")]
