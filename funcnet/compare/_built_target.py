"""Builds a module, and the inputs to call it with, from their descriptions as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from funcnet.compare._errors import CompareError
from funcnet.compare._input_specs import SYNTAX, make_inputs, parse_input_spec
from funcnet.compare._target import build_target, parse_target
from funcnet.random.internals import preserve_torch_state


def built_target(
    target: str, inputs: Sequence[str], seed: int, needs_input: bool = True
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Tensor]]:
    """Build the module that a text names, and the inputs that others describe.

    Torch's global generator is left as it was.

    Args:
        target: ``"package.module:callable(args)"``.
        inputs: each like ``"float32[2,3,64,64]"`` or ``"input_ids=int64[2,12]<100"``.
        seed: for the weights and the inputs.
        needs_input: whether a module without an input is refused.

    Raises:
        CompareError: if the target or an input is not understood, or if the module does not build.

    >>> module, args, kwargs = built_target("torch.nn:Linear(3, 4)", ["float32[2,3]"], seed=0)
    >>> module(*args, **kwargs).shape
    torch.Size([2, 4])
    """
    parsed_target = parse_target(target)
    specs = [parse_input_spec(text) for text in inputs]
    if needs_input and not specs:
        raise CompareError(f"{target!r} needs an input. {SYNTAX}: --input SPEC, once for each.")
    with preserve_torch_state():
        torch.manual_seed(seed)
        return build_target(parsed_target).module, *make_inputs(specs, seed)
