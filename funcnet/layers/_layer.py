"""What all stock layers share: their twin in torch.nn, and how fields are read off it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from funcnet.core import Net

COUNTERPARTS: dict[type[nn.Module], type[Layer]] = {}
"""torch.nn class -> its stateless counterpart; filled as the classes below are defined."""

NO_CHILDREN: Mapping[str, Net] = MappingProxyType({})
FACTORY = ("device", "dtype")
_TENSORS = ("_weight", "_freeze")  # arguments for tensors, which a record does not hold
_MERGED = ("size_average", "reduce")  # old arguments of losses, which the twin turns into ``reduction``


class Layer(Net):
    """A net with a twin of the same name and arguments in ``torch.nn``.

    The twin is built on the meta device when the record is made: it refuses bad arguments, and what it holds afterwards
    (``kernel_size=3`` as ``(3, 3)``) is what the record holds. So equal layers are equal records.

    A layer whose kernel some transforms cannot pass may have a field ``impl``, "fused" or "composed", which the twin
    knows nothing of.
    """

    twin: ClassVar[type[nn.Module]]
    calls_parts: ClassVar[bool] = False  # the twin's forward calls its children, so others may take their places

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        twin = cls.__dict__.get("twin", getattr(nn, cls.__name__, None))
        if cls.__module__.startswith("funcnet.layers.") and twin is not None:
            cls.twin = twin
            COUNTERPARTS[twin] = cls

    def __post_init__(self) -> None:
        for name, value in self.fields_from_module(self.twin_module()).items():
            object.__setattr__(self, name, value)

    def as_module(self) -> nn.Module:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        impl = fields.pop("impl", None)
        if impl not in (None, "fused", "composed"):
            raise ValueError(f"{type(self).__name__}: impl is 'fused' or 'composed', got {impl!r}.")
        if fields.get("device") is not None:
            fields["device"] = "meta"
        fields = {name: value.as_module() if isinstance(value, Net) else value for name, value in fields.items()}
        takes = inspect.signature(self.twin).parameters
        # an argument that only a newer torch has (bias of BatchNorm) is left out where it says nothing
        known = set(fields) if "kwargs" in takes else set(takes)
        module = self.twin(**{name: value for name, value in fields.items() if name in known or value is not True})
        if impl == "composed":
            module._funcnet_impl = impl
        for name, net in self.__dict__.get("_replaced_items", ()):
            setattr(module, name, net.as_module())
        return module

    def expects(self) -> str:
        return "a floating input"

    @classmethod
    def from_module(cls, module: nn.Module, children: Mapping[str, Net] = NO_CHILDREN) -> Net | None:
        """The record of a module's hyperparameters, or None where this class cannot say what the module does.

        Args:
            module: of the twin's class.
            children: the nets for its children, by name.
        """
        net = cls(**{**cls.fields_from_module(module), **cls.fields_from_children(children)})
        if list(net._children) != list(children):
            return None
        changed = {name: child for name, child in children.items() if child != net._children[name]}
        return net.replaced(changed) if not changed or cls.calls_parts else None

    @classmethod
    def fields_from_children(cls, children: Mapping[str, Net]) -> Mapping[str, Any]:
        """The fields that hold nets, taken from the nets for a module's children."""
        return {}

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        """The fields of the record for a module, in the form the module has brought them to."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name in FACTORY or field.name in _MERGED or field.name in _TENSORS:
                continue
            if field.name == "impl":
                fields["impl"] = getattr(module, "_funcnet_impl", "fused")
            elif field.name == "bias":  # a flag in the arguments, the tensor or None in the module
                fields["bias"] = module.bias is not None
            else:
                value = getattr(module, field.name)
                fields[field.name] = tuple(value) if isinstance(value, (list, torch.Size)) else value
        return fields
