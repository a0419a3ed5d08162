"""A trace from start to end: capture the forward, write it down, compare it with the module."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._torch import pytree
from funcnet._typing import Tree
from funcnet.adapters import from_module
from funcnet.core import Buffer, Net
from funcnet.foreign.internals import unwrap_module
from funcnet.program._capture import FROM_MODULE, capture
from funcnet.program._comparison import Observation, clone_tensors, find_differences, observe_function, observe_module
from funcnet.program._inputs import Inputs, free_axes, inner_name, read_inputs
from funcnet.program._record import record_program
from funcnet.program._size_checks import FreeAxes, dtype_checks, size_checks
from funcnet.program._statements import Function, Level, Program, expression_names
from funcnet.program._text import UNLIMITED
from funcnet.program._traced import Check, Code, Dynamic, Traced
from funcnet.program._writer import Writer, definition_lines, return_lines
from funcnet.random.internals import read_torch_state
from funcnet.tree import flatten

Kwargs = Mapping[str, object]


def build_traced(
    module: nn.Module, args: tuple[object, ...], kwargs: Kwargs, train: bool | str, dynamic: Dynamic
) -> tuple[Traced, Tree, Tree]:
    """See :func:`funcnet.trace`."""
    modes = (False, True) if train == "both" else (train,)
    if not all(isinstance(mode, bool) for mode in modes):
        raise ValueError(f'train is True, False or "both", not {train!r}.')
    net, params, buffers = from_module(module)
    module = unwrap_module(module)
    inputs = read_inputs(module, args, kwargs)
    free = free_axes(inputs, dynamic)
    tracer = _Tracer(module, net, params, buffers)
    codes = [code for mode in modes for code in tracer.codes_for_mode(bool(mode), inputs, free, args, kwargs)]
    return tracer.net_of(codes), params, buffers


class _Tracer:
    """A module that is being traced, beside the net that runs it as it is."""

    def __init__(self, module: nn.Module, net: Net, params: Tree, buffers: Tree) -> None:
        self.module, self.net, self.params, self.buffers = module, net, params, buffers

    def net_of(self, codes: Sequence[Code]) -> Traced:
        """The net of some codes, with the ties and the frozen params of the module."""
        net: Net = Traced(self.net, tuple(codes))
        net = net.tie(self.net._aliases) if self.net._aliases else net
        return net.freeze(set(self.net.frozen).__contains__) if self.net.frozen else net  # type: ignore[return-value]

    def codes_for_mode(
        self, train: bool, inputs: Inputs, free: FreeAxes, args: tuple[object, ...], kwargs: Kwargs
    ) -> list[Code]:
        """Code for one mode; and code of its own for free sizes of 1, if the forward treats those differently."""
        expected = observe_module(self.module, train, args, kwargs)
        strict, relaxed = self._write_codes(train, inputs, free)
        self._compare(strict, expected, args, kwargs)
        if not _excludes_ones(strict):
            return [strict]
        args, kwargs = _with_sizes_of_one(inputs, free, args, kwargs)
        try:
            expected = observe_module(self.module, train, args, kwargs)
        except Exception:
            return [strict]  # the module does not take them either
        if not _excludes_ones(relaxed) and not self._find_differences(relaxed, expected, args, kwargs):
            return [relaxed]
        inputs = read_inputs(self.module, args, kwargs)
        code_for_ones = self._write_codes(train, inputs, [() for _ in free])[0]
        self._compare(code_for_ones, expected, args, kwargs)
        return [strict, code_for_ones]

    def _write_codes(self, train: bool, inputs: Inputs, free: FreeAxes) -> tuple[Code, Code]:
        """Code for inputs like these: with all conditions, and without those that only torch's tracer made."""
        captured = capture(self.module, train, inputs, free)
        vocabulary = inputs.vocabulary.copy()
        buffer_paths = [entry.path for entry in self.net.entries() if isinstance(entry.spec, Buffer)]
        arguments: dict[str, ast.expr] = {inner_name(name): ast.Name(name) for name in inputs.names_with_tensors}
        program = record_program(captured, self.module, self.net.title(), buffer_paths, inputs, arguments, vocabulary)
        strict, relaxed = (
            [*inputs.checks, *size_checks(captured, inputs, free, relaxed), *dtype_checks(self.params)]
            for relaxed in (False, True)
        )
        body = _body_lines(program, vocabulary.global_names)

        def code(checks: Sequence[Check]) -> Code:
            head = _head_lines(program, train, checks)
            imports = sorted(vocabulary.imports, key=lambda line: (line.startswith("import funcnet"), line))
            text = "\n".join([*imports, *([""] * 2 if imports else []), *head, *body, ""])
            return Code(
                train,
                inputs.signature,
                text,
                tuple(inputs.names_with_tensors),
                bool(buffer_paths),
                tuple(checks),
                tuple(path for path in buffer_paths if path in program.new_buffers),
                tuple(program.drawing_paths),
                tuple(program.copied_buffers),
                "scaled_dot_product_attention(" in text or "multi_head_attention_forward" in text,
                tuple(imports),
                tuple(vocabulary.objects.items()),
            )

        return code(strict), code(relaxed)

    # --- the comparison with the module ---

    def _compare(self, code: Code, expected: Observation, args: tuple[object, ...], kwargs: Kwargs) -> None:
        differences = self._find_differences(code, expected, args, kwargs)
        if differences:
            raise ConversionError(
                f"the code captured from {self.net.title()} does not do what the module does:"
                f"{bullet_list(differences)}\n"
                f"It may ask whether it is being compiled, or for something that was different then. {FROM_MODULE}"
            )

    def _find_differences(
        self, code: Code, expected: Observation, args: tuple[object, ...], kwargs: Kwargs
    ) -> list[str]:
        """What code does otherwise than the module, and anything it writes to."""
        state, given = read_torch_state(), clone_tensors((self.buffers, args, dict(kwargs)))
        versions = {path: tensor._version for path, tensor in flatten(self.params).items()}
        net: Any = self.net_of([code])
        observation = observe_function(
            lambda params: net.apply(params, self.buffers, *args, train=code.train, rng=0, **kwargs), self.params
        )
        lines = list(find_differences(observation, expected))
        written = [path for path, tensor in flatten(self.params).items() if tensor._version != versions[path]]
        if written or list(find_differences(given, (self.buffers, args, dict(kwargs)))):
            lines.append(f"it writes to what it is given: {', '.join(written) or 'inputs or buffers'}")
        if not torch.equal(state, read_torch_state()):
            lines.append("it moves torch's global generator")
        return lines


