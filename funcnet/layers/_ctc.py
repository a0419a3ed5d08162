"""Connectionist temporal classification, from torch/nn/modules/loss.py. Axes: T time, N batch, C class, S target."""

from __future__ import annotations

from torch import Tensor

from funcnet.core import View
from funcnet.kernels import ctc_loss
from funcnet.kernels.internals import Lengths
from funcnet.layers._loss import Loss


class CTCLoss(Loss):
    """Minus the log probability of a target sequence, summed over all its alignments with the input.

    An alignment repeats each class any number of times, and may have blanks before, between and after the classes. Two
    equal classes in a row must have a blank between them.

    Args:
        blank: the class that means "no class".
        reduction: "none", "mean" (each loss is divided by the length of its target, then averaged over N) or "sum".
        zero_infinity: whether the loss of a target that is too long for its input is zero; otherwise it is infinite.

    Params, Buffers, Draws: none.
    Shape:  log_probs (T, N, C) with targets (N, S), or (sum of target_lengths,), and lengths (N,); or log_probs (T, C)
        with targets (S,) and lengths () or (1,). Lengths are all tensors or all tuples. -> y (), or (N,) unreduced.
    Raises: ShapeError for lengths that do not fit; ValueError for a negative ``blank``. Classes are not checked: for a
        class out of range, torch's kernel reads memory outside its tensors.
    Source: torch.nn.functional.ctc_loss. Its kernel has no vmap, jvp, second derivative, compile or export. Under these
        the recursion over T runs step by step: it takes longer to run and to compile, and gives NaN for lengths or
        classes that do not fit. As with the kernel, ``exp(log_probs)`` is added to the gradient, which has no effect
        after a log_softmax.

    >>> import torch
    >>> log_probs = torch.full((3, 1, 2), 0.5).log()
    >>> CTCLoss()({}, log_probs, torch.tensor([[1]]), (3,), (1,))
    tensor(0.2877)
    """

    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blank < 0:
            raise ValueError(f"CTCLoss: blank is a class, at least 0, got {self.blank}.")

    def expects(self) -> str:
        return "log_probs (T, N, C), targets (N, S) or (sum of lengths,), lengths (N,); or (T, C), (S,) and ()"

    @staticmethod
    def forward(p: View, log_probs: Tensor, targets: Tensor, input_lengths: Lengths, target_lengths: Lengths) -> Tensor:
        return ctc_loss(log_probs, targets, input_lengths, target_lengths, p.blank, p.reduction, p.zero_infinity)
