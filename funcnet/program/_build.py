"""From a module to code, for ``trace`` and ``source``: capture the forward, write it, compare it with the module."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, InitError, bullet_list
from funcnet._torch import pytree
from funcnet._typing import Tree, TreeLike
from funcnet.adapters import from_module, to_module
from funcnet.core import Buffer, Net
from funcnet.foreign.internals import unwrap_module
from funcnet.program._capture import Captured, iter_captures
from funcnet.program._code_lines import FROM_MODULE
from funcnet.program._comparison import (
    Mismatch,
    Observation,
    clone_tensors,
    compare_with_module,
    find_differences,
    observe_function,
    observe_module,
)
from funcnet.program._graph_to_statements import add_statements
from funcnet.program._inputs import Inputs, free_axes, inner_name, named_arguments, read_inputs
from funcnet.program._modes import use_module_mode
from funcnet.program._simplify import simplify
from funcnet.program._size_checks import FreeAxes, dtype_checks, size_checks
from funcnet.program._stateful import write_classes
from funcnet.program._stateless import write_functions
from funcnet.program._statements import ForwardProgram, ModuleCallKey, Routine, expression_names
from funcnet.program._text import UNLIMITED, text_of
from funcnet.program._traced import Check, Dynamic, ModeCode, Traced, run_text
from funcnet.program._vocabulary import Vocabulary
from funcnet.program._writer import Writer, definition_lines, return_lines
from funcnet.random import ByPath
from funcnet.random.internals import read_torch_state
from funcnet.tree import flatten, unflatten

Args = tuple[object, ...]
Kwargs = Mapping[str, object]
T = TypeVar("T")
_MAX_SHOWN = 6  # mismatches in a message


class _Subject:
    """A module that is to be written as code, and the net from_module makes of it."""

    def __init__(self, module: nn.Module, args: Args, kwargs: Kwargs, dynamic: Dynamic) -> None:
        self.net, self.params, self.buffers = from_module(module)
        self.module = unwrap_module(module)
        self.buffer_paths = [entry.path for entry in self.net.entries() if isinstance(entry.spec, Buffer)]
        self.inputs = read_inputs(self.module, args, kwargs)
        self.free = free_axes(self.inputs, dynamic)

    def write_program(
        self, captured: Captured, inputs: Inputs, arguments: Mapping[str, ast.expr], vocabulary: Vocabulary
    ) -> ForwardProgram:
        program = ForwardProgram(captured, self.module, self.net.title(), self.buffer_paths)
        add_statements(program, inputs, arguments, vocabulary)
        return program


def build_traced(
    module: nn.Module, args: Args, kwargs: Kwargs, train: bool | str, dynamic: Dynamic, exact: bool
) -> tuple[Traced, Tree, Tree]:
    """See :func:`funcnet.trace`."""
    modes = (False, True) if train == "both" else (train,)
    if not all(isinstance(mode, bool) for mode in modes):
        raise ValueError(f'train is True, False or "both", not {train!r}.')
    subject = _Subject(module, args, kwargs, dynamic)
    codes = [code for mode in modes for code in _codes_for_mode(subject, bool(mode), args, kwargs, exact)]
    net: Net = Traced(subject.net, tuple(codes))
    net = net.tie(subject.net._aliases) if subject.net._aliases else net
    net = net.freeze(set(subject.net.frozen).__contains__) if subject.net.frozen else net
    return net, subject.params, subject.buffers  # type: ignore[return-value]  # Traced, tied or not


def _first_exact(
    captures: Iterable[Captured], write: Callable[[Captured], tuple[T, list[Mismatch]]]
) -> tuple[T, list[Mismatch]]:
    """What is written for the first capture that does what the module does; if none does, for the first of all."""
    first: tuple[T, list[Mismatch]] | None = None
    for captured in captures:
        written, mismatches = write(captured)
        if not mismatches:
            return written, mismatches
        first = first or (written, mismatches)
    assert first is not None
    return first


def _codes_for_mode(subject: _Subject, train: bool, args: Args, kwargs: Kwargs, exact: bool) -> list[ModeCode]:
    """Code for one mode, and separate code for free sizes of 1 if the forward treats those differently."""
    inputs, free = subject.inputs, subject.free
    expected = observe_module(subject.module, train, args, kwargs)
    strict, relaxed = _exact_codes(subject, train, inputs, free, expected, args, kwargs, exact)
    if not _excludes_size_one(strict):
        return [strict]
    args, kwargs = _with_sizes_of_one(inputs, free, args, kwargs)
    try:
        expected = observe_module(subject.module, train, args, kwargs)
    except Exception:
        return [strict]  # the module does not accept them either
    mismatches = _code_differences(subject, relaxed, expected, args, kwargs)
    if not _excludes_size_one(relaxed) and not (mismatches if exact else _beyond_rounding(mismatches)):
        return [relaxed]
    inputs = read_inputs(subject.module, args, kwargs)
    code_for_size_one, _ = _exact_codes(subject, train, inputs, [() for _ in free], expected, args, kwargs, exact)
    return [strict, code_for_size_one]


def _exact_codes(
    subject: _Subject,
    train: bool,
    inputs: Inputs,
    free: FreeAxes,
    expected: Observation,
    args: Args,
    kwargs: Kwargs,
    exact: bool,
) -> tuple[ModeCode, ModeCode]:
    """Code that does what the module does: with all conditions, and without those that only torch's tracer made.

    Raises:
        ConversionError: if it does something else, or with ``exact``, anything but the same bits.
    """

    def write(captured: Captured) -> tuple[tuple[ModeCode, ModeCode], list[Mismatch]]:
        codes = _write_codes(subject, captured, train, inputs, free)
        return codes, _code_differences(subject, codes[0], expected, args, kwargs)

    codes, rounding = _first_exact(iter_captures(subject.module, train, inputs, free), write)
    _refuse_mismatches(f"the code captured from {subject.net.title()}", rounding, exact)
    strict, relaxed = (code._replace(source=_with_rounding(code.source, rounding)) for code in codes)
    return strict, relaxed


def _write_codes(
    subject: _Subject, captured: Captured, train: bool, inputs: Inputs, free: FreeAxes
) -> tuple[ModeCode, ModeCode]:
    vocabulary = inputs.vocabulary.copy()
    arguments: dict[str, ast.expr] = {inner_name(name): ast.Name(name) for name in inputs.names_with_tensors}
    program = subject.write_program(captured, inputs, arguments, vocabulary)
    body, conditions = _body_lines(program, vocabulary.global_names)
    imports = sorted(vocabulary.imports, key=lambda line: (line.startswith("import funcnet"), line))

    def code(relaxed: bool) -> ModeCode:
        checks = [*inputs.checks, *size_checks(captured, inputs, free, relaxed), *dtype_checks(subject.params)]
        head = _head_lines(program, train, checks, conditions)
        text = "\n".join([*imports, *([""] * 2 if imports else []), *head, *body, ""])
        return ModeCode(
            train=train,
            signature=inputs.signature,
            source=text,
            arguments=tuple(inputs.names_with_tensors),
            takes_buffers=bool(subject.buffer_paths),
            checks=tuple(checks),
            conditions=tuple(conditions),
            new_buffers=tuple(path for path in subject.buffer_paths if path in program.new_buffers),
            drawing_paths=tuple(program.drawing_paths),
            copied_buffers=tuple(program.copied_buffers),
            calls_attention_kernel="scaled_dot_product_attention(" in text or "multi_head_attention_forward" in text,
            imports=tuple(imports),
            objects_by_name=tuple(vocabulary.objects.items()),
        )

    return code(relaxed=False), code(relaxed=True)


def _body_lines(program: ForwardProgram, reserved: set[str]) -> tuple[list[str], list[str]]:
    """The lines of a captured function after its head, and what they assert.

    A statement is one line, which a traceback shows whole.
    """
    main = Routine("forward", ModuleCallKey("", "", program.title), list(program.arguments.values()), [])
    main.items, main.new_buffers = [*program.statements], program.new_buffers
    main.outputs = list(expression_names(program.returned))
    writer = Writer(program, main, reserved, UNLIMITED)
    writer.fix_arguments()
    return [*writer.body(main.items), *return_lines(program, writer)], [*writer.conditions]


def _head_lines(program: ForwardProgram, train: bool, checks: Sequence[Check], conditions: Sequence[str]) -> list[str]:
    """The head of a captured function: its arguments and results, and what it was captured for."""
    arguments = ["params", *(["buffers"] if program.buffer_paths else []), *program.arguments]
    returns = "(output, new buffers)" if program.new_buffers else "the output"
    mode = "training" if train else "eval"
    lines = [f'"""{program.title} in {mode} mode, as a function of its params. Returns {returns}.', ""]
    if program.drawing_paths:
        arguments += ["*", "rng"]
        lines.append("rng(path) is what the module at that path draws from.")
    lines.append(f"Captured by funcnet.trace for{'' if checks else ' no inputs'}")
    lines += [f"{check.expression}: {check.expected}" for check in checks]
    lines += [*(f"asserted: {condition}" for condition in conditions), '"""']
    return [*definition_lines("forward", arguments), *(f"    {line}".rstrip() for line in lines)]


