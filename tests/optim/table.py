"""torch's own table of optimizers: each with the arguments that torch tests it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

import funcnet as fn

SHAPES = {"a": {"weight": (3, 5), "bias": (7,)}, "b": {"weight": (4, 4), "kernel": (2, 3, 2, 2), "scale": ()}}
MATRICES = {"a": {"weight": (3, 5)}, "b": {"weight": (4, 4), "kernel": (6, 2)}}


@dataclass(frozen=True)
class Row:
    """One optimizer of torch with one set of arguments."""

    info: OptimizerInfo
    arguments: dict[str, Any]
    description: str

    @property
    def name(self) -> str:
        return f"{self.info.name}-{self.description.replace(' ', '_')}"

    @property
    def class_name(self) -> str:
        return self.info.name

    def ours(self, **more: Any) -> Any:
        return getattr(fn.optim, self.class_name)(**self.arguments, **more)

    def theirs(self, params: list[Tensor], **more: Any) -> torch.optim.Optimizer:
        return self.info.optim_cls(params, **self.arguments, **more)

    def params(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
        """Params of many shapes; of matrices alone, if the optimizer takes nothing else."""
        shapes = MATRICES if self.class_name == "Muon" else SHAPES
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype if dtype.is_complex else torch.float64).to(dtype)

        return {key: {name: draw(shape) for name, shape in node.items()} for key, node in shapes.items()}

    def is_sparse(self) -> bool:
        return self.info.only_supports_sparse_grads


def rows(*, sparse: bool | None = False, with_lbfgs: bool = False) -> list[Row]:
    """The rows of the table; those that take sparse gradients alone, those that do not, or all."""
    return [
        Row(info, dict(given.kwargs), given.desc)
        for info in optim_db
        for given in info.optim_inputs_func(device="cpu")
        if (with_lbfgs or info.name != "LBFGS") and sparse in (None, info.only_supports_sparse_grads)
    ]
