"""From a module or a net to text: capture, tidy, fold, write, compare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, InitError, bullet_list
from funcnet.adapters import from_module, to_module
from funcnet.core import Buffer, Net
from funcnet.foreign.internals import unwrap_module
from funcnet.program._capture import capture
from funcnet.program._conditions import shape_checks
from funcnet.program._modes import in_either_mode
from funcnet.program._program import Program, recorded
from funcnet.program._same import _found, copies, differences, of_module
from funcnet.program._source_inputs import arguments
from funcnet.program._stateful import stateful
from funcnet.program._stateless import stateless
from funcnet.program._tidy import tidied
from funcnet.program._trace_inputs import taken_apart
from funcnet.program._trace_steps import _refuse_constant_sizes, free_axes
from funcnet.program._traced import Traced
from funcnet.tree import flatten, unflatten
from funcnet.tree import map as map_tree


def written(given: nn.Module | Net, args: Any, kwargs: Mapping[str, Any], train: bool, style: str, dynamic: Any) -> str:
    """See :func:`funcnet.source`."""
    module = given if isinstance(given, nn.Module) else _as_module(given, style)
    net, params, buffers = from_module(module)
    module = unwrap_module(module)
    inputs = taken_apart(module, args, kwargs)
    free = free_axes(inputs, dynamic)
    modes = {"stateless": train, "stateful": True}
    if style not in modes:
        raise ValueError(f'style is "stateless" or "stateful", not "{style}".')
    captured = capture(module, modes[style], inputs, free)
    _refuse_constant_sizes(captured, inputs, free)
    words = inputs.words.copy()
    paths = [entry.path for entry in net.entries() if isinstance(entry.spec, Buffer)]
    named = arguments(module, given if isinstance(given, Net) else None, inputs)
    values = {name: value for name, (_, value) in named.items()}

    def program() -> Program:
        made = recorded(captured, inputs, words, net.title(), paths, named)
        made.module = module
        tidied(made)
        return made

    if style == "stateful":
        lines: list[str] = []
        for skipped in (False, True):
            text = stateful(program(), module, net.aliases, list(words.imports), skipped)
            found = [_stateful_differences(text, module, mode, values, args, kwargs) for mode in (False, True)]
            lines = lines or [line for each in found for line in each]
            if not any(found):
                return text
        drawing = [captured.where(node) for node in in_either_mode(program()).values() if node is not None]
        lines += [f"it draws, in training only, at {line}" for line in dict.fromkeys(drawing)]
    else:
        checks = shape_checks(captured, inputs, free, False)
        said = {place: name for name, (place, _) in named.items()}
        about = [f"{one.place}: {one.expected}" for one in inputs.checks if one.expected.startswith("the tensor given")]
        about += [f"{said.get(one.place, one.place)}: {one.expected}" for one in checks if "_Tensor" in one.condition]
        text = stateless(program(), "training" if train else "eval", about, list(words.imports))
        expected = of_module(module, train, args, kwargs)
        try:
            lines = list(differences(_run(text, params, buffers, values), expected))
        except Exception as error:  # a text that does not run is one that may not be handed out
            lines = [f"it fails: {type(error).__name__}: {error}"]
    if lines:
        raise ConversionError(
            f"the source of {net.title()} does not do what the module does:{bullet_list(lines)}\n"
            f"fn.from_module(module) runs the module's own forward."
        )
    return text


def _stateful_differences(text: str, module: nn.Module, train: bool, values: Any, args: Any, kwargs: Any) -> list[str]:
    """What the class in a text does otherwise than the module."""
    space: dict[str, Any] = {"__name__": "source"}
    exec(compile(text, "<funcnet.source>", "exec"), space)
    names = re.findall(r"^class (\w+)", text, re.MULTILINE)
    try:
        made = space[names[-1]]()
        if list(made.state_dict()) != list(module.state_dict()):
            return [f"its keys are {list(made.state_dict())}, those of the module {list(module.state_dict())}"]
        made.load_state_dict(module.state_dict())
        found = of_module(made, train, (), values)
    except Exception as error:  # a text that does not run is one that may not be handed out
        return [f"it fails: {type(error).__name__}: {error}"]
    return list(differences(found, of_module(module, train, args, kwargs)))


def _as_module(net: Net, style: str) -> nn.Module:
    """A module of a net, with numbers to compare by."""
    net = net.net if isinstance(net, Traced) else net
    try:
        return to_module(net, *net.init(0))
    except InitError:  # a foreign forward, which initialises itself: any numbers do
        pass
    kept = [entry.path for entry in net.entries() if isinstance(entry.spec, Buffer) and not entry.spec.persistent]
    if kept and style == "stateful":
        raise ConversionError(
            f"{net.title()} keeps the numbers of {', '.join(kept)} in no state_dict, and its net does not know them. "
            f"Pass the module itself to source."
        )
    generator = torch.Generator().manual_seed(0)
    trees: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
    for entry in net.entries():
        if entry.path not in net.aliases:
            value = torch.rand(entry.spec.shape, generator=generator) / 2 + 0.5
            trees[isinstance(entry.spec, Buffer)][entry.path] = value.to(entry.spec.dtype)
    return to_module(net, unflatten(trees[False]), unflatten(trees[True]))


def _run(text: str, params: Any, buffers: Any, values: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "source"}
    exec(compile(text, "<funcnet.source>", "exec"), space)
    leaves = map_tree(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point() or leaf.is_complex()), params)
    given = copies(values)
    with torch.enable_grad():
        output, new = space["forward"](leaves, buffers, **given, rng=0)
    held = {path: leaf for path, leaf in flatten(leaves).items() if isinstance(leaf, Tensor) and leaf.requires_grad}
    return _found(output, flatten(new), held)
