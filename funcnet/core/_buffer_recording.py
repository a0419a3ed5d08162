"""Where the new buffer of a call is recorded, as the running mean of BatchNorm: ``p.running_mean = new``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from funcnet._errors import TreeError
from funcnet.core._check import describe_misfit
from funcnet.core._draw_source import Call, call_and_path
from funcnet.core._entries import Buffer
from funcnet.core._view import View
from funcnet.tree import join


def make_buffer_setter(name: str, spec: Buffer) -> Callable[[View, Tensor], None]:
    """The setter of a buffer: it checks the new value and puts it in the tree of the call."""
    shape, dtype = spec.shape, spec.dtype or torch.float32
    floating = dtype.is_floating_point

    def set_buffer(view: View, value: Tensor) -> None:
        # this check takes a quarter of the time of describe_misfit: a normalisation records three values a call
        fits = isinstance(value, Tensor) and value.shape == shape
        if not fits or not (value.is_floating_point() if floating else value.dtype is dtype):
            problems = list(describe_misfit(spec, value))
            if problems:
                path = join(call_and_path(view)[1], name)
                raise TreeError(f"buffer {path!r} cannot be recorded: {'; '.join(problems)}.")
        call = view._up
        while type(call) is not Call:
            call = call._up
        if not call.closed:  # a part that runs again after its call (checkpointing) has nothing left to record
            view._buffers[name] = value

    return set_buffer
