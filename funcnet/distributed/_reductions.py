"""How the values of all ranks make the value of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._torch import pytree
from funcnet.ranks import Groups, RankRun, sum_over_ranks
from funcnet.tree import flatten, map_with_path, select
from funcnet.tree.internals import describe_unmatched

Reduction: TypeAlias = 'Literal["mean", "sum"] | Callable[..., Any]'
"""What the value of a rank is: the mean of its rows, their sum, or a mean over what a function counts."""

AuxReduction: TypeAlias = Literal["rows", "mean", "sum"]
"""What a tensor of aux is: rows of its own, or a mean or sum as the value is; the whole one is made of them."""

REDUCTIONS = ("mean", "sum")
AUX_REDUCTIONS = ("rows", "mean", "sum")


def weighted_mean(value: Tensor, weight: Tensor | float, groups: Groups) -> Tensor:
    """The mean of the values of all ranks, each counted with its weight; one collective.

    A rank without weight counts for nothing, also where its own mean over nothing is NaN.
    """
    if not groups:
        return value
    dtype = torch.complex128 if value.is_complex() else torch.float64
    weight = torch.as_tensor(weight, dtype=torch.float64, device=value.device).detach()
    counted = torch.where(weight == 0, torch.zeros_like(value), value)
    total, count = sum_over_ranks(groups, counted.to(dtype) * weight, weight)
    return (total / count).to(value.dtype)


def reduce_aux(
    aux: Any, reduction: AuxReduction | Mapping[str, AuxReduction] | None, weight: Any, run: RankRun, groups: Groups
) -> Any:
    """Aux with the tensors of all rows in place of those of this rank's, where the reduction says what they are.

    Args:
        aux: what the loss returned.
        reduction: what all its tensors are; or selectors of leaves of a nested dict, each with what they are.
        weight: that of the value, for means.
        run: the run that is over.
        groups: those of the ranks.
    """
    if reduction is None:
        return aux
    if isinstance(reduction, str):
        return pytree.tree_map(lambda leaf: _reduce_leaf(leaf, reduction, weight, run, groups), aux)
    if not isinstance(aux, Mapping):
        raise TypeError(f"aux={dict(reduction)!r} selects leaves of a nested dict, and aux is {type(aux).__name__}.")
    paths = list(flatten(aux))
    problems = [line for selector in reduction for line in describe_unmatched(selector, paths)]
    if problems:
        raise TreeError(f"aux={dict(reduction)!r} does not fit what the loss returns:{bullet_list(problems)}")
    tests = [(select(selector), one) for selector, one in reduction.items()]

    def reduce_at(path: str, leaf: Any) -> Any:
        matches = [one for is_selected, one in tests if is_selected(path)]
        return _reduce_leaf(leaf, matches[-1], weight, run, groups) if matches else leaf

    return map_with_path(reduce_at, aux)


def _reduce_leaf(leaf: Any, reduction: AuxReduction, weight: Any, run: RankRun, groups: Groups) -> Any:
    if not isinstance(leaf, Tensor) or run.rows is None or not groups:
        return leaf
    if reduction == "mean":
        return weighted_mean(leaf, weight, groups)
    if reduction == "sum":
        return sum_over_ranks(groups, leaf)[0]
    if not leaf.dim() or leaf.shape[0] != run.rows:
        raise TreeError(f"a tensor of aux is said to have {run.rows} rows, and has shape {tuple(leaf.shape)}.")
    before, total = run.row_range
    around = [leaf.new_zeros(count, *leaf.shape[1:]) for count in (before, total - before - run.rows)]
    whole = torch.cat([around[0], leaf, around[1]])  # sums with zeros are exact, and have every derivative
    return sum_over_ranks(groups, whole.to(torch.uint8) if leaf.dtype == torch.bool else whole)[0].to(leaf.dtype)