# --- text ---


def _body_lines(program: Program, reserved: set[str]) -> list[str]:
    """The lines of a captured function behind its head; a statement is one line, which a traceback shows whole."""
    main = Function("forward", Level("", "", program.title), list(program.arguments.values()), [])
    main.items, main.new_buffers = [*program.statements], program.new_buffers
    main.outputs = list(expression_names(program.returned))
    writer = Writer(program, main, reserved, UNLIMITED)
    for name, value in program.arguments.items():
        writer.names.fix_name(value, name)
    return [*writer.body(main.items), *return_lines(program, writer)]


def _head_lines(program: Program, train: bool, checks: Sequence[Check]) -> list[str]:
    """The head of a captured function: what it takes and gives, and what it was captured for."""
    arguments = ["params", *(["buffers"] if program.buffer_paths else []), *program.arguments]
    returns = "(output, new buffers)" if program.new_buffers else "the output"
    mode = "training" if train else "eval"
    lines = [f'"""{program.title} in {mode} mode, as a function of its params. Returns {returns}.', ""]
    if program.drawing_paths:
        arguments += ["*", "rng"]
        lines.append("rng(path) is what the module at that path draws from.")
    lines.append(f"Captured by funcnet.trace for{'' if checks else ' no inputs'}")
    lines += [*(f"{check.place}: {check.expected}" for check in checks), '"""']
    return [*definition_lines("forward", arguments), *(f"    {line}".rstrip() for line in lines)]


# --- sizes of one ---


def _with_sizes_of_one(
    inputs: Inputs, free: FreeAxes, args: tuple[object, ...], kwargs: Kwargs
) -> tuple[tuple[object, ...], Kwargs]:
    """The inputs with every free size cut to 1."""
    cut: dict[int, Tensor] = {}
    for tensor, axes in zip(inputs.tensors, free, strict=True):
        value = tensor.value.detach()
        for axis in axes:
            value = value.narrow(axis, 0, min(1, value.shape[axis]))
        cut[id(tensor.value)] = value.clone().requires_grad_(tensor.value.requires_grad)
    result: tuple[tuple[object, ...], Kwargs] = pytree.tree_map_only(
        Tensor, lambda value: cut[id(value)], (args, dict(kwargs))
    )
    return result


def _excludes_ones(code: Code) -> bool:
    """Whether a call with free sizes of 1 fails the conditions on sizes."""
    return not all(check.for_ones for check in code.checks)
