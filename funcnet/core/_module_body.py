"""The same body as an ``nn.Module``: ``p`` is then the module itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from funcnet.core._entries import Buffer, Param, make_empty_tensor
from funcnet.core._kinds import ForeignNet
from funcnet.core._net import Net
from funcnet.random import Stream


class Body(nn.Module):
    """An ``nn.Module`` with the parts of a net as its own parameters, buffers and children, and the net's body.

    ``p.training`` is the module's flag and ``p.rng`` stands for torch's global generator, so what a body does with
    explicit params it does here with its own.

    >>> import funcnet as fn
    >>> @fn.compose(fc=fn.Linear(2, 3))
    ... def model(p, x):
    ...     return p.fc(x)
    >>> module = fn.to_module(model, model.init(0)[0])
    >>> isinstance(module, Body), list(module.state_dict())
    (True, ['fc.weight', 'fc.bias'])
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._funcnet_net = net
        for name, value in net._named_constants.items():
            setattr(self, name, value)
        for name, part in net._parts.items():
            if isinstance(part, Net):
                self.add_module(name, part.as_module())
            elif isinstance(part, Param):
                setattr(self, name, make_empty_tensor(part))
            elif isinstance(part, Buffer):
                self.register_buffer(name, make_empty_tensor(part), persistent=part.persistent)

    @property
    def rng(self) -> Stream:
        return Stream(None)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self._funcnet_net.forward(self, *inputs, **kwargs)

    def _get_name(self) -> str:
        return type(self).__name__.replace("Body", self._funcnet_net.title())  # torch names one ParametrizedBody


class FunctionModule(nn.Module):
    """An ``nn.Module`` that calls a plain function.

    >>> import torch
    >>> FunctionModule(torch.tanh)(torch.zeros(2))
    tensor([0., 0.])
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(*inputs, **kwargs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class TextModule(nn.Module):
    """An ``nn.Module`` that represents, in a ``repr``, a module whose text alone is known."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __repr__(self) -> str:
        return self.text


def format_as_module(net: Net) -> str:
    """The ``repr`` of the module twin of a net; for a foreign module, that of the module itself."""
    module = net.twin_module()
    for path, child in net.named_nets():
        text = child.module_repr() if isinstance(child, ForeignNet) else None
        if text is not None:
            if not path:
                return text
            parent, _, name = path.rpartition(".")
            module.get_submodule(parent)._modules[name] = TextModule(text)
    return repr(module).replace("torch.meta.", "torch.")  # in the types that a ParameterDict shows
