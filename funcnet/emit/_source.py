"""A module or a net as source text."""

from __future__ import annotations

from typing import Any

from torch import nn

from funcnet.core import Net


def source(
    module_or_net: nn.Module | Net,
    *example_inputs: Any,
    train: bool = False,
    style: str = "stateless",
    dynamic: Any = ("batch",),
    **example_kwargs: Any,
) -> str:
    """Write a model down as Python that runs by itself.

    Stateless, it is ``forward(params, buffers, *inputs, rng=None)``, which returns ``(output, new buffers)``: plain
    ``torch`` and ``F`` calls over ``params["a"]["b"]``, with the names the author uses. Blocks that repeat are
    functions. Before the text is handed out it is run beside the module, and must give the same bits.
    """
    from funcnet.emit._steps import written  # torch's tracer costs seconds to import

    return written(module_or_net, example_inputs, example_kwargs, train, style, dynamic)
