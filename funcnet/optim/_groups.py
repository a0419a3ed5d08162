"""Groups of params with hyperparameters of their own, and the checks that torch makes of hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._errors import TreeError
from funcnet._torch import assume_constant_result
from funcnet._typing import Selector
from funcnet.optim._scalars import is_readable
from funcnet.tree import select, unflatten
from funcnet.tree.internals import select_paths

Hyperparameters: TypeAlias = Mapping[str, Any]
"""Values by the names of torch.optim: ``{"lr": 1e-3}``."""


class Groups(Mapping[Any, Hyperparameters]):
    """Hyperparameters by selector, immutable and hashable, in the order in which selectors are tried.

    >>> groups = Groups({"**.bias": {"weight_decay": 0.0}})
    >>> groups, groups == Groups({"**.bias": {"weight_decay": 0.0}})
    ({'**.bias': {'weight_decay': 0.0}}, True)
    """

    __slots__ = ("_items",)

    def __init__(self, groups: Mapping[Any, Hyperparameters] = {}) -> None:
        if not isinstance(groups, Mapping):
            raise TypeError(
                f"groups are hyperparameters by selector, {{'**.bias': {{'weight_decay': 0.0}}}}, and not a "
                f"{type(groups).__name__}."
            )
        strangers = {selector: values for selector, values in groups.items() if not isinstance(values, Mapping)}
        if strangers:
            raise TypeError(
                f"each group is a dict of hyperparameters, {{'**.bias': {{'weight_decay': 0.0}}}}, and not "
                f"{', '.join(f'{selector!r}: {values!r:.40}' for selector, values in strangers.items())}."
            )
        self._items = tuple((selector, _Frozen(values)) for selector, values in groups.items())

    def __getitem__(self, selector: Any) -> Hyperparameters:
        for key, values in self._items:
            if key == selector:
                return values
        raise KeyError(selector)

    def __iter__(self) -> Iterator[Any]:
        return iter([selector for selector, _ in self._items])

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Groups) else NotImplemented

    def __repr__(self) -> str:
        return repr(dict(self._items))


class _Frozen(dict[str, Any]):
    """Hyperparameters that are hashed by their values, and tensors by their identity."""

    def __init__(self, values: Hyperparameters) -> None:
        super().__init__({name: freeze(value) for name, value in values.items()})

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(identity_key(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and identity_key(self) == identity_key(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def freeze(value: Any) -> Any:
    """A list as a tuple, so that it can be hashed; any other value as it is."""
    return tuple(value) if isinstance(value, list) else value


def identity_key(values: Hyperparameters) -> tuple[Any, ...]:
    """The values as a key of dicts, in which a tensor equals nothing but itself."""

    def key(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(key, value))
        return ("tensor", id(value)) if isinstance(value, Tensor) else value

    return tuple((name, key(value)) for name, value in values.items())


@assume_constant_result
def assign_groups(selectors: tuple[Selector, ...], paths: tuple[str, ...]) -> tuple[int, ...]:
    """For each path the number of the first selector that selects it; -1 where none does.

    Raises:
        TreeError: if a selector selects no path, or none that an earlier one leaves to it.
    """
    return _assign_groups(selectors, paths)


@lru_cache(maxsize=256)
def _assign_groups(selectors: tuple[Selector, ...], paths: tuple[str, ...]) -> tuple[int, ...]:
    tree = unflatten(dict.fromkeys(paths))
    indices = [-1] * len(paths)
    for index, selector in enumerate(selectors):
        select_paths(tree, selector)  # which refuses patterns that select nothing
        is_selected = select(selector)
        selected = [at for at, path in enumerate(paths) if is_selected(path)]
        free = [at for at in selected if indices[at] < 0]
        if not free:
            reason = "the groups before it have all that it selects" if selected else "it selects no param"
            shown = ", ".join(paths[:8]) + (" ..." if len(paths) > 8 else "")
            raise TreeError(f"the group {selector!r} has no effect: {reason}. The paths are {shown}.")
        for at in free:
            indices[at] = index
    return tuple(indices)


@cache
def _checker(optimizer_class: type) -> type[torch.optim.Optimizer] | None:
    """The class of torch that checks the arguments of an optimizer, with no params; None where torch has no such one.

    That of a subclass is the one of the optimizer that it is made of.
    """

    class WithoutParams(torch.optim.Optimizer):
        def __init__(self, params: object, defaults: dict[str, Any]) -> None:
            self.param_groups = [{"params": [], **defaults}]

    for ancestor in optimizer_class.__mro__:
        name = ancestor.__name__
        if ancestor.__module__.startswith(__package__) and name != "Optimizer" and hasattr(torch.optim, name):
            # It comes after the class of torch and before Optimizer, so it is what ``super().__init__`` calls there.
            return type(name, (getattr(torch.optim, name), WithoutParams), {})
    return None


@cache
def torch_arguments(name: str) -> frozenset[str]:
    return frozenset(inspect.signature(getattr(torch.optim, name)).parameters) - {"params"}


def check_values(optimizer_class: type, values: Hyperparameters) -> None:
    """Raise what the optimizer class of torch raises for these values.

    Tensors without a number that can be read, under vmap for example, are left out.
    """
    checker = _checker(optimizer_class)
    if checker is None:
        return
    taken = torch_arguments(checker.__name__)
    known = {key: value for key, value in values.items() if key in taken and _is_known(value)}
    if not values.keys() & taken <= known.keys():  # flags are checked against numbers, and some are not known
        known = {key: value for key, value in known.items() if not isinstance(value, bool)}
    try:
        checker([], **known)
    except (TypeError, IndexError):
        problems = [problem for key, value in known.items() if (problem := _describe_kind(checker, key, value))]
        if not problems:
            raise
        raise TypeError(f"{optimizer_class.__name__}: {' '.join(problems)}") from None


def _describe_kind(checker: type, name: str, value: Any) -> str | None:
    """What is wrong with the kind of a value, judged by torch's default."""
    default = inspect.signature(checker).parameters[name].default
    if isinstance(default, tuple):
        if isinstance(value, tuple) and len(value) == len(default) and all(map(_is_number, value)):
            return None
        return f"{name} is {len(default)} numbers or tensors, as {default} are, not {value!r:.40}."
    if not isinstance(default, (int, float)) or isinstance(default, bool) or _is_number(value):
        return None
    advice = f" A step takes what it returns: {name}=schedule(step)." if callable(value) else ""
    return f"{name} is a number or a tensor, not {type(value).__name__}.{advice}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex, Tensor))


def _is_known(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_known, value))
    return not isinstance(value, Tensor) or is_readable(value) or value.numel() != 1


_NAMES_ELSEWHERE = {"learning_rate": "lr", "b1": "betas", "b2": "betas", "beta1": "betas", "beta2": "betas"}


def _find_known(name: str, known: Mapping[str, object]) -> list[str]:
    """The hyperparameter that is probably meant by another name, if there is one."""
    match = _NAMES_ELSEWHERE.get(name, name)
    return [match] if match in known else get_close_matches(name, known, n=1)


def check_names(title: str, names: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Refuse names of hyperparameters that an optimizer does not have.

    Raises:
        TypeError: names all of them, and the nearest name.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        hints = [match for name in unknown for match in _find_known(str(name), known)]
        hint = f" Did you mean {' and '.join(map(repr, dict.fromkeys(hints)))}?" if hints else ""
        raise TypeError(
            f"{title} has no hyperparameter {', '.join(map(repr, unknown))}.{hint} It has {', '.join(known)}."
        )
