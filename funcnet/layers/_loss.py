"""What losses share: the ways to reduce, and weights, which are passed as tensors and kept as plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from funcnet import init
from funcnet.core import Buffer
from funcnet.init.internals import nested_tuples
from funcnet.layers._layer import MERGED_FIELDS, Layer

NestedNumbers: TypeAlias = Any
"""The weights of a loss. A record holds nested tuples of floats, or None; the argument may also be a tensor or nested
lists. (No type of Python says "tuples of tuples of floats, to any depth".)"""

_WEIGHT_FIELDS = ("weight", "pos_weight")


class Loss(Layer):
    """A layer that compares its inputs.

    A tensor among the arguments becomes nested tuples of floats in the record, and a buffer of the same name:
    ``init`` builds the buffer from those numbers. The two flags that torch merges into ``reduction`` are None in the
    record.
    """

    reductions: ClassVar[tuple[str, ...]] = ("none", "mean", "sum", "elementwise_mean")

    def __post_init__(self) -> None:
        for name in self.tensor_field_names():
            object.__setattr__(self, name, as_nested_numbers(getattr(self, name)))
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name in MERGED_FIELDS:
                object.__setattr__(self, field.name, None)
        reduction = getattr(self, "reduction", "none")
        if reduction not in self.reductions:
            known = ", ".join(map(repr, self.reductions))
            raise ValueError(f"{type(self).__name__}: reduction is one of {known}, got {reduction!r}.")

    @classmethod
    def tensor_field_names(cls) -> list[str]:
        """Names of the arguments that torch.nn takes as tensors."""
        return [field.name for field in dataclasses.fields(cls) if field.name in _WEIGHT_FIELDS]

    def as_module(self) -> nn.Module:
        return self.twin(**self.twin_arguments())

    def twin_arguments(self) -> dict[str, Any]:
        """The arguments that build the twin: the fields, with a tensor of the same shape in place of numbers."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in self.tensor_field_names():
            if fields[name] is not None:
                fields[name] = torch.empty(nested_shape(fields[name]), device="meta")
        if fields.get("device") is not None:
            fields["device"] = "meta"
        return fields

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        fields = super().fields_from_module(module)
        weights = cls.weights_from_module(module)
        return {name: value for name, value in fields.items() if name not in _WEIGHT_FIELDS} | weights

    @classmethod
    def weights_from_module(cls, module: nn.Module) -> dict[str, NestedNumbers]:
        """The numbers in a module's weights. Weights on the meta device are left out: they have a shape, no numbers."""
        weights = {name: getattr(module, name) for name in cls.tensor_field_names()}
        return {name: as_nested_numbers(value) for name, value in weights.items() if value is None or not value.is_meta}

    def parts(self) -> dict[str, Any]:
        weights = {name: getattr(self, name) for name in self.tensor_field_names()}
        return {
            name: None if numbers is None else Buffer(nested_shape(numbers), init.values(numbers))
            for name, numbers in weights.items()
        }


def as_nested_numbers(value: NestedNumbers) -> NestedNumbers:
    """Nested tuples of floats for a tensor, or for nested lists, which are rounded as ``torch.tensor`` rounds them."""
    if isinstance(value, (Sequence, int, float)) and not isinstance(value, (str, bool)):
        value = torch.tensor(value, dtype=torch.get_default_dtype(), device="cpu")
    return nested_tuples(value.detach().tolist(), float) if isinstance(value, Tensor) else value


def nested_shape(numbers: NestedNumbers) -> tuple[int, ...]:
    """The shape of the tensor that nested tuples spell out."""
    if not isinstance(numbers, tuple):
        return ()
    return (len(numbers), *(nested_shape(numbers[0]) if numbers else ()))


class PlainLoss(Loss):
    """A loss whose only option is how to reduce."""

    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class WeightedLoss(Loss):
    """A loss whose only options are a weight and how to reduce."""

    weight: NestedNumbers = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
