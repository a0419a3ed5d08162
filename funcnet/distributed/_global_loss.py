"""Losses of one process run on all ranks of a mesh: the value is that of the whole batch, with all its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from funcnet._context import under_forward_mode, under_transform
from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import pytree
from funcnet._typing import Selector
from funcnet.distributed._reductions import (
    AUX_REDUCTIONS,
    REDUCTIONS,
    AuxReduction,
    Reduction,
    reduce_aux,
    weighted_mean,
)
from funcnet.distributed._shard import refuse_partial
from funcnet.distributed._tensor_parallel import Shares, find_mesh_axis
from funcnet.kernels.internals import RankInterceptor
from funcnet.random.internals import names_in_function
from funcnet.ranks import Groups, RankRun, hand_to_ranks, running_on_ranks, sum_over_ranks
from funcnet.ranks.internals import Units, gather_wholes, mesh_groups, read_placement
from funcnet.transforms import value_and_grad as value_and_grad_of_one_process
from funcnet.tree import flatten, map_with_path, select
from funcnet.tree.internals import describe_unmatched

Batch: TypeAlias = "int | str | Sequence[int | str] | None"
"""Positions or names of the arguments that hold rows of the batch."""


def global_loss(
    loss: Callable[..., Any],
    mesh: DeviceMesh,
    *,
    units: Selector | None = None,
    batch: Batch = None,
    reduction: Reduction = "mean",
    aux: AuxReduction | Mapping[str, AuxReduction] | None = None,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
    statistics: Literal["global", "local"] = "global",
    tensor_parallel: str | None = None,
) -> Callable[..., Any]:
    """A loss of one process as a function of params that are placed on a mesh: its value is that of the whole batch.

    All ranks call it together, each with its rows of the batch. Within the loss all tensors are plain ones of this
    rank, so that every net, layer and function works as on one machine: sharded params are gathered, whole ones are
    shared. The value is the same on all ranks, and so are its derivatives of every kind and order, by ``fn.hvp``,
    ``torch.func`` or a backward pass, to rounding: those by a param are placed as the param is.

    Norms over the batch take the rows of all ranks, and a Key (or int seed) draws for a row what it draws on one
    process: a draw whose first axis has as many entries as this rank has rows, or a multiple, is taken for these rows.

    Args:
        loss: a function as on one process, which returns a scalar.
        mesh: the ranks.
        units: the parts of the net whose params are gathered when they are called, freed after, and gathered again in
            the backward pass (ZeRO-3): a selector of nodes of the params, as ``"layers.*"``. The others are gathered at
            the start. Under transforms of torch.func, all are.
        batch: positions or names of the arguments that have this rank's rows along their first axis. By default all
            tensors with an axis, if none is in nested data other than the params; ``()`` if all ranks have the same
            inputs. A DTensor stands for what this rank has of it.
        reduction: what the value of the loss is of the rows that it gets: their "mean" (all rows count alike), their
            "sum", or a mean over what a function counts: ``lambda params, x, y: (y != -100).sum()``. That function has
            the arguments of the loss.
        aux: what the tensors are that the loss returns beside the value: "rows" of their own, as losses of single
            examples; a "mean" or a "sum", as the value is; or selectors of leaves, each with one of these. Others stay
            as this rank has them, as do buffers, which are the same on all ranks.
        has_aux: whether the loss returns ``(value, aux)``.
        argnums: the positions of trees of params.
        statistics: "local" if norms over the batch are to take the rows of this rank alone.
        tensor_parallel: the name of the axis of the mesh whose ranks share each layer of a model, as its params lie by
            :func:`tensor_parallel_plan`. These ranks have the same rows: ``rows(batch, mesh["data"])``.

    Returns:
        A function with the arguments of ``loss``.

    Raises:
        TreeError: if ``units`` selects nothing, arguments of the batch have different numbers of rows, or a param lies
            on the mesh in a way that has no gradient; if ranks that share layers have different inputs, or params that
            do not lie by the plan of the net; names all of them.

    >>> import funcnet as fn
    >>> net = fn.Linear(3, 1)
    >>> with fn.distributed.world_mesh() as mesh:
    ...     params = fn.distributed.shard(net.init(0)[0], mesh)
    ...     loss = fn.distributed.global_loss(lambda params, x: net(params, x).square().mean(), mesh)
    ...     grads = torch.func.grad(loss)(params, torch.ones(4, 3))
    ...     grads["weight"].placements
    (Shard(dim=0),)
    """
    _check_options(reduction, aux, statistics)
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if tensor_parallel is not None and units is not None:
        raise ValueError("tensor_parallel cuts the layers, and units gather them: give one of them.")
    groups, sharing_groups, shares = _split_groups(mesh, tensor_parallel)
    calls_batch_norm = "batch_norm" in names_in_function(loss)  # by itself, outside of nets

    @wraps(loss)
    def compute_global_value(*args: Any, **kwargs: Any) -> Any:
        positions = [number % len(args) for number in numbers]
        row_names = _name_row_arguments(args, kwargs, positions, batch)
        row_count = _count_rows(args, kwargs, row_names)
        local_args, kwargs = _take_local_inputs(args, kwargs, positions)
        unit_names = None if units is None or under_transform() or under_forward_mode() else units
        common = [position for position in positions if position not in row_names]
        device = torch.device(mesh.device_type)
        if sharing_groups and not under_transform():
            inputs = [local_args[name] if isinstance(name, int) else kwargs[name] for name in row_names]
            _refuse_other_inputs(inputs, sharing_groups[0], device)
        whole_args, later = _gather_arguments(local_args, common, unit_names, groups, shares)
        run = RankRun(groups, row_count, statistics, later, device, sharing_groups)
        with running_on_ranks(run), RankInterceptor() if calls_batch_norm else nullcontext():
            result = loss(*whole_args, **kwargs)
            weight = _weigh(reduction, row_count, whole_args, kwargs)
        value, aux_of_rank = result if has_aux else (result, None)
        if not isinstance(value, Tensor):
            raise TypeError(f"the loss returns {type(value).__name__}: expected a scalar tensor.")
        value = _reduce_value(value, reduction, weight, run)
        return (value, reduce_aux(aux_of_rank, aux, weight, run, groups)) if has_aux else value

    return compute_global_value


def value_and_grad(
    loss: Callable[..., Any],
    mesh: DeviceMesh,
    *,
    units: Selector | None = None,
    batch: Batch = None,
    reduction: Reduction = "mean",
    aux: AuxReduction | Mapping[str, AuxReduction] | None = None,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
    statistics: Literal["global", "local"] = "global",
    tensor_parallel: str | None = None,
) -> Callable[..., Any]:
    """A function that returns the value of a loss for the whole batch, and its gradient, placed as the params are.

    It is ``fn.value_and_grad`` of :func:`global_loss`, whose arguments it has. Params that all ranks have whole make it
    data parallel; of sharded ones, with ``units``, one unit at a time is whole.

    >>> import funcnet as fn
    >>> net = fn.Sequential(fn.Linear(3, 3), fn.Linear(3, 1))
    >>> def loss(params, x, y):
    ...     return (net(params, x) - y).square().mean()
    >>> with fn.distributed.world_mesh() as mesh:
    ...     params = fn.distributed.shard(net.init(0)[0], mesh)
    ...     x, y = fn.distributed.rows((torch.ones(4, 3), torch.zeros(4, 1)), mesh)
    ...     value, grads = fn.distributed.value_and_grad(loss, mesh, units="*")(params, x, y)
    ...     same, _ = fn.value_and_grad(loss)(net.init(0)[0], torch.ones(4, 3), torch.zeros(4, 1))
    >>> bool(value == same), grads["1"]["weight"].placements
    (True, (Shard(dim=0),))
    """
    compute = global_loss(
        loss,
        mesh,
        units=units,
        batch=batch,
        reduction=reduction,
        aux=aux,
        has_aux=has_aux,
        argnums=argnums,
        statistics=statistics,
        tensor_parallel=tensor_parallel,
    )
    return value_and_grad_of_one_process(compute, argnums, has_aux)


def _check_options(reduction: Any, aux: Any, statistics: Any) -> None:
    if not (reduction in REDUCTIONS or callable(reduction)):
        raise ValueError(f"reduction is 'mean', 'sum' or a function that counts, not {reduction!r}.")
    for one in [aux] if aux is None or isinstance(aux, str) else aux.values():
        if one is not None and one not in AUX_REDUCTIONS:
            raise ValueError(f"tensors of aux are 'rows', a 'mean' or a 'sum', not {one!r}.")
    if statistics not in ("global", "local"):
        raise ValueError(f"statistics are 'global' or 'local', not {statistics!r}.")


def _weigh(reduction: Reduction, row_count: int | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What the value of this rank counts among those of all ranks."""
    if row_count is None:
        return 1.0  # all ranks have the same inputs, and so the same value
    return float(row_count) if isinstance(reduction, str) else reduction(*args, **kwargs)