def _with_sizes_of_one(inputs: Inputs, free: FreeAxes, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """The inputs with every free size cut to 1."""
    cut: dict[int, Tensor] = {}
    for tensor, axes in zip(inputs.tensors, free, strict=True):
        value = tensor.value.detach()
        for axis in axes:
            value = value.narrow(axis, 0, min(1, value.shape[axis]))
        cut[id(tensor.value)] = value.clone().requires_grad_(tensor.value.requires_grad)
    result: tuple[Args, Kwargs] = pytree.tree_map_only(Tensor, lambda value: cut[id(value)], (args, dict(kwargs)))
    return result


def _excludes_size_one(code: ModeCode) -> bool:
    """Whether a call with free sizes of 1 fails the conditions on sizes."""
    return not all(check.holds_at_size_one for check in code.checks)


def _beyond_rounding(mismatches: Sequence[Mismatch]) -> list[Mismatch]:
    return [mismatch for mismatch in mismatches if mismatch.distance is None]


def _refuse_mismatches(what: str, mismatches: Sequence[Mismatch], exact: bool) -> None:
    """Refuse mismatches, those of rounding only where the result must be exact.

    Raises:
        ConversionError: names the tensors, how far they are apart, and the way out.
    """
    refused = mismatches if exact else _beyond_rounding(mismatches)
    if not refused:
        return
    shown = [mismatch.text for mismatch in refused[:_MAX_SHOWN]]
    if len(refused) > _MAX_SHOWN:
        shown.append(f"and {len(refused) - _MAX_SHOWN} more")
    reason = "It may ask whether it is being compiled, or for something that was different then."
    if not _beyond_rounding(refused):
        largest = max(mismatch.distance or 0.0 for mismatch in refused)
        reason += (
            f" The difference is one of rounding, at most {largest:.2g}: exact=False accepts it, and writes it in the "
            f"head of the text. Or"
        )
    raise ConversionError(f"{what} does not do what the module does:{bullet_list(shown)}\n{reason} {FROM_MODULE}")


def _with_rounding(text: str, mismatches: Sequence[Mismatch]) -> str:
    """A text that says in its head how far it is from the module, if it is not exact."""
    if not mismatches:
        return text
    farthest = max(mismatches, key=lambda mismatch: mismatch.distance or 0.0)
    words = f"Not exact. The largest difference from the module is in {farthest.text}"
    lines = textwrap.wrap(words, 86, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*(f"# {line}" for line in lines), text])


