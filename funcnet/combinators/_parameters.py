"""Params by position and by name, the counterparts of the two parameter containers of torch/nn/modules/container.py."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn

from funcnet._tensors import is_inexact
from funcnet.combinators._views import ParamMappingView, ParamSequenceView
from funcnet.core import Net, Param, View
from funcnet.core.internals import StockNet, make_empty_tensor

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

Value: TypeAlias = Param | Tensor
"""What a container of params is built of: a declaration, or a tensor whose numbers become the first values."""


class _ParamContainer(StockNet, reads_trees=True, fields_in_view=False):
    """Named params in order; what each subclass adds is how it is built and read."""

    items_: tuple[tuple[str, Param], ...]

    def parts(self) -> Mapping[str, Param]:
        return dict(self.items_)

    # It reads trees since the names need not be ones that Python could read off a view.

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.title()} has no forward of its own: read its params in a body (funcnet.compose).")

    def __len__(self) -> int:
        return len(self.items_)

    def __bool__(self) -> bool:
        return True

    def _set_items(self, values: Iterable[tuple[str, Value]]) -> None:
        items = tuple((name, _as_param(name, value)) for name, value in values)
        twin = getattr(nn, type(self).__name__, nn.Module)
        bad_names = [
            name
            for name, _ in items
            if not isinstance(name, str) or not name or "." in name or name == "rng" or hasattr(twin, name)
        ]
        if bad_names:
            raise ValueError(
                f"params of {type(self).__name__} cannot be named {bad_names}: its twin does not take such names."
            )
        object.__setattr__(self, "items_", items)


class ParameterList(_ParamContainer):
    """Params by position, for a body to index and loop over; not callable.

    Args:
        values: ``Param`` declarations; or tensors, whose numbers become the first values.

    Params: "0", "1", ...

    >>> from funcnet import compose
    >>> @compose(weights=ParameterList([Param((2, 2), 1.0), torch.eye(2)]))
    ... def product(p, x):
    ...     for weight in p.weights:
    ...         x = x @ weight
    ...     return x
    >>> params, _ = product.init(0)
    >>> list(params["weights"]), product(params, torch.ones(2))
    (['0', '1'], tensor([2., 2.]))
    """

    def __init__(self, values: Iterable[Value] | None = None) -> None:
        self._set_items((str(index), value) for index, value in enumerate(_check_iterable(values)))

    def view_base(self) -> type[View]:
        return ParamSequenceView

    def as_module(self) -> nn.Module:
        return _with_first_values(self, nn.ParameterList([make_empty_tensor(param) for param in self]))

    def __iter__(self) -> Iterator[Param]:
        return (param for _, param in self.items_)

    @overload
    def __getitem__(self, index: int) -> Param: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: int | slice) -> Param | ParameterList:
        if isinstance(index, slice):
            return ParameterList(list(self)[index])
        return self.items_[index][1]


class ParameterDict(_ParamContainer):
    """Params by name, for a body to choose from; not callable.

    Args:
        parameters: a mapping, or pairs, of names and ``Param`` declarations or tensors, as for :class:`ParameterList`.
            The names of a plain dict are sorted, as :class:`torch.nn.ParameterDict` does; those of pairs are not.

    >>> table = ParameterDict({"b": Param(3), "a": Param((2, 3), 1.0)})
    >>> list(table), table["a"].shape
    (['a', 'b'], (2, 3))
    """

    def __init__(self, parameters: Mapping[str, Value] | Iterable[tuple[str, Value]] | None = None) -> None:
        if isinstance(parameters, (OrderedDict, ParameterDict)):
            parameters = list(parameters.items())
        elif isinstance(parameters, Mapping):
            parameters = sorted(parameters.items(), key=lambda item: item[0])
        self._set_items(_check_iterable(parameters))

    def view_base(self) -> type[View]:
        return ParamMappingView

    def as_module(self) -> nn.Module:
        return _with_first_values(
            self, nn.ParameterDict([(name, make_empty_tensor(param)) for name, param in self.items_])
        )

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items_)

    def __contains__(self, name: object) -> bool:
        return name in dict(self.items_)

    def __getitem__(self, name: str) -> Param:
        return dict(self.items_)[name]

    def keys(self) -> list[str]:
        """Names of the params."""
        return list(self)

    def values(self) -> list[Param]:
        """The params."""
        return [param for _, param in self.items_]

    def items(self) -> list[tuple[str, Param]]:
        """Names and params."""
        return list(self.items_)


def _check_iterable(values: Iterable[T] | None) -> Iterable[T]:
    if isinstance(values, (Tensor, str)) or not isinstance(values, (Iterable, type(None))):
        raise TypeError(f"expected an iterable of Params or tensors, got {type(values).__name__}.")
    return values or ()


def _as_param(name: str, value: Value) -> Param:
    if isinstance(value, Param):
        return value
    if not isinstance(value, Tensor):
        raise TypeError(f"{name!r} is no Param and no tensor, but {value!r:.60}. Declare Param(shape, init).")
    if not is_inexact(value):
        raise TypeError(f"{name!r} is {value.dtype}; a parameter is floating or complex. Declare a Buffer.")
    return Param(tuple(value.shape), value.detach(), None if value.dtype == torch.get_default_dtype() else value.dtype)


def _with_first_values(net: Net, module: M) -> M:
    """The module of a net, which gets the net too: it knows the first values, and the module does not."""
    module._funcnet_net = net  # type: ignore[assignment]
    return module
