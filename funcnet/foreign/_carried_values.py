"""What the net of a foreign module carries along besides the names and shapes of its tensors.

These are the values of buffers that no state_dict holds, the extra state of its modules, and the text of its ``repr``
where that shows numbers. First values of its other tensors are unknown: the module made them by code of its own, which
funcnet cannot replay.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError
from funcnet.foreign._module_walk import named_modules
from funcnet.init import Scheme
from funcnet.init.internals import TensorRequest
from funcnet.tree import join


class CarriedValue:
    """The value of a non-persistent buffer, which no state_dict holds, so the net carries it along."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach().clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CarriedValue) or self.value.dtype != other.value.dtype:
            return False
        return torch.equal(self.value, other.value)

    def __hash__(self) -> int:
        return hash((tuple(self.value.shape), self.value.dtype))

    def __repr__(self) -> str:
        return f"<tensor of shape {tuple(self.value.shape)}>"


def carried_value(buffer: Tensor) -> Scheme:
    """The scheme that gives a non-persistent buffer the value that it has now."""
    return Scheme(_fill_carried, (("value", CarriedValue(buffer)),))


def _fill_carried(request: TensorRequest, value: CarriedValue) -> Tensor:
    if value.value.is_meta and request.device.type != "meta":
        raise InitError("the module was on the meta device, where its buffers have no values; give one under this key.")
    return value.value.to(request.device, copy=True)


def _fill_unknown(request: TensorRequest) -> Tensor:
    raise InitError("a foreign module's tensor has no known first value; take it from funcnet.from_module(module).")


UNKNOWN_VALUE = Scheme(_fill_unknown, ())
"""The scheme of a tensor whose first value only the module itself knows."""


EXTRA_STATE = "_extra_state"
"""The name under which a ``state_dict`` has what ``get_extra_state`` returned."""


def copy_extra_states(module: nn.Module) -> dict[str, Any]:
    """What modules save besides tensors, by its key in the ``state_dict``."""
    return {
        join(path, EXTRA_STATE): copy.deepcopy(submodule.get_extra_state())
        for path, submodule in named_modules(module)
        if type(submodule).get_extra_state is not nn.Module.get_extra_state
    }


def repr_to_keep(module: nn.Module, copied: nn.Module) -> str | None:
    """The ``repr`` of a module, if it writes that itself and a copy without numbers gives another, or an error."""
    cls = type(module)
    if cls.__repr__ is nn.Module.__repr__ and cls.extra_repr is nn.Module.extra_repr:
        return None
    module_repr = repr(module)
    try:
        return None if repr(copied) == module_repr else module_repr
    except (RuntimeError, ValueError, NotImplementedError):
        return module_repr


def repr_without_numbers(module: nn.Module) -> str | None:
    """The ``repr`` of a module that cannot write its own on the meta device; None if it can."""
    try:
        repr(module)
    except (RuntimeError, ValueError, NotImplementedError):
        return f"{type(module).__name__}(...)"
    return None
