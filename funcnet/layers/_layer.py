"""What all stock layers share: their twin in torch.nn, and how the fields of a record are read off the twin."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from funcnet.core import Net
from funcnet.core.internals import StockNet

COUNTERPARTS: dict[type[nn.Module], type[Layer]] = {}
"""The pure counterpart of each torch.nn class; filled as the classes of layers are defined."""

NO_CHILDREN: Mapping[str, Net] = MappingProxyType({})
FACTORY_FIELDS = ("device", "dtype")
MERGED_FIELDS = ("size_average", "reduce")  # old arguments of losses, which the twin turns into ``reduction``
_FUSED_PATH_FLAGS = frozenset({"activation_relu_or_gelu", "use_nested_tensor"})
"""Attributes of transformers that let them read the weights of their parts in eval mode, and not call the parts."""
_TENSOR_ARGUMENTS = ("_weight", "_freeze")  # arguments about tensors, which a record does not hold


class Layer(StockNet):
    """A net with a twin of the same name and arguments in ``torch.nn``.

    The twin is built on the meta device when the record is made. It refuses bad arguments, and the record takes over
    the form that the twin gives to good ones (``kernel_size=3`` becomes ``(3, 3)``). So equal layers are equal records.

    A layer whose kernel does not support some transforms may have a field ``impl``, "fused" or "composed". The twin has
    no such argument.
    """

    twin: ClassVar[type[nn.Module]]
    calls_parts: ClassVar[bool] = False  # whether the twin's forward calls its children, which can then be replaced

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        twin = cls.__dict__.get("twin", getattr(nn, cls.__name__, None))
        if cls.__module__.startswith("funcnet.layers.") and twin is not None:
            cls.twin = twin
            COUNTERPARTS[twin] = cls

    def __post_init__(self) -> None:
        sequences: dict[str, type] = {}
        for name, value in self.fields_from_module(self._build_twin()).items():
            if isinstance(value, (list, torch.Size)):
                sequences[name] = type(value)
            object.__setattr__(self, name, tuple(value) if name in sequences else value)
        if sequences:
            self.__setstate__({"_edits": dataclasses.replace(self._edits, sequences=tuple(sequences.items()))})

    def as_module(self) -> nn.Module:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        impl = fields.pop("impl", None)
        if impl not in (None, "fused", "composed"):
            raise ValueError(f"{type(self).__name__}: impl is 'fused' or 'composed', got {impl!r}.")
        if fields.get("device") is not None:
            fields["device"] = "meta"
        fields = {name: value.as_module() if isinstance(value, Net) else value for name, value in fields.items()}
        fields |= {name: kind(fields[name]) for name, kind in self._edits.sequences}
        parameters = inspect.signature(self.twin).parameters
        # An argument that only a newer torch knows (bias of BatchNorm) is left out where it has its default, True.
        known = set(fields) if "kwargs" in parameters else set(parameters)
        module = self.twin(**{name: value for name, value in fields.items() if name in known or value is not True})
        if impl == "composed":
            module._funcnet_impl = impl
        for name, net in self._edits.replaced:
            setattr(module, name, net.as_module())
        if self._edits.replaced:
            for name in _FUSED_PATH_FLAGS & vars(module).keys():
                setattr(module, name, False)
        return module

    def expects(self) -> str:
        return "a floating input"

    def uncalled_parts(self) -> Iterable[str]:
        return () if self.calls_parts else self._children

    @classmethod
    def from_module(cls, module: nn.Module, children: Mapping[str, Net] = NO_CHILDREN) -> Net | None:
        """The record of a module's hyperparameters, or None if a record of this class cannot express the module.

        Args:
            module: an instance of the twin's class.
            children: the nets of the module's children, by name.
        """
        net = cls(**{**cls.fields_from_module(module), **cls.fields_from_children(children)})
        if set(net._children) != set(children):
            return None
        changed = {name: child for name, child in children.items() if child != net._children[name]}
        return net.replaced(changed) if not changed or cls.calls_parts else None

    def list_stale_attributes(self, module: nn.Module) -> list[str]:
        """The names of what a module derived from its arguments, and still holds after its fields were edited.

        Args:
            module: an instance of the twin's class, of which this record was read.

        >>> conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect")
        >>> conv.padding = (2,)
        >>> COUNTERPARTS[nn.Conv1d].from_module(conv).list_stale_attributes(conv)
        ['_reversed_padding_repeated_twice']
        """
        fields = {field.name for field in dataclasses.fields(self) if field.init}
        names = vars(module).keys() - vars(nn.Module()).keys() - fields - self.list_unread_attributes()
        names -= _FUSED_PATH_FLAGS if self._edits.replaced else set()
        names = {name for name in names if _is_plain(vars(module)[name])}
        expected = vars(self._build_twin()) if names else {}
        return sorted(name for name in names & expected.keys() if vars(module)[name] != expected[name])

    def list_unread_attributes(self) -> frozenset[str]:
        """The names of what the twin derives from its arguments, and its forward does not read."""
        return frozenset()

    @classmethod
    def fields_from_children(cls, children: Mapping[str, Net]) -> Mapping[str, Any]:
        """The fields that hold nets, taken from the nets of a module's children."""
        return {}

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        """The fields of the record for a module, in the form that the module gave to its arguments."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name in (*FACTORY_FIELDS, *MERGED_FIELDS, *_TENSOR_ARGUMENTS):
                continue
            if field.name == "impl":
                fields["impl"] = getattr(module, "_funcnet_impl", "fused")
            elif field.name == "bias":  # the argument is a flag, the module's attribute is a tensor or None
                fields["bias"] = module.bias is not None
            else:
                fields[field.name] = getattr(module, field.name)
        return fields


def _is_plain(value: object) -> bool:
    """Whether a value is of numbers and text alone."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (int, float, str))
