"""What all stock layers share: their twin in torch.nn, and how fields are read off it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, ClassVar

import torch
from torch import nn

from funcnet.core import Net

COUNTERPARTS: dict[type[nn.Module], type[Layer]] = {}
"""torch.nn class -> its stateless counterpart; filled as the classes below are defined."""

_FACTORY = ("device", "dtype")


class Layer(Net):
    """A net with a twin of the same name and arguments in ``torch.nn``.

    The twin is built on the meta device when the record is made: it refuses bad arguments, and what it holds afterwards
    (``kernel_size=3`` as ``(3, 3)``) is what the record holds. So equal layers are equal records.
    """

    twin: ClassVar[type[nn.Module]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        twin = getattr(nn, cls.__name__, None)
        if cls.__module__.startswith("funcnet.layers.") and twin is not None:
            cls.twin = twin
            COUNTERPARTS[twin] = cls

    def __post_init__(self) -> None:
        for name, value in _read(type(self), self.twin_module()).items():
            object.__setattr__(self, name, value)

    def as_module(self) -> nn.Module:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if fields.get("device") is not None:
            fields["device"] = "meta"
        takes = inspect.signature(self.twin).parameters
        # an argument that only a newer torch has (bias of BatchNorm) is left out where it says nothing
        return self.twin(**{name: value for name, value in fields.items() if name in takes or value is not True})

    @classmethod
    def from_module(cls, module: nn.Module) -> Layer:
        """The record of a module's hyperparameters."""
        return cls(**_read(cls, module))


def _read(cls: type[Layer], module: nn.Module) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(cls):
        if field.name in _FACTORY:
            continue
        value = getattr(module, field.name)
        if field.name == "bias":  # a flag in the arguments, the tensor or None in the module
            value = value is not None
        fields[field.name] = tuple(value) if isinstance(value, (list, torch.Size)) else value
    return fields