def _code_differences(
    subject: _Subject, code: ModeCode, expected: Observation, args: Args, kwargs: Kwargs
) -> list[Mismatch]:
    """How the results of code differ from those of the module, and which tensors it writes to."""
    params, buffers = subject.params, subject.buffers
    state, inputs_before = read_torch_state(), clone_tensors((buffers, args, dict(kwargs)))
    versions = {path: tensor._version for path, tensor in flatten(params).items()}
    forward = run_text(code.source, f"{subject.net.title()} forward", dict(code.objects_by_name))["forward"]
    values = inspect.signature(subject.module.forward).bind(*args, **kwargs).arguments
    inputs = [*([buffers] if code.takes_buffers else []), *(values[name] for name in code.arguments)]
    draws = {"rng": ByPath(0)} if code.drawing_paths else {}

    def run_code(leaves: TreeLike) -> tuple[object, TreeLike]:
        output = forward(leaves, *inputs, **draws)
        return output if code.new_buffers else (output, buffers)

    try:
        mismatches = compare_with_module(observe_function(run_code, params), expected)
    except AssertionError as error:
        return [Mismatch(f"{type(error).__name__}: {error}")]
    written = [path for path, tensor in flatten(params).items() if tensor._version != versions[path]]
    if written or any(find_differences(inputs_before, (buffers, args, dict(kwargs)))):
        names = ", ".join(written) or "inputs or buffers"
        mismatches.append(Mismatch(f"it writes to what it is given: {names}"))
    if not torch.equal(state, read_torch_state()):
        mismatches.append(Mismatch("it moves torch's global generator"))
    return mismatches


