"""The text of a captured forward, and of what a net does around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from funcnet.program._code import Check, Code
from funcnet.program._emit import Emitted
from funcnet.program._trace_inputs import Inputs
from funcnet.program._words import Words
from funcnet.tree import unflatten


def code_for(
    title: str,
    train: bool,
    emitted: Emitted,
    inputs: Inputs,
    words: Words,
    checks: Sequence[Check],
    buffers: Sequence[str],
) -> Code:
    """The text of a function with these statements, and what a call of it takes.

    Args:
        title: name of the module's class.
        train: the mode.
        emitted, inputs, words: its statements, what it was captured with, and what its text imports.
        checks: what a call must fulfil.
        buffers: paths of all buffers of the module.
    """
    arguments = [*(["buffers"] if buffers else []), *map(inputs.inside, inputs.used)]
    draws = ["*", "rng"] if emitted.draws else []
    lines = [*emitted.lines, *_returned(emitted, buffers)]
    mode = "training" if train else "eval"
    returns = "(output, new buffers)" if emitted.new else "the output"
    where = "".join(f"\n    {check.place}: {check.expected}" for check in checks)
    about = f'"""{title} in {mode} mode, as a function of its params. Returns {returns}.\n'
    about += f'\n    Captured by funcnet.trace for{where or " no inputs"}\n    """'
    if emitted.draws:
        about = about.replace("\n    ", "\n    rng(path) is what the module at that path draws from.\n    ", 1)
    imports = sorted(words.imports, key=lambda line: (line.startswith("import funcnet"), line))
    head = f"def forward({', '.join(['params', *arguments, *draws])}):"
    text = "\n".join([*imports, *([""] * 2 if imports else []), head, *(f"    {line}" for line in [about, *lines]), ""])
    return Code(
        train,
        inputs.signature,
        text,
        tuple(inputs.used),
        bool(buffers),
        tuple(checks),
        tuple(path for path in buffers if path in emitted.new),
        emitted.draws,
        emitted.copied,
        "scaled_dot_product_attention(" in text or "multi_head_attention_forward" in text,
        tuple(imports),
        tuple(words.objects.items()),
    )


def _returned(emitted: Emitted, buffers: Sequence[str]) -> list[str]:
    if not emitted.new:
        return [f"return {emitted.returned}"]
    held = {path: "buffers" + "".join(f'["{key}"]' for key in path.split(".")) for path in buffers}
    tree = unflatten({**held, **emitted.new})
    return [f"return {emitted.returned}, {{", *_literal(tree, "    "), "}"]


def _literal(tree: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += [f'{indent}"{key}": {{', *_literal(value, f"{indent}    "), f"{indent}}},"]
        else:
            lines.append(f'{indent}"{key}": {value},')
    return lines
