"""The module of a net with stacked tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from funcnet.combinators._views import CallableSlice
from funcnet.core import Body, Net


class StackModule(Body):
    """The module of a Stack: its parameters and buffers are the stacked tensors, and it is a sequence of its layers.

    All layers are run by the module of one layer, which has no tensors of its own.
    """

    _layer: nn.Module

    def __init__(self, net: Net, layer: Net, count: int) -> None:
        super().__init__(net)
        self._count = count
        self.__dict__["_layer"] = layer.twin_module()  # not as a child: its tensors are not those of this module

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __getitem__(self, index: int | slice) -> Any:
        params = {name: param.unbind(0) for name, param in self.named_parameters(remove_duplicate=False)}
        if isinstance(index, slice):
            return CallableSlice([partial(self._run_layer, params, number) for number in range(self._count)[index]])
        return partial(self._run_layer, params, range(self._count)[index])

    def _run_layer(self, params: dict[str, tuple[Tensor, ...]], index: int, *inputs: Any, **kwargs: Any) -> Any:
        """The output of one layer; its new buffers go to its slice of those of the module."""
        for path, module in self.named_modules():
            self._layer.get_submodule(path).training = module.training
        stacked_buffers = dict(self.named_buffers(remove_duplicate=False))
        tensors = {name: pieces[index] for name, pieces in params.items()}
        tensors.update({name: buffer[index] for name, buffer in stacked_buffers.items()})
        pieces = dict(tensors)
        output = functional_call(self._layer, tensors, inputs, kwargs)
        with torch.no_grad():
            for name, buffer in stacked_buffers.items():
                if tensors[name] is not pieces[name]:  # the layer did not write to the slice itself
                    buffer[index] = tensors[name]
        return output

    def __repr__(self) -> str:
        text = repr(self._layer).replace("\n", "\n  ")
        layers = f"(0): {text}" if self._count == 1 else f"(0-{self._count - 1}): {self._count} x {text}"
        return f"{self._funcnet_net.title()}(\n  {layers}\n)"
