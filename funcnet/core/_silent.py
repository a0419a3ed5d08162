"""Whether the body of a net can draw from a global generator, told from its code before the first call."""

from __future__ import annotations

from funcnet.core._function import Function
from funcnet.core._net import Net
from funcnet.random.internals import never_draws


def never_draws_globally(net: Net) -> bool:
    """Whether the body of a net, parts not included, is known never to draw from torch's generator."""
    if net._traits.reads_trees or not hasattr(type(net), "forward"):
        return False
    function = net.function if isinstance(net, Function) else getattr(net.forward, "__func__", net.forward)
    return all(never_draws(value, safe_classes=(Net,)) for value in (function, *net._named_constants.values()))
