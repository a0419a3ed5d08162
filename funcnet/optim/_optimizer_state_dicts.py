"""Both ways between the state_dict of an optimizer of torch and a record with its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Tree, TreeLike
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._param_table import Layout, ParamTable
from funcnet.optim._torch_optimizers import build_torch_optimizer, make_torch_optimizer, read_torch_optimizer


def to_state_dict(
    optimizer: Optimizer,
    state: TreeLike,
    module: nn.Module | TreeLike,
    *,
    keys: Literal["index", "path", "flat"] = "index",
    param_names: bool = False,
) -> dict[str, Any]:
    """The state_dict of the optimizer of torch that a record and its state stand for; see :func:`to_torch`.

    Args:
        optimizer: a record of ``funcnet.optim``.
        state: its state.
        module: the module with the params, or the params alone as nested dicts.
        keys: what params go by. "index": their numbers, as in ``torch_optimizer.state_dict()``. "path": their names,
            as ``torch.distributed.checkpoint.state_dict.get_optimizer_state_dict`` gives them. "flat": the same in one
            dict, as that function does with ``flatten_optimizer_state_dict=True``.
        param_names: whether groups hold the names of their params too, as those of an optimizer made of
            ``named_parameters()``.

    Raises:
        TreeError: if the state does not fit the params; names all places.
        ConversionError: if the optimizer is none that torch has, or has what that of torch lacks.

    >>> import torch
    >>> from funcnet.optim import SGD
    >>> params = {"fc": {"weight": torch.ones(1)}}
    >>> state_dict = to_state_dict(SGD(lr=0.1), {"fc": {"weight": {"momentum_buffer": torch.ones(1)}}}, params)
    >>> state_dict["state"], state_dict["param_groups"][0]["params"]
    ({0: {'momentum_buffer': tensor([1.])}}, [0])
    """
    if keys not in ("index", "path", "flat"):
        raise ValueError(f"keys is 'index', 'path' or 'flat', got {keys!r}.")
    table = ParamTable.of(module)
    torch_optimizer = build_torch_optimizer(optimizer, state, table, param_names)
    state_dict = torch_optimizer.state_dict()
    if keys == "index":
        return {**state_dict}
    path_by_id = {id(param): path for path, param in table.params.items()}
    params = [param for group in torch_optimizer.param_groups for param in group["params"]]
    names = [table.names[path_by_id[id(param)]] for param in params]
    entries = {names[index]: entry for index, entry in state_dict["state"].items()}
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state_dict["param_groups"]]
    if keys == "path":
        return {"state": entries, "param_groups": groups}
    flat = {f"state.{name}.{key}": value for name, entry in entries.items() for key, value in entry.items()}
    for group in groups:
        for name in group.pop("params"):
            flat |= {f"param_groups.{name}.{key}": value for key, value in group.items() if key != "param_names"}
    return flat


def from_state_dict(
    optimizer: Optimizer | type[Optimizer], state_dict: Mapping[str, Any], module: nn.Module | TreeLike
) -> tuple[Optimizer, Tree]:
    """The record and the state that the state_dict of an optimizer of torch holds; see :func:`from_torch`.

    It takes all forms that :func:`to_state_dict` gives. Params are matched by their names where the state_dict has
    them: as keys, or as ``param_names``. Else they are numbered in the order of ``module.parameters()``, group by
    group; then a state_dict with several groups needs an ``optimizer`` with the same groups. As in torch, entries get
    the dtype of their param, and hyperparameters are those of the state_dict.

    Args:
        optimizer: the class of the record, as ``fn.optim.AdamW``, for the state_dict does not say it; or a record of
            it, whose groups are then kept where they have the same params.
        state_dict: of an optimizer of torch.
        module: the module with the params, or the params alone as nested dicts.

    Returns:
        ``(optimizer, state)``.

    Raises:
        TreeError: if the state_dict does not fit the params and the optimizer; names all places.

    >>> import torch
    >>> from funcnet.optim import SGD
    >>> module = nn.Linear(1, 1, bias=False)
    >>> torch_optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> from_state_dict(SGD, torch_optimizer.state_dict(), module)
    (SGD(lr=0.1), {'weight': {}})
    """
    table = ParamTable.of(module)
    record = _as_record(optimizer)
    entries, groups = _read_state_dict(state_dict, table)
    paths = _match_params(groups, table, record)
    problems = [f"state[{key!r}]: no group has this param" for key in entries if key not in paths]
    problems += [
        f"state[{key!r}]: expected a dict, got {type(entry).__name__}"
        for key, entry in entries.items()
        if not isinstance(entry, Mapping)
    ]
    if problems:
        raise TreeError(f"this is not the state_dict of an optimizer:{bullet_list(problems)}")
    layout = [[paths[key] for key in group["params"]] for group in groups]
    numbers = {key: number for number, key in enumerate(paths)}
    saved_groups = [
        {name: value for name, value in group.items() if name != "param_names"}
        | {"params": [numbers[key] for key in group["params"]]}
        for group in groups
    ]
    # torch's own loading casts tensors, and brings what older versions of torch saved up to date.
    torch_optimizer = make_torch_optimizer(type(record)(), [(group, {}) for group in layout], table)
    saved_state = {numbers[key]: dict(entry) for key, entry in entries.items()}
    torch_optimizer.load_state_dict({"state": saved_state, "param_groups": saved_groups})
    is_like_record = len(record.groups) == len(layout) - 1 and _as_sets(
        table.find_layout(list(record.groups), list(paths.values()))
    ) == _as_sets(layout)
    selectors = list(record.groups) if is_like_record else None
    return read_torch_optimizer(torch_optimizer, type(record), table, layout, selectors)


def _as_record(optimizer: object) -> Optimizer:
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer()
    if not isinstance(optimizer, Optimizer):
        got = f"a {type(optimizer).__name__}"
        if isinstance(optimizer, type):
            got = f"{optimizer.__module__}.{optimizer.__qualname__}"
        raise TypeError(
            f"in from_state_dict(optimizer, state_dict, module) the optimizer is a record of funcnet.optim, or its "
            f"class, as fn.optim.AdamW, and this is {got}."
        )
    return optimizer


def _as_sets(layout: Layout) -> list[set[str]]:
    return [set(group) for group in layout]


def _read_state_dict(
    state_dict: Mapping[str, Any], table: ParamTable
) -> tuple[Mapping[Any, Any], list[dict[str, Any]]]:
    """The entries of a state_dict in any form by what params go by there, and the groups that have params."""
    if "param_groups" in state_dict and "state" in state_dict:
        groups = [dict(group) for group in state_dict["param_groups"] if group["params"]]
        entries = state_dict["state"]
    elif any(str(key).startswith("param_groups.") for key in state_dict):
        entries, groups = _read_flat(state_dict, table)
    else:
        shown = ", ".join(repr(key) for key in [*state_dict][:5])
        raise TreeError(f"the state_dict of an optimizer has 'state' and 'param_groups', and this one has {shown}.")
    if not groups:
        raise TreeError("the groups of the state_dict have no params.")
    return entries, groups


def _read_flat(state_dict: Mapping[str, Any], table: ParamTable) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """The same of the form that is one dict; params with equal hyperparameters make up a group."""
    values_by_name: dict[str, dict[str, Any]] = {}
    entries: dict[Any, Any] = {}
    for key, value in state_dict.items():
        part, _, rest = key.partition(".")
        name, _, field = rest.rpartition(".")
        if part == "param_groups":
            values_by_name.setdefault(name, {})[field] = value
        elif part == "state":
            entries.setdefault(name, {})[field] = value
    groups: list[dict[str, Any]] = []
    for name, values in values_by_name.items():
        for group in groups:
            if {key: value for key, value in group.items() if key != "params"} == values:
                group["params"].append(name)
                break
        else:
            groups.append({**values, "params": [name]})
    return entries, groups


def _match_params(groups: Sequence[Mapping[str, Any]], table: ParamTable, record: Optimizer) -> dict[Any, str]:
    """The path of each param, by what it goes by in the state_dict."""
    keys = [key for group in groups for key in group["params"]]
    names: list[Any] = keys
    if all(isinstance(key, int) for key in keys):
        names = [name for group in groups for name in group.get("param_names") or ()]
        if len(names) != len(keys):
            return dict(zip(keys, _number_paths(groups, table, record), strict=True))
    path_by_name = table.find_paths(names)
    problems = [f"{name!r}: there is no such param" for name in names if name not in path_by_name]
    paths = [path_by_name[name] for name in names if name in path_by_name]
    problems += [f"{path!r}: it comes twice" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if problems:
        raise TreeError(
            f"the params of the state_dict do not fit:{bullet_list(problems)}\n"
            f"The params are {', '.join(list(table.params)[:8])}{' ...' if len(table.params) > 8 else ''}."
        )
    return dict(zip(keys, paths, strict=True))


def _number_paths(groups: Sequence[Mapping[str, Any]], table: ParamTable, record: Optimizer) -> list[str]:
    """The paths of params that have no names, group by group in the order of ``module.parameters()``."""
    sizes = [len(group["params"]) for group in groups]
    candidates = list(table.params)
    if sum(sizes) != len(candidates):
        candidates = [path for path in candidates if table.params[path].requires_grad]
    if sum(sizes) != len(candidates):
        raise TreeError(
            f"the state_dict has {sum(sizes)} params without names, and there are {len(table.params)}, of which "
            f"{len(candidates)} require grad. Save one whose optimizer was made of named_parameters()."
        )
    layout = [group for group in table.find_layout(list(record.groups), candidates) if group]
    if [len(group) for group in layout] != sizes:
        raise TreeError(
            f"the state_dict has groups of {_join_sizes(sizes)} params without names, and {record!r} has groups of "
            f"{_join_sizes([len(group) for group in layout])}. Pass the optimizer with the groups that were saved: "
            f"{type(record).__name__}(groups={{selector: {{...}}}}), those of no selector first."
        )
    return [path for group in layout for path in group]


def _join_sizes(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))
