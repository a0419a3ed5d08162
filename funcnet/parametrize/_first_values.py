"""What registering parametrizations does to first values: the steps of torch's register_parametrization, on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Flat
from funcnet.core import Buffer, Function, Net, Param, View
from funcnet.core.internals import Call, InitContext, resolve_aliases
from funcnet.parametrize._stock import SpectralNorm
from funcnet.tree import flatten, join, unflatten


class Registered:
    """Parametrizations registered one after the other on a tensor, as on a new module, which is in training mode.

    What registering looks at counts, as a look at a spectral norm in training improves its estimate.

    Args:
        nets: the parametrizations.
        unsafe: whether registering them does without a look at what they compute.
        value: the tensor.
        start: what first values of the parametrizations are made from.
        path: where they are.

    Raises:
        ValueError: if they change the shape or dtype and are not ``unsafe``.
    """

    def __init__(self, nets: Sequence[Net], unsafe: bool, value: Tensor, start: InitContext, path: str) -> None:
        self.path = path
        self.originals: tuple[Tensor, ...] = ()
        self.single = True
        self._placed: list[_Placed] = []
        call = Call(True, start.rng)
        for index, net in enumerate(nets):
            looks = bool(self._placed) and hasattr(type(net), "fit")
            seen = self._computed() if looks else value
            placed = _Placed(net, join(path, str(index)), call, seen, start)
            if not self._placed:
                self._invert(placed, value)
            self._append(placed, checked=not unsafe or isinstance(net, SpectralNorm), value=value)

    def _invert(self, placed: _Placed, value: Tensor) -> None:
        found = placed.inverse(value)
        self.single = isinstance(found, Tensor)
        if not self.single and not (isinstance(found, Sequence) and all(isinstance(one, Tensor) for one in found)):
            raise ValueError(f"right_inverse returns a tensor or a sequence of tensors, not {found!r:.60}.")
        self.originals = (found,) if isinstance(found, Tensor) else tuple(found)
        if self.single and self.originals[0].dtype != value.dtype:
            raise ValueError(f"right_inverse changed the dtype {value.dtype} to {self.originals[0].dtype}.")

    def _append(self, placed: _Placed, checked: bool, value: Tensor) -> None:
        if self._placed and checked:
            value = self._computed()
            _check_alike(value, placed(value))
            self._placed.append(placed)
        else:
            self._placed.append(placed)
            if checked:
                _check_alike(value, self._computed())

    def _computed(self) -> Tensor:
        first, *others = self._placed
        tensor = first(*self.originals)
        for each in others:
            tensor = each(tensor)
        return tensor

    def names(self) -> tuple[str, ...]:
        """The names of the original tensors."""
        return ("original",) if self.single else tuple(f"original{index}" for index in range(len(self.originals)))

    def tensors(self) -> Flat:
        """Paths and first values of the originals, and of what the parametrizations hold themselves."""
        flat = {join(self.path, name): tensor for name, tensor in zip(self.names(), self.originals, strict=True)}
        for placed in self._placed:
            flat.update(placed.tensors())
        return flat


class _Placed:
    """One parametrization at its place, with its tensors."""

    def __init__(self, net: Net, path: str, call: Call, value: Tensor, start: InitContext) -> None:
        self.net, self.path, self.call = net, path, call
        start = start._replace(device=value.device, dtype=value.dtype)
        made = {} if value.is_meta else dict(start.init_net(net, path))
        flat: dict[type, Flat] = {Param: {}, Buffer: {}}
        for name, spec in net.entries():
            empty = torch.empty(spec.shape, dtype=spec.dtype or value.dtype, device="meta")
            flat[type(spec)][name] = made.get(join(path, name), empty)
        self.params, self.buffers = unflatten(flat[Param]), unflatten(flat[Buffer])
        if hasattr(type(net), "fit"):
            net.fit(self._view(), value)  # type: ignore[attr-defined]

    def _view(self) -> View:
        program = self.net._program()
        aliases = program.aliases_by_kind[Param]
        params = resolve_aliases(self.params, aliases) if aliases else self.params
        view = program.open_view(program.view_class, params, self.buffers, self.call)
        view._name = self.path
        return view

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self._view()(*tensors)

    def inverse(self, value: Tensor) -> Any:
        """What the parametrization computes ``value`` from; ``value`` itself if it does not say."""
        body = right_inverse(self.net)
        try:
            return value if body is None else body(self._view(), value)
        except NotImplementedError:
            if value.is_meta:
                raise  # it may be a kernel that needs numbers
            return value

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for tree in (self.params, self.buffers):
            for name, tensor in flatten(tree).items():
                yield join(self.path, name), tensor


def right_inverse(net: Net) -> Callable[[Any, Tensor], Any] | None:
    """The body ``(p, value) -> originals`` of a parametrization, if it has one."""
    if isinstance(net, Function):
        inverse = getattr(net.function, "right_inverse", None)
        return None if inverse is None else lambda _, value: inverse(value)
    return getattr(net, "right_inverse") if hasattr(type(net), "right_inverse") else None


def _check_alike(before: Tensor, after: Any) -> None:
    if not isinstance(after, Tensor):
        raise ValueError(f"a parametrization returns a tensor, not {after!r:.60}.")
    for what in ("dtype", "shape"):
        if getattr(before, what) != getattr(after, what):
            raise ValueError(
                f"the parametrization changes the {what} of the tensor from {getattr(before, what)} to "
                f"{getattr(after, what)}. If the body can do with that, pass unsafe=True."
            )
