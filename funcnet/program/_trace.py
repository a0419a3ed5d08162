"""nn.Module -> net of plain code."""

from __future__ import annotations

from typing import Any

from torch import nn

from funcnet._typing import Tree
from funcnet.program._traced import Traced


def trace(
    module: nn.Module,
    *example_inputs: Any,
    train: bool | str = False,
    dynamic: Any = ("batch",),
    **example_kwargs: Any,
) -> tuple[Traced, Tree, Tree]:
    """Write a module's forward down as plain ``F.*`` code over params: a net with the same bits, and faster.

    torch's own tracer runs the forward on the shapes of the example inputs; modules, hooks, Python branches and loops
    are gone afterwards, and what is left is one statement per operation, ``net.source``. In-place writes to buffers
    become new buffers, and draws come from ``rng`` at the path of the module that makes them. Before it is handed out,
    the net is run beside a copy of the module on the examples, and must give the same bits.

    A trace holds for what it was made with, ``net.specialised``: the mode, the dtypes and sizes of inputs, everything
    else in them (numbers, flags, None, the structure of dicts), and the branches taken. Other inputs are refused.

    Args:
        module: any ``nn.Module`` whose forward torch's tracer can follow. It is not called and not written to.
        example_inputs, example_kwargs: what it is called with. Sizes, dtypes and constants matter, numbers in tensors
            do not.
        train: the mode to trace, ``True`` or ``False``; or ``"both"``, for a net that can be called in either.
        dynamic: which sizes stay free. ``("batch",)``: axis 0 of every tensor input; ``()``: none; or a mapping from
            the name or number of an input to an axis or a tuple of axes.

    Returns:
        ``(net, params, buffers)``, the trees as from :func:`funcnet.from_module`.

    Raises:
        ConversionError: if the forward cannot be traced (it branches on numbers in a tensor, calls what torch's tracer
            does not know, holds a tensor that is neither parameter nor buffer); names the line.

    Source: torch.compile's tracer, TorchDynamo, with a backend that keeps the graph.

    >>> import torch, funcnet as fn
    >>> net, params, buffers = fn.trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(4, 2))
    >>> net(params, torch.ones(7, 2)).shape
    torch.Size([7, 3])
    >>> print(net.source)
    import torch.nn.functional as F
    <BLANKLINE>
    <BLANKLINE>
    def forward(params, input):
        \"\"\"Sequential in eval mode, as a function of its params. Returns the output.
    <BLANKLINE>
        Captured by funcnet.trace for
        input: float32 (batch, 2)
        params["0"]["weight"]: float32
        \"\"\"
        # 0: Linear
        input = F.linear(input, params["0"]["weight"], params["0"]["bias"])
        # 1: ReLU
        input = F.relu(input)
        return input
    <BLANKLINE>
    """
    from funcnet.program._trace_steps import traced  # torch's tracer costs seconds to import

    return traced(module, example_inputs, example_kwargs, train, dynamic)
