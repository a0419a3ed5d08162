"""Both ways between a live optimizer of torch and a record with its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, TreeError, bullet_list
from funcnet._tensors import same_bits
from funcnet._typing import Tree, TreeLike
from funcnet.optim._adadelta import Adadelta
from funcnet.optim._adafactor import Adafactor
from funcnet.optim._adagrad import Adagrad
from funcnet.optim._adam import Adam, AdamW
from funcnet.optim._adamax import Adamax
from funcnet.optim._asgd import ASGD
from funcnet.optim._groups import torch_arguments
from funcnet.optim._lbfgs import LBFGS
from funcnet.optim._muon import Muon
from funcnet.optim._nadam import NAdam
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._pairing import format_place
from funcnet.optim._param_table import Layout, ParamTable
from funcnet.optim._radam import RAdam
from funcnet.optim._rmsprop import RMSprop
from funcnet.optim._rprop import Rprop
from funcnet.optim._sgd import SGD
from funcnet.optim._sparse_adam import SparseAdam
from funcnet.tree import ABSENT, flatten

RECORDS: dict[str, type[Optimizer]] = {
    record.__name__: record
    for record in (
        *(SGD, Adam, AdamW, Adamax, NAdam, RAdam, Adagrad, Adadelta, RMSprop, Rprop, ASGD, Adafactor, Muon),
        *(SparseAdam, LBFGS),
    )
}
"""The records by the names of the classes of torch.optim."""


def from_torch(torch_optimizer: torch.optim.Optimizer, module: nn.Module) -> tuple[Optimizer, Tree]:
    """The record and the state of a live optimizer of torch, with which training goes on in the same bits.

    The first group of the optimizer becomes the hyperparameters of the record, each further one a group selected by
    paths, with what it has other than the first. Groups without params, and what schedulers note in groups, are left
    out. A param of the module that the optimizer does not have is ``ABSENT`` in the state: a step refuses to update it.
    One that it has and never updated, as frozen params, has the entry ``{}``. All tensors are copies.

    Args:
        torch_optimizer: an optimizer of one of the classes in ``torch.optim``.
        module: the module with its params; the state has the paths of ``funcnet.from_module(module)``.

    Returns:
        ``(optimizer, state)``.

    Raises:
        ConversionError: if the class is none of torch.optim, or hooks run at its steps.
        TreeError: if the module does not have all params of the optimizer, or the state does not fit them.

    >>> module = nn.Linear(2, 1)
    >>> torch_optimizer = torch.optim.SGD([{"params": [module.weight]}, {"params": [module.bias], "lr": 0.5}], lr=0.1)
    >>> from_torch(torch_optimizer, module)
    (SGD(lr=0.1, groups={'bias': {'lr': 0.5}}), {'weight': {}, 'bias': {}})
    """
    record_class = _record_class_of(torch_optimizer)
    _require_module("from_torch(torch_optimizer, module)", module)
    table = ParamTable.of(module)
    path_by_id = {id(param): path for path, param in table.params.items()}
    groups = [group for group in torch_optimizer.param_groups if group["params"]]
    strangers = [
        f"parameter {at} of group {index}, shape {tuple(param.shape)}"
        for index, group in enumerate(groups)
        for at, param in enumerate(group["params"])
        if id(param) not in path_by_id
    ]
    if strangers:
        raise TreeError(
            f"{type(module).__name__} does not have all params of the optimizer:{bullet_list(strangers)}\n"
            f"Pass the module whose parameters() it was made of; copies of them are other parameters."
        )
    layout = [[path_by_id[id(param)] for param in group["params"]] for group in groups]
    return read_torch_optimizer(torch_optimizer, record_class, table, layout)


def _record_class_of(torch_optimizer: object) -> type[Optimizer]:
    kind = type(torch_optimizer)
    if isinstance(torch_optimizer, torch.optim.lr_scheduler.LRScheduler):
        raise ConversionError(
            f"from_torch takes optimizers. A schedule is made as the scheduler was, {kind.__name__}(optimizer, ...); "
            f"then schedule.read_state_dict(scheduler.state_dict()) returns the step."
        )
    if getattr(torch.optim, kind.__name__, None) is not kind or kind.__name__ not in RECORDS:
        raise ConversionError(
            f"from_torch takes the optimizers of torch.optim, not {kind.__module__}.{kind.__qualname__}. "
            f"They are {', '.join(RECORDS)}; what wraps one of them usually has it as an attribute."
        )
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    listed = [repr(hook) for name in hooks for hook in getattr(torch_optimizer, name, {}).values()]
    if listed:
        raise ConversionError(
            f"hooks run at the steps of this optimizer, of which a pure step knows nothing:{bullet_list(listed)}\n"
            f"Remove them, and do what they do before or after optimizer.step."
        )
    return RECORDS[kind.__name__]


def _require_module(call: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"in {call} the module is an nn.Module, and this is a {type(module).__name__}.")


def read_torch_optimizer(
    torch_optimizer: torch.optim.Optimizer,
    record_class: type[Optimizer],
    table: ParamTable,
    layout: Layout,
    selectors: Sequence[Any] | None = None,
) -> tuple[Optimizer, Tree]:
    """The record and the state of an optimizer whose groups have params with these paths.

    Args:
        torch_optimizer: the optimizer.
        record_class: the class of the record.
        table: the params by path.
        layout: the paths in each group that has params.
        selectors: of all groups but the first, if the caller knows better ones than paths.
    """
    groups = [group for group in torch_optimizer.param_groups if group["params"]]
    values, *others = [_read_hyperparameters(group, record_class) for group in groups]
    names = table.make_selectors(layout) if selectors is None else selectors
    differences = [
        {name: value for name, value in other.items() if not _is_same(value, values[name])} for other in others
    ]
    record = record_class(**values, groups=dict(zip(names, differences, strict=True)))
    paths = [path for group in layout for path in group]
    if [set(group) for group in table.find_layout(list(record.groups), paths)] != [set(group) for group in layout]:
        raise TreeError(f"no selectors have the params of these groups, for there are '*' or '!' in paths: {names}.")
    _check_row(record, table, layout)
    entries: dict[str, Tree] = {}
    for group, paths in zip(groups, layout, strict=True):
        for param, path in zip(group["params"], paths, strict=True):
            entry = torch_optimizer.state.get(param, {})
            entries[path] = {name: copy_value(value) for name, value in entry.items() if value is not None}
    check_entries(record, table, entries)
    return record, table.build_state(entries)


def _read_hyperparameters(group: Mapping[str, Any], record_class: type[Optimizer]) -> dict[str, Any]:
    return {name: copy_value(group[name]) for name in record_class._hyperparameter_names() if name in group}


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_is_same, left, right))
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return same_bits(left, right)
    return not isinstance(left, Tensor) and not isinstance(right, Tensor) and bool(left == right)


def copy_value(value: Any) -> Any:
    """A value of a state or of hyperparameters, with copies of the tensors in it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(copy_value(item) for item in value)
    return value


