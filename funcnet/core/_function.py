"""Plain functions as nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from funcnet.core._module_body import FunctionModule
from funcnet.core._net import Net
from funcnet.core._part_check import check_part
from funcnet.core._view import View


class Function(Net, ignores_view=True):
    """A plain function as a part of a container: ``Sequential(Linear(2, 3), F.relu)`` holds one.

    Args:
        function: called with the inputs; must not keep state.

    >>> import torch
    >>> Function(torch.relu)({}, torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    function: Callable[..., Any]

    def forward(self, _: View, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(*inputs, **kwargs)

    def as_module(self) -> nn.Module:
        return FunctionModule(self.function)


def as_net(name: str, part: object) -> Net:
    """A net, or a function made into one, to be the part of a container.

    Raises:
        TypeError: if it is neither; an ``nn.Module`` is pointed to ``from_module``.

    >>> import torch
    >>> as_net("act", torch.tanh)
    FunctionModule(tanh)
    """
    if isinstance(part, Net):
        return part
    check_part(name, part)
    if isinstance(part, type):
        raise TypeError(f"part {name!r} is the class {part.__name__}, not a net: write {part.__name__}(...).")
    if not callable(part):
        raise TypeError(f"part {name!r} is no net and no function, but {part!r}.")
    return Function(part)
