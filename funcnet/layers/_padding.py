"""Padding, the counterpart of torch/nn/modules/padding.py. Axes: N batch, C channel, L D H W space, * any.

None has params, buffers or draws. ``padding`` is an int, or (left, right) for the last axis, then for the axis before
it, and so on. A negative number cuts elements off.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size, size_per_axis


class _Pad(Layer):
    """The base of all padding; each layer says which axes of space it pads."""

    padding: Size

    space: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        amounts = size_per_axis(self.padding)
        if len(amounts) % 2 or not all(isinstance(size, int) for size in amounts):
            raise ValueError(f"{type(self).__name__}: padding is an int or pairs of ints, got {self.padding}.")

    def expects(self) -> str:
        return f"input (N, C, {self.space}) or (C, {self.space}), each axis as padding {self.padding} needs it"


class _ConstantPad(_Pad):
    value: float

    def expects(self) -> str:
        return f"input (*, {self.space}), no axis smaller than what padding {self.padding} cuts off"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pad(input, p.padding, "constant", p.value)


class ConstantPad1d(_ConstantPad):
    """Surround the last axis with a value.

    Args:
        padding: an int or (left, right), in elements; negative numbers cut elements off.
        value: the number to pad with.

    Shape:  input (*, L) -> y (*, left + L + right).
    Source: torch.nn.functional.pad.

    >>> import torch
    >>> ConstantPad1d((1, 2), 9.0)({}, torch.ones(1, 2))
    tensor([[9., 1., 1., 9., 9.]])
    """

    space = "L"


class ConstantPad2d(_ConstantPad):
    """Surround the last two axes with a value; see :class:`ConstantPad1d`. Shape: input (*, H, W).

    >>> import torch
    >>> ConstantPad2d(1, 9.0)({}, torch.ones(1, 2, 3)).shape
    torch.Size([1, 4, 5])
    """

    space = "H, W"


class ConstantPad3d(_ConstantPad):
    """Surround the last three axes with a value; see :class:`ConstantPad1d`. Shape: input (*, D, H, W).

    >>> import torch
    >>> ConstantPad3d(1, 9.0)({}, torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 4, 5, 6])
    """

    space = "D, H, W"


class _ZeroPad(_Pad):
    def expects(self) -> str:
        return f"input (*, {self.space}), no axis smaller than what padding {self.padding} cuts off"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pad(input, p.padding, "constant", 0.0)


class ZeroPad1d(_ZeroPad):
    """Surround the last axis with zeros; see :class:`ConstantPad1d`.

    >>> import torch
    >>> ZeroPad1d((1, 2))({}, torch.ones(1, 2))
    tensor([[0., 1., 1., 0., 0.]])
    """

    space = "L"


class ZeroPad2d(_ZeroPad):
    """Surround the last two axes with zeros; see :class:`ConstantPad1d`.

    >>> import torch
    >>> ZeroPad2d((0, 0, 1, -1))({}, torch.ones(1, 2, 2))
    tensor([[[0., 0.],
             [1., 1.]]])
    """

    space = "H, W"


class ZeroPad3d(_ZeroPad):
    """Surround the last three axes with zeros; see :class:`ConstantPad1d`.

    >>> import torch
    >>> ZeroPad3d(1)({}, torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 4, 5, 6])
    """

    space = "D, H, W"


class _ReflectionPad(_Pad):
    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pad(input, p.padding, "reflect")


class ReflectionPad1d(_ReflectionPad):
    """Continue the last axis as its mirror image, without repeating the edge element.

    Args:
        padding: an int or (left, right), in elements, each smaller than the axis.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, left + L + right).
    Source: torch.nn.functional.pad.

    >>> import torch
    >>> ReflectionPad1d(2)({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 2., 1., 2., 3., 2., 1.]])
    """

    space = "L"


class ReflectionPad2d(_ReflectionPad):
    """Continue the last two axes as mirror images; see :class:`ReflectionPad1d`.

    >>> import torch
    >>> ReflectionPad2d(1)({}, torch.ones(1, 2, 3)).shape
    torch.Size([1, 4, 5])
    """

    space = "H, W"


class ReflectionPad3d(_ReflectionPad):
    """Continue the last three axes as mirror images; see :class:`ReflectionPad1d`.

    >>> import torch
    >>> ReflectionPad3d(1)({}, torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 4, 5, 6])
    """

    space = "D, H, W"


class _ReplicationPad(_Pad):
    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pad(input, p.padding, "replicate")


class ReplicationPad1d(_ReplicationPad):
    """Continue the last axis with its edge elements.

    Args:
        padding: an int or (left, right), in elements.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, left + L + right).
    Source: torch.nn.functional.pad.

    >>> import torch
    >>> ReplicationPad1d(2)({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 1., 1., 2., 3., 3., 3.]])
    """

    space = "L"


class ReplicationPad2d(_ReplicationPad):
    """Continue the last two axes with their edge elements; see :class:`ReplicationPad1d`.

    >>> import torch
    >>> ReplicationPad2d(1)({}, torch.ones(1, 2, 3)).shape
    torch.Size([1, 4, 5])
    """

    space = "H, W"


class ReplicationPad3d(_ReplicationPad):
    """Continue the last three axes with their edge elements; see :class:`ReplicationPad1d`.

    >>> import torch
    >>> ReplicationPad3d(1)({}, torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 4, 5, 6])
    """

    space = "D, H, W"


class _CircularPad(_Pad):
    def parts(self) -> dict[str, Any]:
        axes = self.space.count(",") + 1
        return {"ranks": (axes + 1, axes + 2)}

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() not in p.ranks:
            raise ValueError(f"expected {p.ranks[0]}D or {p.ranks[1]}D input, got {input.dim()}D.")
        return F.pad(input, p.padding, "circular")


class CircularPad1d(_CircularPad):
    """Continue the last axis as if it began again at its end.

    Args:
        padding: an int or (left, right), in elements, each at most the size of the axis.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, left + L + right).
    Source: torch.nn.functional.pad.

    >>> import torch
    >>> CircularPad1d(2)({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[2., 3., 1., 2., 3., 1., 2.]])
    """

    space = "L"


class CircularPad2d(_CircularPad):
    """Continue the last two axes around; see :class:`CircularPad1d`.

    >>> import torch
    >>> CircularPad2d(1)({}, torch.ones(1, 2, 3)).shape
    torch.Size([1, 4, 5])
    """

    space = "H, W"


class CircularPad3d(_CircularPad):
    """Continue the last three axes around; see :class:`CircularPad1d`.

    >>> import torch
    >>> CircularPad3d(1)({}, torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 4, 5, 6])
    """

    space = "D, H, W"
