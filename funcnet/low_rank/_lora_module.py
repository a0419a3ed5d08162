"""Modules with LoRA: a class of modules whose instances add a low-rank change to the output of their base class.

The weight keeps its name, and the factors of its change are beside it: ``lora_A`` and ``lora_B``, or for a table
``lora_embedding_A`` and ``lora_embedding_B``. Axes: I in, O out, r rank, k kernel, V rows of a table, E size of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._typing import TreeLike
from funcnet.checkpoint.internals import low_rank_change
from funcnet.core import Body, Net, Param
from funcnet.core.internals import make_empty_tensor
from funcnet.init import normal
from funcnet.layers import Conv1d, Conv2d, Conv3d, Dropout, Identity, Linear
from funcnet.tree import get

_CONVOLUTIONS: tuple[tuple[type[nn.Module], Any, Any], ...] = (
    (nn.Conv1d, Conv1d, F.conv1d),
    (nn.Conv2d, Conv2d, F.conv2d),
    (nn.Conv3d, Conv3d, F.conv3d),
)
_ADAPTABLE = "Linear, Embedding, Conv1d to Conv3d, and Conv1D of transformers"


class LoraModule(nn.Module):
    """What a module with LoRA adds to its class: the change of its output, and the numbers that say how large it is."""

    rank: int
    alpha: float
    use_rslora: bool

    @property
    def scaling(self) -> float:
        """The factor of the change."""
        return scaling_of(self.rank, self.alpha, self.use_rslora)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = super().forward(input, *args, **kwargs)
        return add_low_rank(self, output, input, isinstance(self, nn.Embedding))

    def extra_repr(self) -> str:
        numbers = f"rank={self.rank}, alpha={self.alpha:g}{', use_rslora=True' * self.use_rslora}"
        return f"{base}, {numbers}" if (base := super().extra_repr()) else numbers

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)  # that of Conv1D shows no parts

    def __reduce__(self) -> Any:
        return _new_instance, (type(self).__bases__[1],), self.__dict__


@cache
def _lora_class(base: Any) -> type[LoraModule]:
    """The class of modules with LoRA that extends a class of modules."""
    return type(f"Lora{base.__name__}", (LoraModule, base), {"__module__": __name__, "__doc__": base.__doc__})


def _new_instance(base: Any) -> LoraModule:
    cls: Any = _lora_class(base)
    instance: LoraModule = cls.__new__(cls)
    return instance


def scaling_of(rank: int, alpha: float, use_rslora: bool) -> float:
    """The factor of a change of this rank."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)


def module_with_lora(
    module: nn.Module, rank: int, alpha: float, dropout: float, use_rslora: bool, parts: Mapping[str, Net | Param]
) -> LoraModule:
    """A module that was made for this, turned into one with LoRA; call it under ``torch.device("meta")``."""
    base: Any = type(module)
    module.__class__ = _lora_class(base)
    assert isinstance(module, LoraModule)
    module.rank, module.alpha, module.use_rslora = rank, alpha, use_rslora
    for name, part in parts.items():
        setattr(module, name, part.as_module() if isinstance(part, Net) else make_empty_tensor(part))
    return module


def module_without_lora(module: LoraModule) -> nn.Module:
    """The module of the base class; it shares all its tensors and children with the given module."""
    base: Any = type(module).__bases__[1]
    plain: nn.Module = base.__new__(base)
    plain.__dict__.update(module.__dict__)
    for name in ("rank", "alpha", "use_rslora"):
        del plain.__dict__[name]
    for kind in ("_parameters", "_modules"):
        plain.__dict__[kind] = {
            name: value for name, value in module.__dict__[kind].items() if not name.startswith("lora_")
        }
    return plain


def find_obstacle(module: nn.Module) -> str | None:
    """Why a module cannot have LoRA, in words; None if it can."""
    if isinstance(module, LoraModule):
        return "has LoRA already: merge it first, or train what it has"
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "is not called: nn.MultiheadAttention reads its weight"
    if not isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not (
        is_transposed(module) or _is_linear_body(module)
    ):
        return f"is none of {_ADAPTABLE}"
    if "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
        return "has hooks or a forward of its own"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "shortens its rows to max_norm, so a change of its weight is no sum"
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is Conv1D of transformers, a linear map whose weight is (I, O)."""
    return any(cls.__name__ == "Conv1D" and hasattr(module, "nf") for cls in type(module).__mro__)


def _is_linear_body(module: nn.Module) -> bool:
    """Whether a module is that of a linear map among funcnet's own nets that torch does not have."""
    if not isinstance(module, Body) or not hasattr(module, "in_features"):
        return False
    weight: Any = module.weight
    return tuple(weight.shape) == (module.out_features, module.in_features)


def adapter_parts(module: nn.Module, rank: int, dropout: float) -> dict[str, Net | Param]:
    """What a module gets for a change of this rank: nets, or for a table two params."""
    weight: Any = module.weight
    if isinstance(module, nn.Embedding):
        rows, size = weight.shape
        return {"lora_embedding_A": Param((rank, rows), 0.0), "lora_embedding_B": Param((size, rank), normal())}
    kept: Net = Dropout(dropout) if dropout else Identity()
    for cls, net_class, _ in _CONVOLUTIONS:
        if isinstance(module, cls):
            conv: Any = module
            down = net_class(
                *(conv.in_channels, rank, conv.kernel_size, conv.stride, conv.padding, conv.dilation),
                bias=False,
                padding_mode=conv.padding_mode,
            )
            up = net_class(rank, conv.out_channels, 1, groups=conv.groups, bias=False)
            return {"lora_dropout": kept, "lora_A": down, "lora_B": up}
    inputs, outputs = weight.shape if is_transposed(module) else reversed(weight.shape)
    down, up = Linear(inputs, rank, bias=False), Linear(rank, outputs, bias=False)
    return {"lora_dropout": kept, "lora_A": down, "lora_B": up}


def add_low_rank(p: Any, output: Tensor, input: Tensor, is_table: bool) -> Tensor:
    """The output of a layer with that of its change; ``p`` is the view of the layer, or its module."""
    if is_table:
        rows = F.embedding(input, p.lora_embedding_A.T, p.padding_idx, None, 2.0, p.scale_grad_by_freq)
        change = (rows @ p.lora_embedding_B.T) * p.scaling
        if getattr(p, "embed_scale", None) is not None:  # the tables of Gemma multiply their rows
            change = change * p.embed_scale.to(change.dtype)
    else:
        kept = p.lora_dropout(input.to(p.lora_A.weight.dtype))
        change = p.lora_B(p.lora_A(kept)) * p.scaling
    return (output + change).to(output.dtype)


def weight_change(module: LoraModule, params: TreeLike) -> Tensor:
    """The change of the weight of a layer with LoRA, computed as the library peft computes it.

    Args:
        module: the layer.
        params: those of the layer.
    """
    if isinstance(module, nn.Embedding):
        A, B = params["lora_embedding_A"], params["lora_embedding_B"]
        return low_rank_change(A, B, module.scaling, transposed=True).to(params["weight"].dtype)
    A, B = get(params, "lora_A.weight"), get(params, "lora_B.weight")
    return low_rank_change(A, B, module.scaling, transposed=is_transposed(module))