def build_source(
    module_or_net: nn.Module | Net, args: Args, kwargs: Kwargs, train: bool, style: str, dynamic: Dynamic, exact: bool
) -> str:
    """See :func:`funcnet.source`."""
    if style not in ("stateless", "stateful"):
        raise ValueError(f'style is "stateless" or "stateful", not "{style}".')
    if isinstance(module_or_net, nn.Module):
        module, body = module_or_net, list[str]()
    else:
        module, body = _module_of(module_or_net, style), list(inspect.signature(module_or_net.forward).parameters)
    subject = _Subject(module, args, kwargs, dynamic)
    inputs = subject.inputs
    named = named_arguments(subject.module, body, inputs)
    arguments = {name: expression for name, (expression, _) in named.items()}
    values = {name: value for name, (_, value) in named.items()}
    modes = (False, True) if style == "stateful" else (train,)
    expected = {mode: observe_module(subject.module, mode, args, kwargs) for mode in modes}

    def write(captured: Captured) -> tuple[str, list[Mismatch]]:
        vocabulary = inputs.vocabulary.copy()

        def write_program() -> ForwardProgram:
            program = subject.write_program(captured, inputs, arguments, vocabulary)
            simplify(program)
            if vocabulary.objects:
                raise _unimportable_error(subject, vocabulary)
            return program

        if style == "stateful":
            return _write_classes(subject, write_program, vocabulary, values, expected, exact)
        names = {text_of(expression): name for name, expression in arguments.items()}
        about = [check for check in inputs.checks if check.expected.startswith("the tensor given")]
        about += [check for check in size_checks(captured, inputs, subject.free) if "_Tensor" in check.condition]
        lines = [f"{names.get(check.expression, check.expression)}: {check.expected}" for check in about]
        text = write_functions(write_program(), "training" if train else "eval", lines, vocabulary)
        return text, _text_differences(text, subject, expected[train], values)

    captures = iter_captures(subject.module, modes[-1], inputs, subject.free)
    text, mismatches = _first_exact(captures, write)
    _refuse_mismatches(f"the source of {subject.net.title()}", mismatches, exact)
    return _with_rounding(text, mismatches)


