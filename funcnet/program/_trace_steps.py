"""A trace from start to end: capture, write down, compare with the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from funcnet._errors import ConversionError, bullet_list
from funcnet._typing import Tree
from funcnet.adapters import from_module
from funcnet.core import Buffer, Net
from funcnet.foreign.internals import unwrap_module
from funcnet.program._capture import FROM_MODULE, Captured, capture
from funcnet.program._code import Code
from funcnet.program._conditions import Free, dtype_check, shape_checks
from funcnet.program._emit import emitted
from funcnet.program._same import copies, differences, of_module, of_net
from funcnet.program._trace_inputs import Inputs, taken_apart
from funcnet.program._trace_source import code_for
from funcnet.program._traced import Traced
from funcnet.random.internals import read_torch_state
from funcnet.tree import flatten


def traced(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], train: bool | str, dynamic: Any
) -> tuple[Traced, Tree, Tree]:
    """See :func:`funcnet.trace`."""
    modes = (False, True) if train == "both" else (train,)
    if not all(isinstance(mode, bool) for mode in modes):
        raise ValueError(f'train is True, False or "both", not {train!r}.')
    net, params, buffers = from_module(module)
    module = unwrap_module(module)
    inputs = taken_apart(module, args, kwargs)
    free = free_axes(inputs, dynamic)
    tracing = _Tracing(module, net, params, buffers)
    codes = [code for mode in modes for code in tracing.codes(bool(mode), inputs, free, args, kwargs)]
    return tracing.made(codes), params, buffers


class _Tracing:
    """A module being traced, beside the net that runs it as it is."""

    def __init__(self, module: nn.Module, net: Net, params: Tree, buffers: Tree) -> None:
        self.module, self.net, self.params, self.buffers = module, net, params, buffers

    def made(self, codes: Sequence[Code]) -> Traced:
        net: Net = Traced(self.net, tuple(codes))
        net = net.tie(self.net._aliases) if self.net._aliases else net
        return net.freeze(set(self.net.frozen).__contains__) if self.net.frozen else net  # type: ignore[return-value]

    def codes(self, train: bool, inputs: Inputs, free: Free, args: Any, kwargs: Mapping[str, Any]) -> list[Code]:
        """Code for one mode; and code of its own for free sizes of 1, if the forward treats those differently."""
        expected = of_module(self.module, train, args, kwargs)
        strict, relaxed = self._captured(train, inputs, free)
        self._compare(strict, expected, train, args, kwargs)
        if not _excludes_ones(strict):
            return [strict]
        args, kwargs = _of_size_one(inputs, free, args, kwargs)
        try:
            expected = of_module(self.module, train, args, kwargs)
        except Exception:
            return [strict]  # the module does not take them either
        if not _excludes_ones(relaxed) and not self._differences(relaxed, expected, train, args, kwargs):
            return [relaxed]
        inputs = taken_apart(self.module, args, kwargs)
        ones = self._captured(train, inputs, [() for _ in free])[0]
        self._compare(ones, expected, train, args, kwargs)
        return [strict, ones]

    def _captured(self, train: bool, inputs: Inputs, free: Free) -> tuple[Code, Code]:
        """Code for inputs like these: with all conditions, and without those that only torch's tracer made."""
        captured = capture(self.module, train, inputs, free)
        _refuse_constant_sizes(captured, inputs, free)
        words = inputs.words.copy()
        written = emitted(captured, inputs, words)
        paths = [entry.path for entry in self.net.entries() if isinstance(entry.spec, Buffer)]
        strict, relaxed = (
            [*inputs.checks, *shape_checks(captured, inputs, free, relaxed), *dtype_check(self.params)]
            for relaxed in (False, True)
        )
        code = code_for(self.net.title(), train, written, inputs, words, strict, paths)
        return code, code_for(self.net.title(), train, written, inputs, words, relaxed, paths)

    def _compare(self, code: Code, expected: Any, train: bool, args: Any, kwargs: Any) -> None:
        lines = self._differences(code, expected, train, args, kwargs)
        if lines:
            raise ConversionError(
                f"the code captured from {self.net.title()} does not do what the module does:{bullet_list(lines)}\n"
                f"It may ask whether it is being compiled, or for something that was different then. {FROM_MODULE}"
            )

    def _differences(self, code: Code, expected: Any, train: bool, args: Any, kwargs: Any) -> list[str]:
        """What code does otherwise than the module, and anything it writes to."""
        state, given = read_torch_state(), copies((self.buffers, args, dict(kwargs)))
        versions = {path: tensor._version for path, tensor in flatten(self.params).items()}
        found = of_net(self.made([code]), self.params, self.buffers, train, args, kwargs)
        lines = list(differences(found, expected))
        written = [path for path, tensor in flatten(self.params).items() if tensor._version != versions[path]]
        if written or list(differences(given, (self.buffers, args, dict(kwargs)))):
            lines.append(f"it writes to what it is given: {', '.join(written) or 'inputs or buffers'}")
        if not torch.equal(state, read_torch_state()):
            lines.append("it moves torch's global generator")
        return lines


