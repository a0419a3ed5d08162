"""Functions of torch on DTensors, outside of ``funcnet.distributed``: where torch computes them wrongly.

torch runs most functions on DTensors rightly, and raises where it has no rule. These it computes wrongly, without a
word; here they are computed in another form that is right, or refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.overrides import TorchFunctionMode

from funcnet._errors import UnplacedTransformError
from funcnet._torch_versions import PLACED_CROSS_ENTROPY_MISCOUNTS

_USE_GLOBAL_LOSS = (
    "Run the loss by funcnet.distributed.value_and_grad, within which all tensors are plain ones of this rank"
)


def _is_cut(tensor: object, *axes: int) -> bool:
    """Whether a tensor lies in pieces along some of these axes; along any, if none is named."""
    return isinstance(tensor, DTensor) and any(
        isinstance(one, Shard) and (not axes or one.dim in axes) for one in tensor.placements
    )


def _is_any(flags: Tensor) -> bool:
    """Whether any flag is true on any rank; a DTensor by itself would answer for its own rank."""
    count = flags.long().sum()
    return bool(count.full_tensor() if isinstance(count, DTensor) else count)


def _refuse(function: str, why: str, way_out: str = "") -> UnplacedTransformError:
    return UnplacedTransformError(
        "the code", f"calls torch's {function} on DTensors, {why}. {way_out}{_USE_GLOBAL_LOSS}."
    )


def _mean_of_all(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss whose mean torch takes on each rank, with a gradient that is too large by the number of ranks."""

    def compute(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_mean = kwargs.get("reduction", "mean") == "mean" and not (args and "mean" not in args)
        if not is_mean or not (_is_cut(input) or _is_cut(target)) or kwargs.get("weight") is not None:
            return loss(input, target, *args, **kwargs)
        args = tuple("none" if value == "mean" else value for value in args)
        kwargs = kwargs if args and "none" in args else {**kwargs, "reduction": "none"}
        return loss(input, target, *args, **kwargs).mean()

    return compute


def _counted_mean(name: str, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss whose mean is over what each rank counts by itself, where a target is ignored or classes have weights."""

    def compute(input: Tensor, target: Tensor, weight: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        is_mean = kwargs.get("reduction", "mean") == "mean" and not any(one in ("sum", "none") for one in args)
        if is_mean and PLACED_CROSS_ENTROPY_MISCOUNTS and (_is_cut(input) or _is_cut(target)):
            ignore_index = next((one for one in args[1:2] if one is not None), kwargs.get("ignore_index", -100))
            is_ignored = not target.is_floating_point() and _is_any(target == ignore_index)
            if weight is not None or is_ignored:
                raise _refuse(
                    name,
                    "which takes a mean over what each rank counts",
                    "Take reduction='sum' and divide by the sum of the counts. ",
                )
        return loss(input, target, weight, *args, **kwargs)

    return compute


def _convolution(name: str, convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if _is_cut(weight) or (
            isinstance(input, DTensor) and _is_cut(input, *range(input.dim() - weight.dim() + 1, 9))
        ):
            raise _refuse(name, "whose weight, or input along its channels or space, is in pieces; the output is wrong")
        return convolve(input, weight, *args, **kwargs)

    return compute


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    if (training and any(map(_is_cut, (running_mean, running_var)))) or (training and _is_cut(input, 1)):
        raise _refuse("batch_norm", "whose channels are in pieces; the running statistics are never updated")
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, *args, **kwargs)


def _native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor]:
    return (_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps),)


_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_FORMS: dict[Any, Callable[..., Any]] = {
    **{loss: _mean_of_all(loss) for loss in (F.mse_loss, F.huber_loss, F.smooth_l1_loss, F.soft_margin_loss)},
    F.cross_entropy: _counted_mean("cross_entropy", F.cross_entropy),
    F.nll_loss: _counted_mean("nll_loss", F.nll_loss),
    F.batch_norm: _batch_norm,
    torch.native_batch_norm: _native_batch_norm,  # the kernel that layers of funcnet call in small calls
    **{convolve: _convolution(convolve.__name__, convolve) for convolve in _CONVOLUTIONS},
}


class PlacedTensorInterceptor(TorchFunctionMode):
    """A context in which functions that torch computes wrongly on DTensors are right, or refused by name."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        form = _FORMS.get(func) if func in _FORMS else None
        if form is not None and any(isinstance(value, DTensor) for value in (*args, *kwargs.values())):
            return form(*args, **kwargs)
        return func(*args, **kwargs)