def _unimportable_error(subject: _Subject, vocabulary: Vocabulary) -> ConversionError:
    """The error about functions and classes that a text which runs by itself cannot import."""
    lines = []
    for name, value in vocabulary.objects.items():
        line = f"{name}, of {getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', name)}"
        with contextlib.suppress(OSError, TypeError):  # of code that was typed in
            source_file, (_, number) = inspect.getsourcefile(value), inspect.getsourcelines(value)  # type: ignore[arg-type]
            line += f", at {source_file}:{number}"
        lines.append(line)
    return ConversionError(
        f"the source of {subject.net.title()} would have to import what is defined inside of a function:"
        f"{bullet_list(lines)}\n"
        f"Define it at the top level of its file; or use fn.trace(module, ...), whose code need not run alone."
    )


def _text_differences(text: str, subject: _Subject, expected: Observation, values: Kwargs) -> list[Mismatch]:
    """How the results of the function in a text differ from those of the module."""
    try:
        forward, inputs = _run_source(text)["forward"], clone_tensors(values)
        observation = observe_function(lambda leaves: forward(leaves, subject.buffers, **inputs, rng=0), subject.params)
        return compare_with_module(observation, expected)
    except Exception as error:  # a text that does not run is one that may not be handed out
        return [Mismatch(f"it fails: {type(error).__name__}: {error}")]


def _run_source(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "source"}
    exec(compile(text, "<funcnet.source>", "exec"), namespace)
    return namespace


def _write_classes(
    subject: _Subject,
    write_program: Callable[[], ForwardProgram],
    vocabulary: Vocabulary,
    values: Kwargs,
    expected: Mapping[bool, Observation],
    exact: bool,
) -> tuple[str, list[Mismatch]]:
    """The text of classes, and what they do otherwise than the module in either mode."""
    problems: list[Mismatch] = []
    for skip_in_eval in (False, True):
        text = write_classes(write_program(), subject.net.aliases, vocabulary, skip_in_eval)
        mismatches = [
            mismatch
            for train in expected
            for mismatch in _class_differences(text, subject.module, train, expected[train], values)
        ]
        if not (mismatches if exact else _beyond_rounding(mismatches)):
            return text, mismatches
        problems = problems or mismatches
    program = write_program()
    drawing = [program.captured.where(node) for node in use_module_mode(program).values() if node is not None]
    lines = (f"it draws, in training only, at {line}" for line in dict.fromkeys(drawing))
    return text, [*problems, *map(Mismatch, lines)]


def _class_differences(
    text: str, module: nn.Module, train: bool, expected: Observation, values: Kwargs
) -> list[Mismatch]:
    """What the class in a text does otherwise than the module."""
    namespace = _run_source(text)
    try:
        twin = namespace[re.findall(r"^class (\w+)", text, re.MULTILINE)[-1]]()
        if list(twin.state_dict()) != list(module.state_dict()):
            keys = f"its keys are {list(twin.state_dict())}, those of the module {list(module.state_dict())}"
            return [Mismatch(keys)]
        twin.load_state_dict(module.state_dict())
        return compare_with_module(observe_module(twin, train, (), values), expected)
    except Exception as error:  # a text that does not run is one that may not be handed out
        return [Mismatch(f"it fails: {type(error).__name__}: {error}")]


def _module_of(net: Net, style: str) -> nn.Module:
    """A module of a net, with numbers to compare by."""
    net = net.net if isinstance(net, Traced) else net
    try:
        return to_module(net, *net.init(0))
    except InitError:  # of a foreign forward, which initialises itself: any numbers do
        pass
    unsaved = [entry.path for entry in net.entries() if isinstance(entry.spec, Buffer) and not entry.spec.persistent]
    if unsaved and style == "stateful":
        raise ConversionError(
            f"{net.title()} keeps the numbers of {', '.join(unsaved)} in no state_dict, and its net does not know "
            f"them. Pass the module itself to source."
        )
    generator = torch.Generator().manual_seed(0)
    params: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for entry in net.entries():
        if entry.path not in net.aliases:
            value = torch.rand(entry.spec.shape, generator=generator) / 2 + 0.5
            tree = buffers if isinstance(entry.spec, Buffer) else params
            tree[entry.path] = value.to(entry.spec.dtype)
    return to_module(net, unflatten(params), unflatten(buffers))
