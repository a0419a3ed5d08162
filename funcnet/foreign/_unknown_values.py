"""First values of what a foreign module made by code of its own, which funcnet cannot replay."""

from __future__ import annotations

import torch
from torch import Tensor

from funcnet._errors import InitError
from funcnet.init import Scheme
from funcnet.init.internals import TensorRequest


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
