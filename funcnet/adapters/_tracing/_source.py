"""The text of a captured forward, and of what a net does around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils._sympy.printers import PythonPrinter

from funcnet.adapters._tracing._capture import Captured
from funcnet.adapters._tracing._emit import Emitted
from funcnet.adapters._tracing._inputs import Check, Inputs
from funcnet.adapters._tracing._words import Words
from funcnet.tree import unflatten


class Code(NamedTuple):
    """A forward in one mode.

    ``source`` is the text of ``forward(params, buffers, *inputs, rng)``, complete with its imports; ``signature`` that
    of the module, ``arguments`` those of its arguments that hold tensors; ``checks`` must hold for a call. Paths:
    ``replaced`` of buffers that it gives new, ``copied`` of those it writes to on a copy, ``draws`` of modules that
    draw. ``attends`` says that it calls torch's attention, which knows no transforms.
    """

    train: bool
    signature: str
    source: str
    arguments: tuple[str, ...]
    buffers: bool
    checks: tuple[Check, ...]
    replaced: tuple[str, ...]
    draws: tuple[str, ...]
    copied: tuple[str, ...]
    attends: bool
    imports: tuple[str, ...]
    objects: tuple[tuple[str, Any], ...]


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


# --- what a call must fulfil ---


def shape_checks(captured: Captured, inputs: Inputs, free: Sequence[Sequence[int]], relaxed: bool) -> list[Check]:
    """Dtype and sizes of every tensor input, and the conditions on free sizes that the capture relied on.

    Args:
        captured, inputs: the capture and what it was made with.
        free: for each tensor, the axes that were to stay free.
        relaxed: leave out what only torch's tracer asked for and excludes size 1.
    """
    names: dict[Any, str] = {}
    checks = []
    for index, tensor in enumerate(inputs.tensors):
        sizes = captured.sizes[index] if index < len(captured.sizes) and captured.sizes[index] else None
        conditions, words = [], []
        for axis, example in enumerate(tensor.value.shape):
            size = sizes[axis] if sizes is not None else None
            place = f"{tensor.place}.shape[{axis}]"
            if isinstance(size, int) or axis not in free[index]:
                words.append(str(example))
                conditions.append((axis, str(example)))
            elif size is None:
                words.append("any")
            elif size in names:
                words.append(names[size])
                conditions.append((axis, names[size]))
            elif size.is_Symbol:
                names[size] = place
                words.append("batch" if axis == 0 else place)
            else:
                words.append(_printed(size, names))
                conditions.append((axis, _printed(size, names)))
        dtype = str(tensor.value.dtype)
        shape = f"({', '.join(words)}{',' if len(words) == 1 else ''})"
        of_shape = _of_shape(tensor.place, tensor.value.dim(), conditions)
        text = f"_isinstance({tensor.place}, _Tensor) and {tensor.place}.dtype is {dtype} and {of_shape}"
        batch = next((place for place in names.values() if place.endswith("[0]")), None)
        shape = shape.replace(batch, "batch") if batch is not None else shape
        checks.append(Check(tensor.place, f"{dtype.removeprefix('torch.')} {shape}", text))
    for guard in captured.guards:
        ones = guard.condition.subs(dict.fromkeys(guard.condition.free_symbols, 1))
        if relaxed and not guard.asked and ones == False:  # noqa: E712 - a sympy expression
            continue
        if all(symbol in names for symbol in guard.condition.free_symbols):
            text = _printed(guard.condition, names)
            where = f", as at {guard.where}" if guard.asked and guard.where else ""
            place = ", ".join(sorted(names[symbol] for symbol in guard.condition.free_symbols))
            checks.append(Check(place, f"{text}{where}", text, ones != False))  # noqa: E712 - a sympy expression
    return checks


def _of_shape(place: str, rank: int, conditions: Sequence[tuple[int, str]]) -> str:
    """An expression for a rank and the sizes of some axes; one comparison where all but the first are numbers."""
    if [axis for axis, _ in conditions] == list(range(1, rank)) and rank > 1:
        sizes = ", ".join(size for _, size in conditions)
        return f"{place}.shape[1:] == ({sizes}{',' if rank == 2 else ''})"
    if len(conditions) == rank:
        return f"{place}.shape == ({', '.join(size for _, size in conditions)}{',' if rank == 1 else ''})"
    each = "".join(f" and {place}.shape[{axis}] == {size}" for axis, size in conditions)
    return f"{place}.dim() == {rank}{each}"


def _printed(expression: Any, names: Mapping[Any, str]) -> str:
    text = PythonPrinter().doprint(expression)
    for symbol, place in names.items():
        text = text.replace(str(symbol), place)
    return text