def _reduce_value(value: Tensor, reduction: Reduction, weight: Any, run: RankRun) -> Tensor:
    if reduction == "sum" and run.rows is not None and run.groups:
        return sum_over_ranks(run.groups, value)[0]
    return weighted_mean(value, weight, run.groups)


# --- the rows ---


def _name_row_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], positions: list[int], batch: Batch
) -> list[int | str]:
    """Positions and names of the arguments that hold rows."""
    if batch is None:
        inputs: dict[int | str, Any] = {number: arg for number, arg in enumerate(args) if number not in positions}
        inputs.update(kwargs.items())
        unclear = [name for name, value in inputs.items() if not isinstance(value, Tensor) and _has_axes(value)]
        if unclear:
            raise TreeError(
                f"{', '.join(f'argument {name!r}' for name in unclear)} may hold rows of the batch, or what all ranks "
                f"have, as buffers. Say by position or name which arguments hold rows: batch=(1, 'labels'), batch=() "
                f"if none does."
            )
        return [name for name, value in inputs.items() if _has_axes(value)]
    names = [batch] if isinstance(batch, (int, str)) else list(batch)
    problems = [
        f"there is no argument {name!r}"
        for name in names
        if (name not in kwargs if isinstance(name, str) else not -len(args) <= name < len(args))
    ]
    if problems:
        raise TreeError(
            f"batch={batch!r} does not fit a call with {len(args)} positional arguments and the keywords "
            f"{sorted(kwargs)}:{bullet_list(problems)}"
        )
    return [name if isinstance(name, str) else name % len(args) for name in names]


