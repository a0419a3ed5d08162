"""Lazy modules given their shapes, on a copy."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from funcnet._errors import ConversionError
from funcnet.foreign.internals import copy_inputs, named_modules, named_tensors
from funcnet.random.internals import read_torch_state, restore_torch_state


def lazy_names(module: nn.Module) -> list[str]:
    """Paths of the params and buffers that have no shape yet."""
    named = (*named_tensors(module, "_parameters"), *named_tensors(module, "_buffers"))
    return [path for path, tensor in named if nn.parameter.is_lazy(tensor)]


def materialised(module: nn.Module, example_inputs: Any) -> nn.Module:
    """A copy whose lazy parts have seen an input; the module, its inputs and torch's generator stay as they are.

    The first values are those that a call of the module would draw here and now. Only the lazy parts are taken from
    the copy that was called: what the call did to others is not.

    Args:
        module: the module.
        example_inputs: what to call it with: a tuple of inputs, or a single one.

    Raises:
        ConversionError: if the call fails or leaves a part without shape.
    """
    inputs = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    called = _copy(module).eval()
    before = read_torch_state()
    try:
        with torch.no_grad():
            called(*copy_inputs(tuple(inputs), {})[0])
    except Exception as error:
        raise ConversionError(
            f"cannot call {type(module).__name__} on example_inputs to give its lazy parts their shapes: {error}"
        ) from error
    finally:
        restore_torch_state(before)
    if missed := lazy_names(called):
        raise ConversionError(
            f"{', '.join(missed)} got no input from these example_inputs, and have no shape yet: choose others."
        )
    made = _copy(module)
    now = dict(named_modules(called))
    for path, below in list(named_modules(made)):
        held: list[Any] = [*below._parameters.values(), *below._buffers.values()]
        if any(map(nn.parameter.is_lazy, held)):
            training = below.training
            below.__class__ = type(now[path])
            below.__dict__ = now[path].__dict__ | {"training": training}
    return made


def _copy(module: nn.Module) -> nn.Module:
    """A deep copy; buffers without shape know no way to make one of theirs."""
    empty: Any = nn.UninitializedBuffer
    lazy = [buffer for buffer in module.buffers() if isinstance(buffer, empty)]
    return copy.deepcopy(module, {id(one): empty(False, one.device, one.dtype) for one in lazy})


def refuse_lazy(module: nn.Module) -> ConversionError:
    """The error for a lazy module without inputs."""
    return ConversionError(
        f"{', '.join(lazy_names(module))} have no shape yet. Give from_module(module, example_inputs=(x,)) something "
        f"to call a copy on; or build the net of funcnet's own lazy layers: net.init(rng, example_inputs=...)."
    )
