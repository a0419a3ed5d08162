"""Rules for a whole training checkpoint, from rules for its model: the state of an optimizer of torch goes along.

An optimizer of torch counts its params, group by group in the order in which it was given them, and its state goes by
those numbers. The rules made here put the names of the params in the place of the numbers, apply the rules of the model
to each moment as to its param, and number the params of the target anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._nodes import SourceNode, iter_leaves
from funcnet.checkpoint.rules import (
    Cast,
    Cut,
    Drop,
    Fill,
    Fuse,
    Grow,
    Interleave,
    Label,
    MergeLora,
    Mix,
    Number,
    Permute,
    Rename,
    Replicate,
    Reshape,
    Rule,
    Shard,
    Slerp,
    Split,
    Stack,
    State,
    Tie,
    Transpose,
    Unreplicate,
    Unshard,
    Unstack,
    Untie,
    Within,
)
from funcnet.checkpoint.rules._joins import find_number_hole
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import apply_each

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_LEFT_OUT = (Tie, Untie, Cast, Fill)
"""Rules that have nothing to do with moments, which have no ties, keep their dtype, and are not made of nothing."""
_OF_AXES = (Transpose, Permute, Reshape, Interleave, Cut, Grow)
_NOTHING = Rename("", "", optional=True)
_ARITHMETIC = (Mix, Slerp, MergeLora)


@dataclass(frozen=True)
class _OptimizerState:
    """The state of an optimizer in a training checkpoint.

    Attributes:
        model_specs: shapes and dtypes of the tensors of the model, by name.
        model_aliases: ties of the model.
        groups: the groups of the optimizer, each a dict.
        shapes: shape of each entry, by the number of the param and the key.
    """

    model_specs: dict[str, Spec]
    model_aliases: dict[str, str]
    groups: Sequence[Mapping[str, Any]]
    shapes: dict[tuple[int, str], Shape]


def optimizer_rules(
    rules: Sequence[Rule],
    training: Checkpoint | Mapping[str, Any],
    *,
    model: str = "model",
    optimizer: str = "optimizer",
    params: Sequence[str] | nn.Module | None = None,
    target_params: Sequence[str] | nn.Module | None = None,
) -> tuple[Rule, ...]:
    """The rules for a training checkpoint whose model goes by given rules; the state of the optimizer goes along.

    Moments are renamed and laid out as their params are; step counts are copied where a param is split, and must be
    equal where params are joined. Numbers become those of the target's params, in the groups that they were in. Like
    all rules these have an inverse, are proved, and serve :func:`funcnet.checkpoint.convert` and
    :func:`funcnet.checkpoint.apply`.

    Args:
        rules: the rules of the model.
        training: the checkpoint, or what it holds: dicts with a model and the state_dict of an optimizer of torch.
        model, optimizer: where both are in it.
        params: names of the params in the order of their numbers, or the module that they are of. It is needed only if
            the groups hold no ``param_names`` and the names of the model do not tell.
        target_params: the order of the target's params in its module, or that module; default the order of the names.

    Raises:
        RuleError: if params and state do not fit, or a rule is not one for moments; names all that are at fault.

    >>> import torch
    >>> from funcnet.checkpoint import Fuse, apply
    >>> net = torch.nn.ModuleDict({"q": torch.nn.Linear(2, 2, bias=False), "k": torch.nn.Linear(2, 2, bias=False)})
    >>> adam = torch.optim.Adam(net.parameters())
    >>> net["k"](net["q"](torch.ones(1, 2))).sum().backward()
    >>> adam.step()
    >>> training = {"model": net.state_dict(), "optimizer": adam.state_dict(), "epoch": 3}
    >>> rules = optimizer_rules([Fuse(["q.weight", "k.weight"], "qk.weight", [2, 2])], training)
    >>> fused = apply(rules, training)
    >>> fused["model"]["qk.weight"].shape, fused["optimizer"]["state"][0]["exp_avg"].shape
    (torch.Size([4, 2]), torch.Size([4, 2]))
    >>> fused["optimizer"]["param_groups"][0]["params"], list(apply(rules, fused, inverse=True)["optimizer"]["state"])
    ([0], [0, 1])
    """
    facts = _read_training(training, model, optimizer)
    labels = _label_params(facts, params)
    sizes = tuple(len(group["params"]) for group in facts.groups)
    kinds = _sort_keys(facts, labels)
    target_labels, target_sizes = _label_targets(facts, rules, labels, sizes, target_params)
    numbered, labelled = f"{optimizer}.state.{{number}}.{{key}}", f"{optimizer}.state.{{name**}}.{{key}}"
    group_list = f"{optimizer}.param_groups"
    result: list[Rule] = [
        Within(f"{model}.{{name**}}", tuple(rules)),
        Label(numbered, labelled, labels, sizes, group_list, optional=True),
    ]
    for key, is_count in kinds.items():
        owned = {labels[number]: facts.model_specs[labels[number]] for number, name in facts.shapes if name == key}
        inner = tuple(_count_rules(rules, owned)) if is_count else tuple(_moment_rules(rules))
        result.append(Within(f"{optimizer}.state.{{name**}}.{key}", inner, optional=True))
    result.append(Number(labelled, numbered, target_labels, target_sizes, group_list, optional=True))
    return tuple(result)


def _read_training(training: Checkpoint | Mapping[str, Any], model: str, optimizer: str) -> _OptimizerState:
    if isinstance(training, Checkpoint):
        specs, aliases, values = training.specs, training.aliases, training.extras
    else:
        tensors, values, _ = flatten_checkpoint(training)
        specs, aliases = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}, {}
    groups = values.get(f"{optimizer}.param_groups")
    if not isinstance(groups, (list, tuple)):
        raise RuleError(
            f"there is no {optimizer + '.param_groups'!r}, which an optimizer of torch has. Say optimizer=."
        )
    start, state_prefix = f"{model}.", f"{optimizer}.state."
    shapes: dict[tuple[int, str], Shape] = {}
    for name, spec in specs.items():
        if name.startswith(state_prefix):
            number, _, key = name.removeprefix(state_prefix).partition(".")
            if not number.isdecimal() or not key or "." in key:
                raise RuleError(f"{name!r} is no entry of the state of an optimizer, as {state_prefix}0.exp_avg is.")
            shapes[int(number), key] = spec.shape
    model_specs = {name[len(start) :]: spec for name, spec in specs.items() if name.startswith(start)}
    model_aliases = {
        alias[len(start) :]: owner[len(start) :] for alias, owner in aliases.items() if alias.startswith(start)
    }
    if not model_specs:
        raise RuleError(f"there are no tensors below {model!r}. Say model=.")
    return _OptimizerState(model_specs, model_aliases, groups, shapes)


def _label_params(facts: _OptimizerState, params: Sequence[str] | nn.Module | None) -> tuple[str, ...]:
    """The names of the params in the order of their numbers."""
    count = sum(len(group["params"]) for group in facts.groups)
    labels = [name for group in facts.groups for name in group.get("param_names") or ()]
    if isinstance(params, nn.Module):
        labels = [name for name, param in params.named_parameters()]
        if len(labels) != count:
            labels = [name for name, param in params.named_parameters() if param.requires_grad]
    elif params is not None:
        labels = list(params)
    elif not labels:
        labels = [
            name
            for name, spec in facts.model_specs.items()
            if spec.dtype.is_floating_point and name.rpartition(".")[2] not in _BUFFERS
        ]
    advice = "Say params=, the names in the order in which the optimizer got them."
    if len(labels) != count:
        raise RuleError(f"the optimizer has {count} params, and these are {len(labels)} names. {advice}")
    unknown = [repr(name) for name in labels if name not in facts.model_specs]
    if unknown:
        raise RuleError(f"the model has no params of these names:{truncated_list(unknown)}\n{advice}")
    problems = [
        f"{labels[number]!r} is {list(facts.model_specs[labels[number]].shape)}, and {key} of {number} is {list(shape)}"
        for (number, key), shape in facts.shapes.items()
        if number < count and shape not in ((), facts.model_specs[labels[number]].shape)
    ]
    if problems:
        raise RuleError(f"the state does not fit the params:{truncated_list(problems)}\n{advice}")
    return tuple(labels)


def _sort_keys(facts: _OptimizerState, labels: Sequence[str]) -> dict[str, bool]:
    """The keys of the state, and whether each is a count: one number, whatever shape the param has."""
    kinds: dict[str, bool] = {}
    for (number, key), shape in facts.shapes.items():
        kinds[key] = kinds.get(key, True) and shape == () and key == "step"
        if shape == () and facts.model_specs[labels[number]].shape != ():
            kinds[key] = True
    return kinds


def _label_targets(
    facts: _OptimizerState,
    rules: Sequence[Rule],
    labels: Sequence[str],
    sizes: Sequence[int],
    target_params: Sequence[str] | nn.Module | None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The params of the target in the order of their numbers, and how many of them each group has."""
    *_, state = apply_each(State.from_specs(facts.model_specs, facts.model_aliases), [*rules, _NOTHING])
    group_of_label = dict(zip(labels, (g for g, size in enumerate(sizes) for _ in range(size)), strict=True))
    groups: dict[str, int] = {}
    problems: list[str] = []
    for name, node in state.tensors.items():
        sources = [leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode)]
        numbers = {group_of_label.get(source) for source in sources}
        if len(numbers) > 1:
            problems.append(f"{name!r} comes from {', '.join(map(repr, sources))}")
        elif numbers and (group := numbers.pop()) is not None:
            groups[name] = group
    if problems:
        raise RuleError(f"params of several groups, or of none, would be one:{truncated_list(problems)}")
    order = list(groups)
    if target_params is not None:
        if isinstance(target_params, nn.Module):
            target_params = [name for name, _ in target_params.named_parameters()]
        order = [name for name in target_params if name in groups]
    missing = [repr(name) for name in groups if name not in order]
    if missing:
        raise RuleError(f"target_params lack these:{truncated_list(missing)}")
    ordered = sorted(order, key=groups.__getitem__)  # sorting is stable
    return tuple(ordered), tuple(sum(group == number for group in groups.values()) for number in range(len(sizes)))