def _has_axes(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dim() > 0 for leaf in pytree.tree_leaves(value))


def _count_rows(args: tuple[Any, ...], kwargs: dict[str, Any], names: list[int | str]) -> int | None:
    """How many rows this rank has; None if no argument has any."""
    rows_by_name: dict[str, int] = {}
    problems = []
    for name in names:
        title = f"argument {name}" if isinstance(name, int) else f"argument {name!r}"
        for leaf in pytree.tree_leaves(args[name] if isinstance(name, int) else kwargs[name]):
            if not isinstance(leaf, Tensor) or not leaf.dim():
                continue
            if isinstance(leaf, DTensor) and any(isinstance(one, Shard) and one.dim for one in leaf.placements):
                problems.append(f"{title} is cut along another axis than its rows: {leaf.placements}")
            local = leaf.to_local() if isinstance(leaf, DTensor) else leaf
            rows_by_name[title] = local.shape[0]
    if len(set(rows_by_name.values())) > 1:
        problems += [f"{title} has {rows} rows on this rank" for title, rows in rows_by_name.items()]
    if problems:
        raise TreeError(
            f"the arguments are not rows of one batch:{bullet_list(problems)}\n"
            f"Name those that hold rows, by position or by name: batch={names[:1]}."
        )
    return next(iter(rows_by_name.values()), None)


# --- the tensors of this rank ---