def check_entries(record: Optimizer, table: ParamTable, entries: Mapping[str, Any]) -> None:
    """Refuse entries of a state that do not fit the record and the params.

    Raises:
        TreeError: names all places.
    """
    problems = []
    paths = [path for path, entry in entries.items() if isinstance(entry, Mapping) and entry and path in table.params]
    for own_record, path in zip(_records_at(record, table, paths), paths, strict=True):
        for name, shape in own_record._entry_shapes(table.params[path]).items():
            tensor = entries[path].get(name)
            if tensor is None and record._starts_empty:
                continue
            if not isinstance(tensor, Tensor) or tensor.shape != shape:
                got = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"{tensor!r:.60}"
                problems.append(f"{format_place('state', path)}[{name!r}]: expected shape {tuple(shape)}, got {got}")
    if problems:
        raise TreeError(
            f"the state does not fit {type(record).__name__} and the params:{bullet_list(problems)}\n"
            f"Is it the state of another optimizer, or of a module with other shapes or another order of params?"
        )


def _records_at(record: Optimizer, table: ParamTable, paths: Sequence[str]) -> list[Optimizer]:
    leaves = list(table.owner_by_leaf)
    indices = {leaf: at for at, leaf in enumerate(leaves)}
    return list(record._records_of(leaves, [indices[path] for path in paths]))


def _check_row(record: Optimizer, table: ParamTable, layout: Layout) -> None:
    """Refuse an order of params other than that of the trees for L-BFGS, whose vectors have all params in a row."""
    paths = [path for group in layout for path in group]
    in_order = [path for path in table.owner_by_leaf if path in paths and table.owner_by_leaf[path] == path]
    if isinstance(record, LBFGS) and paths != in_order:
        raise TreeError(
            f"L-BFGS has all params in a row, and the optimizer of torch has them in another order than the trees: "
            f"expected {', '.join(in_order)}, got {', '.join(paths)}."
        )


def to_torch(
    optimizer: Optimizer, state: TreeLike, module: nn.Module, *, param_names: bool = False
) -> torch.optim.Optimizer:
    """A live optimizer of torch over the parameters of a module, whose next steps have the bits of the record's.

    The params in no group of the record are the first group, if there are any, and each group of the record is the
    next. Params that are ``ABSENT`` in the state are in no group; those that were never updated have no state, as in
    torch. All tensors are copies.

    Args:
        optimizer: a record of ``funcnet.optim``.
        state: its state, with the paths of the module's params.
        module: the module, with the params that belong to the state; ``funcnet.to_module`` makes one.
        param_names: whether the optimizer knows the names of its params, as one made of ``named_parameters()``.

    Raises:
        TreeError: if the state does not fit the module; names all places.
        ConversionError: if the optimizer is none that torch has, or has what that of torch lacks.

    >>> import funcnet as fn
    >>> net = fn.Linear(2, 1)
    >>> params, _ = net.init(0)
    >>> optimizer = fn.optim.Adam(lr=0.1)
    >>> module = fn.to_module(net, params)
    >>> to_torch(optimizer, optimizer.init(params), module).param_groups[0]["lr"]
    0.1
    """
    _require_module("to_torch(optimizer, state, module)", module)
    return build_torch_optimizer(optimizer, state, ParamTable.of(module), param_names)


