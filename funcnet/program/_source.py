"""``source``: a module or a net as the text of a program that runs by itself."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

from funcnet.core import Net
from funcnet.program._traced import Dynamic

Style: TypeAlias = Literal["stateless", "stateful"]


def source(
    module_or_net: nn.Module | Net,
    *example_inputs: object,
    train: bool = False,
    style: Style = "stateless",
    dynamic: Dynamic = ("batch",),
    exact: bool = True,
    **example_kwargs: object,
) -> str:
    """Write a model down as Python that runs by itself.

    Stateless, it is ``forward(params, buffers, *inputs, rng=None)``, which returns ``(output, new buffers)``: plain
    ``torch`` and ``F`` calls over ``params["a"]["b"]``, in the names the author uses. Calls of equal parts are one
    function, in a loop where they follow each other. Stateful, it is a class that builds the layers of ``torch.nn`` it
    needs, loads the module's ``state_dict``, and has the rest in ``forward``.

    The text is returned only after a comparison with the module: output, gradients and new buffers have its bits. What
    the forward asked of tensors and of torch while it was captured is asserted in the text, and listed in its head.

    Args:
        module_or_net: any ``nn.Module`` whose forward torch's tracer can follow, or any net. It is not written to.
        example_inputs, example_kwargs: what it is called with. Sizes, dtypes and constants matter, numbers do not.
        train: the mode that a stateless text is for; a class has both.
        style: ``"stateless"`` or ``"stateful"``.
        dynamic: which sizes stay free, as in :func:`funcnet.trace`: axis 0 of every tensor input unless told.
        exact: when false, a text whose numbers differ from the module's by rounding is handed out too, and says by how
            much in its head; as where a model takes another kernel of attention while it is captured.

    Returns:
        The text of a Python module, formatted, at most 88 characters wide. Where the forward draws, ``rng`` is a Key or
        an int seed, as for a net.

    Raises:
        ConversionError: if the forward cannot be captured or written down; names the line.
        ValueError: if ``style`` or ``dynamic`` is unknown.

    Source: torch.compile's tracer, TorchDynamo, and the files of the module for names.

    >>> import torch, funcnet as fn
    >>> print(fn.source(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(4, 2)))
    import torch.nn.functional as F
    <BLANKLINE>
    <BLANKLINE>
    def forward(params, buffers, input, *, rng=None):
        \"\"\"Sequential in eval mode: (output, new buffers).
    <BLANKLINE>
        input: float32 (batch, 2)
        \"\"\"
        # 0: Linear
        input = F.linear(input, params["0"]["weight"], params["0"]["bias"])
        # 1: ReLU
        input = F.relu(input)
        return input, buffers
    <BLANKLINE>
    """
    from funcnet.program._build import build_source  # torch's tracer costs seconds to import

    return build_source(module_or_net, example_inputs, example_kwargs, train, style, dynamic, exact)