def _take_local_inputs(
    args: tuple[Any, ...], kwargs: dict[str, Any], positions: list[int]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with what this rank has of DTensors, other than params."""

    def take(leaf: Any) -> Any:
        return leaf.to_local() if isinstance(leaf, DTensor) else leaf

    def take_all(value: Any) -> Any:
        return (
            pytree.tree_map(take, value)
            if any(isinstance(leaf, DTensor) for leaf in pytree.tree_leaves(value))
            else value
        )

    local_args = [arg if number in positions else take_all(arg) for number, arg in enumerate(args)]
    return local_args, {name: take_all(value) for name, value in kwargs.items()}


def _gather_arguments(
    args: list[Any], positions: list[int], units: Selector | None, groups: Groups, shares: Shares | None
) -> tuple[list[Any], Units | None]:
    """The arguments with whole params, other than those that units gather later, or of which ranks have shares."""
    leaves = {
        (position, path): leaf
        for position in positions
        for path, leaf in _flatten_argument(args[position]).items()
        if isinstance(leaf, Tensor)
    }
    refuse_partial({path: leaf for (_, path), leaf in leaves.items()})
    unit_by_leaf: dict[int, str] = {}
    if units is not None:
        problems = describe_unmatched(units, [path for _, path in leaves])
        if problems:
            raise TreeError(f"units={units!r} does not fit the params:{bullet_list(problems)}")
        is_unit = select(units)
        for (_, path), leaf in leaves.items():
            unit = next((name for name in _iter_nodes(path) if is_unit(name)), None)
            if unit is not None and read_placement(leaf) is not None:
                unit_by_leaf[id(leaf)] = unit
    now = {
        place: leaf
        for place, leaf in leaves.items()
        if id(leaf) not in unit_by_leaf and not (shares is not None and shares.is_cut(leaf))
    }
    placed = {place: leaf for place, leaf in now.items() if read_placement(leaf) is not None}
    gather = gather_wholes if shares is None else shares.gather
    wholes: dict[tuple[int, str], Tensor] = dict(zip(placed, gather(list(placed.values())), strict=True))
    plain = {place: leaf for place, leaf in now.items() if place not in placed and is_inexact(leaf)}
    wholes.update(zip(plain, hand_to_ranks(groups, *plain.values()), strict=True))
    return [
        _replace_leaves(arg, {path: whole for (at, path), whole in wholes.items() if at == number})
        if number in positions
        else arg
        for number, arg in enumerate(args)
    ], Units(unit_by_leaf, None if shares is None else shares.take) if unit_by_leaf or shares is not None else None


def _split_groups(mesh: DeviceMesh, tensor_parallel: str | None) -> tuple[Groups, Groups, Shares | None]:
    """The groups of ranks that have other rows, and of those that share layers."""
    axis = None if tensor_parallel is None else find_mesh_axis(mesh, tensor_parallel)
    if axis is None or mesh.size(axis) == 1:
        return mesh_groups(mesh), (), None
    others = tuple(mesh.get_group(one) for one in range(mesh.ndim) if one != axis and mesh.size(one) > 1)
    return others, (mesh.get_group(axis),), Shares(mesh, axis)


def _refuse_other_inputs(inputs: list[Any], group: dist.ProcessGroup, device: torch.device) -> None:
    """Refuse inputs that differ on ranks that share layers: each would compute a part of another value."""
    own = torch.zeros(2, dtype=torch.int64, device=device)
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.numel():
            numbers = leaf.detach().contiguous().reshape(-1).view(torch.uint8).to(device, torch.int64)
            places = torch.arange(1, len(numbers) + 1, device=device)
            own = own * 31 + torch.stack([(numbers * places).sum(), numbers.sum() + len(numbers)])
    by_rank = own.new_empty(group.size() * 2)
    dist.all_gather_single(by_rank, own, group=group)
    sums = by_rank.view(-1, 2)
    if not bool((sums == sums[0]).all()):
        raise TreeError(
            "ranks that share layers have different inputs. Give them the same rows, by the other axes of "
            "the mesh: fn.distributed.rows(batch, mesh['data'])."
        )


def _iter_nodes(path: str) -> list[str]:
    """The paths of the nodes above a leaf, the outermost first."""
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(1, len(keys))]


def _flatten_argument(arg: Any) -> dict[str, Any]:
    return flatten(arg) if isinstance(arg, Mapping) else {"": arg}


def _replace_leaves(arg: Any, leaves: dict[str, Tensor]) -> Any:
    if not isinstance(arg, Mapping):
        return leaves.get("", arg)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), arg)