# --- sizes ---


def free_axes(inputs: Inputs, dynamic: Any) -> list[tuple[int, ...]]:
    """For each tensor input the axes whose size stays free.

    Raises:
        ValueError: if ``dynamic`` names what is no input or no axis.
    """
    if isinstance(dynamic, Mapping):
        return _by_input(inputs, dynamic)
    if dynamic == ():
        return [() for _ in inputs.tensors]
    if dynamic == ("batch",):
        return [(0,) if tensor.value.dim() else () for tensor in inputs.tensors]
    raise ValueError(f'dynamic is ("batch",), () or a mapping from inputs to axes, not {dynamic!r}.')


def _by_input(inputs: Inputs, dynamic: Mapping[Any, Any]) -> list[tuple[int, ...]]:
    wanted = {
        inputs.names[key] if isinstance(key, int) and key < len(inputs.names) else key: value
        for key, value in dynamic.items()
    }
    free: list[tuple[int, ...]] = []
    matched: set[Any] = set()
    for tensor in inputs.tensors:
        keys = [key for key in wanted if tensor.place == key or tensor.place.startswith((f"{key}[", f"{key}."))]
        matched |= set(keys)
        axes = [axis for key in keys for axis in ([wanted[key]] if isinstance(wanted[key], int) else wanted[key])]
        rank = tensor.value.dim()
        if wrong := [axis for axis in axes if not -rank <= axis < rank]:
            raise ValueError(f"dynamic: {tensor.place} has {rank} axes, and no axis {wrong}.")
        free.append(tuple(sorted({axis % rank for axis in axes})))
    if unknown := [key for key in wanted if key not in matched]:
        raise ValueError(
            f"dynamic names {unknown}, the tensor inputs are {[tensor.place for tensor in inputs.tensors]}."
        )
    return free


def _of_size_one(inputs: Inputs, free: Free, args: Any, kwargs: Any) -> Any:
    """The inputs with every free size cut to 1."""
    ones = {}
    for tensor, axes in zip(inputs.tensors, free, strict=True):
        value = tensor.value.detach()
        for axis in axes:
            value = value.narrow(axis, 0, min(1, value.shape[axis]))
        ones[id(tensor.value)] = value.clone().requires_grad_(tensor.value.requires_grad)
    return tree_map_only(Tensor, lambda value: ones[id(value)], (args, dict(kwargs)))


def _excludes_ones(code: Code) -> bool:
    """Whether a call with free sizes of 1 fails the conditions on sizes."""
    return not all(check.for_ones for check in code.checks)


def _refuse_constant_sizes(captured: Captured, inputs: Inputs, free: Free) -> None:
    """Refuse a size that was to stay free and that the forward needs to be what it is."""
    batches = [tensor.value.shape[0] for tensor, axes in zip(inputs.tensors, free, strict=True) if 0 in axes]
    for tensor, axes, sizes in zip(inputs.tensors, free, captured.sizes, strict=False):
        for axis in axes:
            if sizes and isinstance(sizes[axis], int) and tensor.value.shape[axis] == batches[0]:
                where = next(iter(captured.pinned), "")
                raise ConversionError(
                    f"axis {axis} of {tensor.place} cannot stay free: the forward needs its size to be {sizes[axis]}"
                    f"{f', as at {where}' if where else ''}. Pass dynamic=() to keep every size, or {FROM_MODULE}"
                )
