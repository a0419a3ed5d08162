"""What first values are made from, and the rule by which nets and specs are asked for theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from funcnet._errors import InitError
from funcnet._tensors import is_inexact
from funcnet.core._entries import Buffer, Param
from funcnet.random import Stream
from funcnet.random.internals import rng_at_path
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._net import Net

Device: TypeAlias = "torch.device | str | None"


class InitContext(NamedTuple):
    """What one ``init`` knows: its rng, where tensors go, and the paths that are aliases of others.

    >>> import funcnet as fn
    >>> context = InitContext(fn.random.key(0), None, torch.float64, {})
    >>> context.dtype
    torch.float64
    """

    rng: Tensor | Stream
    device: Device
    dtype: torch.dtype | None
    aliases: Mapping[str, str]

    def init_net(self, net: Net, path: str) -> Iterator[tuple[str, Tensor]]:
        """Paths and first values of a net at ``path``, parts included."""
        net.check_init(path)
        names = net._own_entries
        if names and all(join(path, name) in self.aliases for name in names):
            return  # the same layer at a second path: its module was built, and drew, only once
        yield from net.first_values(self, path)

    def init_tensor(self, spec: Param | Buffer, path: str, net: Net) -> Tensor:
        """The first value of a tensor that ``net`` declares."""
        dtype = spec.dtype or self.dtype or getattr(net, "dtype", None)
        try:
            tensor: Tensor = spec.init(
                rng_at_path(self.rng, path),
                spec.shape,
                dtype=dtype,
                device=self.device or getattr(net, "device", None),
            )
        except NotImplementedError as error:
            if dtype is None or is_inexact(dtype):
                raise
            raise InitError(
                f"{path!r} is of {dtype}, and {spec.init!r} has no numbers of that dtype ({error}). Take them from "
                f"funcnet.from_module(module) or a checkpoint."
            ) from error
        return tensor
