"""The text of a program from start to end: capture the forward, simplify, fold and write it, compare it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, InitError, bullet_list
from funcnet.adapters import from_module, to_module
from funcnet.core import Buffer, Net
from funcnet.foreign.internals import unwrap_module
from funcnet.program._capture import capture
from funcnet.program._comparison import clone_tensors, find_differences, observe_function, observe_module
from funcnet.program._inputs import free_axes, named_arguments, read_inputs
from funcnet.program._modes import use_module_mode
from funcnet.program._record import record_program
from funcnet.program._simplify import simplify
from funcnet.program._size_checks import size_checks
from funcnet.program._stateful import write_classes
from funcnet.program._stateless import write_functions
from funcnet.program._statements import Program
from funcnet.program._text import text_of
from funcnet.program._traced import Dynamic, Traced
from funcnet.tree import unflatten

Kwargs = Mapping[str, object]


def build_source(
    module_or_net: nn.Module | Net, args: tuple[object, ...], kwargs: Kwargs, train: bool, style: str, dynamic: Dynamic
) -> str:
    """See :func:`funcnet.source`."""
    module = module_or_net if isinstance(module_or_net, nn.Module) else _module_of(module_or_net, style)
    net, params, buffers = from_module(module)
    module = unwrap_module(module)
    inputs = read_inputs(module, args, kwargs)
    free = free_axes(inputs, dynamic)
    modes = {"stateless": train, "stateful": True}
    if style not in modes:
        raise ValueError(f'style is "stateless" or "stateful", not "{style}".')
    captured = capture(module, modes[style], inputs, free)
    body = [] if isinstance(module_or_net, nn.Module) else list(inspect.signature(module_or_net.forward).parameters)
    named = named_arguments(module, body, inputs)
    arguments = {name: expression for name, (expression, _) in named.items()}
    values = {name: value for name, (_, value) in named.items()}
    buffer_paths = [entry.path for entry in net.entries() if isinstance(entry.spec, Buffer)]
    vocabulary = inputs.vocabulary.copy()

    def program() -> Program:
        result = record_program(captured, module, net.title(), buffer_paths, inputs, arguments, vocabulary)
        simplify(result)
        return result

    def imports() -> list[str]:
        return list(vocabulary.imports)  # known once the program is recorded

    if style == "stateful":
        return _checked_classes(program, imports, module, net, values, args, kwargs)
    names = {text_of(expression): name for name, expression in arguments.items()}
    about = [
        f"{check.place}: {check.expected}" for check in inputs.checks if check.expected.startswith("the tensor given")
    ]
    about += [
        f"{names.get(check.place, check.place)}: {check.expected}"
        for check in size_checks(captured, inputs, free)
        if "_Tensor" in check.condition
    ]
    recorded = program()
    text = write_functions(recorded, "training" if train else "eval", about, imports())
    expected = observe_module(module, train, args, kwargs)
    try:
        forward, inner = _run_text(text)["forward"], clone_tensors(values)
        observation = observe_function(lambda leaves: forward(leaves, buffers, **inner, rng=0), params)
        differences = list(find_differences(observation, expected))
    except Exception as error:  # a text that does not run is one that may not be handed out
        differences = [f"it fails: {type(error).__name__}: {error}"]
    if differences:
        raise _source_error(net, differences)
    return text


def _source_error(net: Net, differences: Sequence[str]) -> ConversionError:
    return ConversionError(
        f"the source of {net.title()} does not do what the module does:{bullet_list(differences)}\n"
        f"fn.from_module(module) runs the module's own forward."
    )


def _run_text(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "source"}
    exec(compile(text, "<funcnet.source>", "exec"), namespace)
    return namespace


# --- classes ---


def _checked_classes(
    program: Callable[[], Program],
    imports: Callable[[], list[str]],
    module: nn.Module,
    net: Net,
    values: Kwargs,
    args: tuple[object, ...],
    kwargs: Kwargs,
) -> str:
    """The text of classes that do what the module does in both modes."""
    problems: list[str] = []
    for skip_in_eval in (False, True):
        recorded = program()
        text = write_classes(recorded, net.aliases, imports(), skip_in_eval)
        differences = [
            line for train in (False, True) for line in _class_differences(text, module, train, values, args, kwargs)
        ]
        if not differences:
            return text
        problems = problems or differences
    recorded = program()
    drawing = [recorded.captured.where(node) for node in use_module_mode(recorded).values() if node is not None]
    problems += [f"it draws, in training only, at {line}" for line in dict.fromkeys(drawing)]
    raise _source_error(net, problems)


def _class_differences(
    text: str, module: nn.Module, train: bool, values: Kwargs, args: tuple[object, ...], kwargs: Kwargs
) -> list[str]:
    """What the class in a text does otherwise than the module."""
    namespace = _run_text(text)
    names = re.findall(r"^class (\w+)", text, re.MULTILINE)
    try:
        twin = namespace[names[-1]]()
        if list(twin.state_dict()) != list(module.state_dict()):
            return [f"its keys are {list(twin.state_dict())}, those of the module {list(module.state_dict())}"]
        twin.load_state_dict(module.state_dict())
        observation = observe_module(twin, train, (), values)
    except Exception as error:  # a text that does not run is one that may not be handed out
        return [f"it fails: {type(error).__name__}: {error}"]
    return list(find_differences(observation, observe_module(module, train, args, kwargs)))


# --- nets ---


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
