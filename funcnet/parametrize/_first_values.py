"""How registering parametrizations changes first values: the steps of torch's register_parametrization, on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Flat
from funcnet.core import Buffer, Function, Net, Param, View
from funcnet.core.internals import Call, InitContext, resolve_aliases
from funcnet.parametrize._stock_parametrizations import SpectralNorm
from funcnet.tree import flatten, join, unflatten


class Registration:
    """The first values after parametrizations were registered, in sequence, on a tensor of a new module.

    The module is in training mode, so registering can change values: it reads the computed tensor, and each read of a
    spectral norm in training improves its estimate.

    Args:
        nets: the parametrizations.
        unsafe: whether registering skips the check of the tensors that they compute.
        value: the tensor.
        context: what the first values of the parametrizations are made from.
        path: the path of the ParametrizationList.

    Raises:
        ValueError: if they change the shape or dtype and are not ``unsafe``.
    """

    def __init__(self, nets: Sequence[Net], unsafe: bool, value: Tensor, context: InitContext, path: str) -> None:
        self.path = path
        self.originals: tuple[Tensor, ...] = ()
        self.has_single_original = True
        self._nets: list[_NetWithTensors] = []
        call = Call(True, context.rng)
        for index, net in enumerate(nets):
            reads_computed = bool(self._nets) and hasattr(type(net), "fit_to_weight")
            weight = self._computed_tensor() if reads_computed else value
            net_with_tensors = _NetWithTensors(net, join(path, str(index)), call, weight, context)
            if not self._nets:
                self._set_originals(net_with_tensors, value)
            self._append(net_with_tensors, is_checked=not unsafe or isinstance(net, SpectralNorm), value=value)

    def _set_originals(self, net: _NetWithTensors, value: Tensor) -> None:
        result = net.apply_inverse(value)
        self.has_single_original = isinstance(result, Tensor)
        if isinstance(result, Tensor):
            self.originals = (result,)
        elif isinstance(result, Sequence) and all(isinstance(original, Tensor) for original in result):
            self.originals = tuple(result)
        else:
            raise ValueError(f"right_inverse returns a tensor or a sequence of tensors, not {result!r:.60}.")
        if self.has_single_original and self.originals[0].dtype != value.dtype:
            raise ValueError(f"right_inverse changed the dtype {value.dtype} to {self.originals[0].dtype}.")

    def _append(self, net: _NetWithTensors, is_checked: bool, value: Tensor) -> None:
        if self._nets and is_checked:
            value = self._computed_tensor()
            _check_same_shape_and_dtype(value, net(value))
            self._nets.append(net)
        else:
            self._nets.append(net)
            if is_checked:
                _check_same_shape_and_dtype(value, self._computed_tensor())

    def _computed_tensor(self) -> Tensor:
        first, *further = self._nets
        tensor = first(*self.originals)
        for net in further:
            tensor = net(tensor)
        return tensor

    def original_names(self) -> tuple[str, ...]:
        """The names of the original tensors."""
        if self.has_single_original:
            return ("original",)
        return tuple(f"original{index}" for index in range(len(self.originals)))

    def first_values(self) -> Flat:
        """Paths and first values of the originals, and of the tensors that the parametrizations declare."""
        names = self.original_names()
        flat = {join(self.path, name): tensor for name, tensor in zip(names, self.originals, strict=True)}
        for net in self._nets:
            flat.update(net.iter_tensors())
        return flat


class _NetWithTensors:
    """A parametrization at its path, with its params and buffers."""

    def __init__(self, net: Net, path: str, call: Call, weight: Tensor, context: InitContext) -> None:
        self.net, self.path, self.call = net, path, call
        context = context._replace(device=weight.device, dtype=weight.dtype)
        values = {} if weight.is_meta else dict(context.init_net(net, path))
        flat: dict[type, Flat] = {Param: {}, Buffer: {}}
        for name, spec in net.entries():
            empty = torch.empty(spec.shape, dtype=spec.dtype or weight.dtype, device="meta")
            flat[type(spec)][name] = values.get(join(path, name), empty)
        self.params, self.buffers = unflatten(flat[Param]), unflatten(flat[Buffer])
        if hasattr(type(net), "fit_to_weight"):
            net.fit_to_weight(self._open_view(), weight)  # type: ignore[attr-defined]

    def _open_view(self) -> View:
        prepared = self.net._prepared()
        aliases = prepared.aliases_by_kind[Param]
        params = resolve_aliases(self.params, aliases) if aliases else self.params
        view = prepared.open_view(prepared.view_class, params, self.buffers, self.call)
        view._name = self.path
        return view

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self._open_view()(*tensors)

    def apply_inverse(self, value: Tensor) -> Tensor | Sequence[Tensor]:
        """The originals from which the parametrization computes ``value``; ``value`` itself without a right_inverse."""
        body = right_inverse_of(self.net)
        try:
            return value if body is None else body(self._open_view(), value)
        except NotImplementedError:
            if value.is_meta:
                raise  # perhaps a kernel that needs numbers
            return value

    def iter_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Paths and values of the params and buffers."""
        for tree in (self.params, self.buffers):
            for name, tensor in flatten(tree).items():
                yield join(self.path, name), tensor


def right_inverse_of(net: Net) -> Callable[[Any, Tensor], Any] | None:
    """The body ``(p, value) -> originals`` of a parametrization, if it has one."""
    if isinstance(net, Function):
        inverse = getattr(net.function, "right_inverse", None)
        return None if inverse is None else lambda _, value: inverse(value)
    return getattr(net, "right_inverse") if hasattr(type(net), "right_inverse") else None


def _check_same_shape_and_dtype(before: Tensor, after: object) -> None:
    if not isinstance(after, Tensor):
        raise ValueError(f"a parametrization returns a tensor, not {after!r:.60}.")
    for attribute in ("dtype", "shape"):
        if getattr(before, attribute) != getattr(after, attribute):
            raise ValueError(
                f"the parametrization changes the {attribute} of the tensor from {getattr(before, attribute)} to "
                f"{getattr(after, attribute)}. If the body can do with that, pass unsafe=True."
            )