def build_torch_optimizer(
    optimizer: Optimizer, state: TreeLike, table: ParamTable, param_names: bool
) -> torch.optim.Optimizer:
    """The optimizer of torch over the params of a table."""
    if RECORDS.get(type(optimizer).__name__) is not type(optimizer):
        raise ConversionError(
            f"torch.optim has no counterpart of {type(optimizer).__name__}. Those of MasterParams are "
            f"optimizer.optimizer with state['optimizer'], over a module with the full params."
        )
    entries = _read_entries(state, table)
    check_entries(optimizer, table, entries)
    layout = table.find_layout(list(optimizer.groups), [path for path in table.params if path in entries])
    _check_row(optimizer, table, layout)
    groups = list(zip(layout, ({}, *optimizer.groups.values()), strict=True))
    torch_optimizer = make_torch_optimizer(optimizer, groups, table, param_names)
    paths = [path for group in layout for path in group]
    for path, record in zip(paths, _records_at(optimizer, table, paths), strict=True):
        param = table.params[path]
        entry = {name: copy_value(value) for name, value in entries[path].items()}
        if entry and not _is_first(entry, record, param):
            torch_optimizer.state[param] = entry
    return torch_optimizer


def _is_first(entry: Tree, record: Optimizer, param: Tensor) -> bool:
    """Whether an entry is the one before the first step, of which torch has none."""
    step = entry.get("step")
    if not isinstance(step, (int, Tensor)) or step != 0:
        return False
    first = record._init_entry(param)
    return first.keys() == entry.keys() and all(_is_same(entry[name], value) for name, value in first.items())


def _read_entries(state: TreeLike, table: ParamTable) -> dict[str, Tree]:
    """The entries of a state by path, without those that are absent.

    Raises:
        TreeError: if the state has other params than the table; names all of them.
    """
    entries: dict[str, Tree] = {}
    problems: list[str] = []
    for leaf, owner in table.owner_by_leaf.items():
        entry: Any = state
        for key in leaf.split("."):
            entry = entry.get(key) if isinstance(entry, Mapping) else None
        if isinstance(entry, Mapping):
            entries.setdefault(owner, dict(entry))
        elif entry is not ABSENT:
            problems.append(f"missing  {format_place('state', leaf)}: expected a dict, or ABSENT, got {entry!r:.60}")
    leaves = set(table.owner_by_leaf)
    extras = [path for path in flatten(state) if leaves.isdisjoint(_prefixes(path))]
    problems += [
        f"extra    {format_place('state', path)}: there is no such param"
        for path in dict.fromkeys(path.rpartition(".")[0] or path for path in extras)
    ]
    if problems:
        raise TreeError(
            f"the state does not have the params of the module: {len(problems)} problems{bullet_list(problems)}\n"
            f"Its paths are those of the params of funcnet.from_module(module)."
        )
    return entries


def _prefixes(path: str) -> list[str]:
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(1, len(keys) + 1)]


def make_torch_optimizer(
    optimizer: Optimizer,
    groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    table: ParamTable,
    param_names: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer of torch with the hyperparameters of a record, and no state but a first one.

    Args:
        optimizer: the record; its groups are not read.
        groups: the paths of the params in each group, and hyperparameters in place of the record's.
        table: the params by path.
        param_names: whether the optimizer knows the names of its params.

    Raises:
        ConversionError: if the record has hyperparameters that the class of torch lacks.
    """
    name = type(optimizer).__name__
    arguments = torch_arguments(name)
    values = optimizer.values()
    defaults = type(optimizer)().values()
    lacking = [f"{key}={value!r}" for key, value in values.items() if key not in arguments and value != defaults[key]]
    if lacking:
        raise ConversionError(f"torch.optim.{name} has no {', '.join(lacking)}.")
    groups_of_torch = []
    for paths, of_group in groups:
        if paths:
            params: list[Any] = [
                (table.names[path], table.params[path]) if param_names else table.params[path] for path in paths
            ]
            own = {key: copy_value(value) for key, value in {**values, **of_group}.items() if key in arguments}
            groups_of_torch.append({"params": params, **own})
    if not groups_of_torch:
        raise TreeError("the state is ABSENT everywhere, so the optimizer would have no params.")
    torch_class = cast("type[torch.optim.Optimizer]", getattr(torch.optim, name))
    return torch_class(groups_of_torch, **{key: value for key, value in values.items() if key in arguments})
