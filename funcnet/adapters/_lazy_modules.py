"""Lazy modules are given their shapes, on a copy."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from funcnet._errors import ConversionError
from funcnet.foreign.internals import copy_inputs, named_modules, named_tensors
from funcnet.random.internals import preserve_torch_state


def list_lazy_names(module: nn.Module) -> list[str]:
    """Paths of the params and buffers that have no shape yet."""
    named = (*named_tensors(module, "_parameters"), *named_tensors(module, "_buffers"))
    return [path for path, tensor in named if nn.parameter.is_lazy(tensor)]


def copy_with_shapes(module: nn.Module, example_inputs: object) -> nn.Module:
    """A copy whose lazy parts have seen an input; the module, its inputs and torch's generator stay as they are.

    The first values are those that a call of the module would draw here and now. Only the lazy parts are taken from
    the copy that was called; whatever the call did to others is left out.

    Args:
        module: the module.
        example_inputs: what to call it with: a tuple of inputs, or a single one.

    Raises:
        ConversionError: if the call fails or leaves a part without shape.
    """
    inputs = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    called = _deepcopy_lazy(module).eval()
    try:
        with preserve_torch_state(), torch.no_grad():
            called(*copy_inputs(tuple(inputs), {})[0])
    except Exception as error:
        raise ConversionError(
            f"cannot call {type(module).__name__} on example_inputs to give its lazy parts their shapes: {error}"
        ) from error
    if names := list_lazy_names(called):
        raise ConversionError(
            f"{', '.join(names)} got no input from these example_inputs, and have no shape yet: choose others."
        )
    result = _deepcopy_lazy(module)
    called_by_path = dict(named_modules(called))
    for path, submodule in list(named_modules(result)):
        tensors = (*submodule._parameters.values(), *submodule._buffers.values())
        if any(tensor is not None and nn.parameter.is_lazy(tensor) for tensor in tensors):
            training = submodule.training
            submodule.__class__ = type(called_by_path[path])
            submodule.__dict__ = called_by_path[path].__dict__ | {"training": training}
    return result


def _deepcopy_lazy(module: nn.Module) -> nn.Module:
    """A deep copy. Buffers without shape do not know how to copy themselves, so they are made here."""
    make_buffer: Any = nn.UninitializedBuffer  # torch declares other arguments than it takes
    lazy = [buffer for buffer in module.buffers() if isinstance(buffer, nn.UninitializedBuffer)]
    return copy.deepcopy(module, {id(buffer): make_buffer(False, buffer.device, buffer.dtype) for buffer in lazy})


def lazy_error(module: nn.Module) -> ConversionError:
    """The error for a lazy module without inputs."""
    names = ", ".join(list_lazy_names(module))
    return ConversionError(
        f"{names} have no shape yet. Give from_module(module, example_inputs=(x,)) something to call a copy on; "
        f"or build the net of funcnet's own lazy layers: net.init(rng, example_inputs=...)."
    )