def _moment_rules(rules: Sequence[Rule]) -> Iterator[Rule]:
    """The rules for moments, which have the shapes of their params. Some params have none, so nothing has to match."""
    for rule in rules:
        if isinstance(rule, _ARITHMETIC):
            raise RuleError(f"moments are not computed as weights are: {type(rule).__name__} has no meaning for them.")
        if isinstance(rule, _LEFT_OUT):
            continue
        if isinstance(rule, Drop):
            yield Drop(rule.names, optional=True)
        elif isinstance(rule, Within):
            yield Within(rule.names, tuple(_moment_rules(rule.rules)), optional=True)
        else:
            yield replace(rule, optional=True)  # type: ignore[type-var]


def _count_rules(rules: Sequence[Rule], specs: Mapping[str, Spec]) -> Iterator[Rule]:
    """The rules for step counts, which are copied where a param is split, and must be equal where params are joined.

    Args:
        rules: the rules of the model.
        specs: shapes and dtypes of the params that have a count.
    """
    state = State.from_specs(specs, {})
    for rule in _moment_rules(rules):
        if isinstance(rule, Split):
            yield Replicate(rule.source, f"{rule.source}.{{copy_}}", len(rule.targets), optional=True)
            for number, target in enumerate(rule.targets):
                yield Rename(f"{rule.source}.{number}", target, optional=True)
        elif isinstance(rule, Fuse):
            for number, source in enumerate(rule.sources):
                yield Rename(source, f"{rule.target}.{number}", optional=True)
            yield Unreplicate(f"{rule.target}.{{copy_}}", rule.target, len(rule.sources), optional=True)
        elif isinstance(rule, Stack):
            hole = find_number_hole(rule.source, rule.target)
            matches = [Pattern(rule.source).match(name) for name in state.tensors]
            count = len({holes[hole] for holes in matches if holes is not None})
            if count:
                yield Unreplicate(rule.source, rule.target, count, optional=True)
        elif isinstance(rule, Unstack):
            pattern = Pattern(rule.source)
            sizes = {node.shape[rule.dim] for name, node in state.tensors.items() if pattern.match(name) is not None}
            if len(sizes) > 1:
                raise RuleError(f"{rule.source!r} has stacks of several heights: {sorted(sizes)}.")
            if sizes:
                yield Replicate(rule.source, rule.target, sizes.pop(), optional=True)
        elif isinstance(rule, Shard):
            yield Replicate(rule.source, rule.target, rule.count, optional=True)
        elif isinstance(rule, Unshard):
            yield Unreplicate(rule.source, rule.target, rule.count, optional=True)
        elif isinstance(rule, Within):
            inner_specs = {
                holes[Pattern(rule.names).holes[0]]: node.spec
                for name, node in state.tensors.items()
                if (holes := Pattern(rule.names).match(name)) is not None
            }
            yield Within(rule.names, tuple(_count_rules(rule.rules, inner_specs)), optional=True)
        elif not isinstance(rule, _OF_AXES):
            yield rule
        state = rule.apply(state)
