"""What every optimizer is: a frozen record of hyperparameters with ``init`` and ``step``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from funcnet._errors import TreeError, bullet_list
from funcnet._torch import register_constant
from funcnet._typing import Tree, TreeLike
from funcnet.optim._chunks import is_large, update_in_chunks
from funcnet.optim._first_state import FirstState
from funcnet.optim._groups import (
    Groups,
    Hyperparameters,
    assign_groups,
    check_names,
    check_values,
    freeze,
    identity_key,
)
from funcnet.optim._leaf_batch import LeafBatch, choose_memory
from funcnet.optim._missing_attributes import ExplainsMissing, refuse_params
from funcnet.optim._pairing import Pairing, find_owners, format_place
from funcnet.optim._scalars import TENSORS, TensorNumber, TensorScalar, as_hyperparameter, widen_scalar
from funcnet.optim._state_entries import scalar_dtype
from funcnet.optim._state_misfits import describe_kinds, describe_shapes, refuse_sparse, require_none
from funcnet.optim._update_operations import Memory, real_dtype


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Optimizer(ExplainsMissing):
    """A rule that makes new params and a new state of params, gradients and state.

    An optimizer holds hyperparameters and no tensors of a model. Its fields have the names, the order and the defaults
    of the class of the same name in ``torch.optim``, which also decides what values it takes.

    >>> import funcnet as fn
    >>> optimizer = fn.optim.SGD(lr=0.1)
    >>> isinstance(optimizer, Optimizer)
    True
    >>> params = {"w": torch.ones(2)}
    >>> optimizer.step(params, {"w": torch.ones(2)}, optimizer.init(params))[0]
    {'w': tensor([0.9000, 0.9000])}
    """

    groups: Mapping[Any, Hyperparameters] = dataclasses.field(default_factory=Groups, kw_only=True)

    _instead: ClassVar[Mapping[str, str]] = {
        "update": "params, state = optimizer.step(params, grads, state)",
        "zero_grad": "gradients are values, and none are left over from the step before",
        "state": "optimizer.init(params) returns it, and each step returns the next",
        "state_dict": "the state is a tree and saved as it is; fn.optim.to_state_dict makes that of torch",
        "load_state_dict": "the state is given to each step; fn.optim.from_state_dict reads that of torch",
        "param_groups": "optimizer.groups has them by selector, and optimizer.replace(lr=...) makes another record",
        "add_param_group": "optimizer.replace(groups={selector: {...}}) makes a record with one more",
    }

    _group_records: ClassVar[tuple[Any, ...]]
    has_tensors: ClassVar[bool]
    _precise_names: ClassVar[frozenset[str]] = frozenset()
    _has_typed_scalars: ClassVar[bool] = False
    _names_of_fields: ClassVar[dict[str, None]]
    _is_elementwise: ClassVar[bool] = True
    """Whether each number of a param is updated without a look at the others."""

    _has_other_shapes: ClassVar[bool] = False
    """Whether tensors of the state have other shapes than their param."""

    _starts_empty: ClassVar[bool] = False
    """Whether an entry of the state may lack tensors that a later step puts there."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_constant(cls)  # so torch.compile and torch's pytrees take an optimizer for the value it is

    if not TYPE_CHECKING:  # a type checker reads the arguments in __init__

        def __new__(cls, *args: Any, **hyperparameters: Any) -> Self:
            """Refuse params, and names of others, before Python says of them what helps nobody."""
            if cls is Optimizer:
                raise TypeError("Optimizer is what all optimizers are; make one of them, as fn.optim.AdamW(lr=1e-3).")
            refuse_params(cls.__name__, args, hyperparameters)
            if "__dataclass_params__" in vars(cls):
                check_names(cls.__name__, hyperparameters, cls._hyperparameter_names() | {"groups": None})
            return super().__new__(cls)

    def __post_init__(self) -> None:
        values = {name: freeze(value) for name, value in self.values().items()}
        groups = Groups(self.groups)
        self._check_hyperparameters(values, groups)
        self._fill_fields({**values, "groups": groups})

    def _fill_fields(self, values: Mapping[str, Any]) -> None:
        """Fill the fields of this new record, and what is derived from them."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
        records = tuple(self._copy_with({**of_group, "groups": Groups()}) for of_group in self.groups.values())
        object.__setattr__(self, "_group_records", records)
        object.__setattr__(self, "has_tensors", any(map(_has_tensor, self.values().values())))

    def _copy_with(self, values: Mapping[str, Any]) -> Self:
        """This record with other values, unchecked."""
        record = object.__new__(type(self))
        record._fill_fields({**self.values(), "groups": self.groups, **values})
        return record

    def _check_hyperparameters(self, values: Hyperparameters, groups: Mapping[Any, Hyperparameters]) -> None:
        """Refuse names that torch does not know in groups, and values that it does not take."""
        name = type(self).__name__
        check_values(type(self), values)
        for selector, of_group in groups.items():
            check_names(f"{name}, in the group {selector!r},", of_group, self._hyperparameter_names())
            check_values(type(self), {**values, **of_group})

    @classmethod
    def _hyperparameter_names(cls) -> dict[str, None]:
        """The fields without the groups, in order."""
        if "_names_of_fields" not in cls.__dict__:
            names = {field.name: None for field in dataclasses.fields(cls) if field.name != "groups"}
            cls._names_of_fields = names
        return cls._names_of_fields

    def values(self) -> dict[str, Any]:
        """The hyperparameters by name, without the groups.

        >>> from funcnet.optim import SGD
        >>> SGD(lr=0.1).values()["lr"]
        0.1
        """
        return {name: getattr(self, name) for name in self._hyperparameter_names()}

    def replace(self, **hyperparameters: Any) -> Self:
        """This optimizer with other hyperparameters; ``groups`` are merged into those it has, selector by selector.

        >>> from funcnet.optim import AdamW
        >>> AdamW(lr=0.1, groups={"head": {"lr": 0.2}}).replace(lr=0.5, groups={"head": {"eps": 0.1}})
        AdamW(lr=0.5, groups={'head': {'lr': 0.2, 'eps': 0.1}})
        """
        check_names(type(self).__name__, hyperparameters, self._hyperparameter_names() | {"groups": None})
        values = {name: freeze(value) for name, value in hyperparameters.items() if name != "groups"}
        groups = self.groups
        if "groups" in hyperparameters:
            groups = dict(groups)
            for selector, of_group in hyperparameters["groups"].items():
                groups[selector] = {**groups.get(selector, {}), **of_group}
            groups = Groups(groups)
        if not torch.compiler.is_compiling():
            self._check_hyperparameters({**self.values(), **values}, groups)
        return self._copy_with({**values, "groups": groups})

    def __repr__(self) -> str:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        values = {name: value for name, value in self.values().items() if _differs_from_default(value, defaults[name])}
        if self.groups:
            values["groups"] = self.groups
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return (type(self), identity_key(self.values()), self.groups)

    # --- what a subclass says ---

    def _entry_names(self) -> tuple[str, ...]:
        """Names of the tensors in the entry of a param, without those of no axes."""
        return ()

    def _entry_shapes(self, param: Tensor) -> dict[str, torch.Size]:
        """Names and shapes of the tensors in the entry of a param, without those of no axes."""
        shapes = {name: self._entry_shape(name, param.shape) for name in self._entry_names()}
        return {name: shape for name, shape in shapes.items() if shape is not None}

    def differentiable_names(self) -> tuple[str, ...]:
        """Names of the tensors in the entry of a param that a derivative may go through."""
        return self._entry_names()

    def _entry_shape(self, name: str, shape: torch.Size) -> torch.Size | None:
        """The shape of a tensor in the entry of a param of some shape; None if such a param has no such tensor."""
        return shape

    def _init_entry(self, param: Tensor) -> Tree:
        """The entry of the state for a param before its first step."""
        raise NotImplementedError

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        """The next param and the next entry; on a record whose hyperparameters are scalars."""
        raise NotImplementedError

    def _check_param(self, param: Tensor) -> str | None:
        """What is wrong with a param, for optimizers that do not take all params."""
        return None

    # --- what it does ---

    def init(self, params: TreeLike, **hyperparameters: Any) -> Tree:
        """The state before the first step: at each param the dict of tensors that torch.optim has for it.

        Args:
            params: nested dicts of tensors. What has no gradient has the state ``{}``: integers; ``ABSENT`` stays.
            hyperparameters: values in place of the record's own, which Rprop, ASGD and Adagrad start from.

        Raises:
            TreeError: if a group selects no param, or there is a leaf that no optimizer takes; names all of them.

        >>> from funcnet.optim import SGD, Adam
        >>> state = Adam().init({"fc": {"bias": torch.ones(2)}})
        >>> {name: tuple(value.shape) for name, value in state["fc"]["bias"].items()}
        {'step': (), 'exp_avg': (2,), 'exp_avg_sq': (2,)}
        >>> SGD(momentum=0.9).init({"fc": {"bias": torch.ones(2)}})     # its buffer is the first gradient
        {'fc': {'bias': {}}}
        """
        record = self.replace(**hyperparameters) if hyperparameters else self
        first = FirstState(params)
        indices = list(first.params)
        records = dict(zip(indices, record._records_of(first.paths, indices), strict=True))
        problems = [
            f"{format_place('params', first.paths[at])}: {problem}"
            for at, param in first.params.items()
            if (problem := records[at]._check_param(param))
        ]
        problems += first.describe_strangers()
        if problems:
            raise TreeError(f"the params cannot be optimized:{bullet_list(problems)}")
        entries: dict[int, Tree] = {}
        for at, owner in zip(indices, find_owners(list(first.params.values())), strict=True):
            if indices[owner] == at:
                entries[at] = records[at]._init_entry(first.params[at])
            first.put_entry(at, entries[indices[owner]])
        return first.tree

    def step(
        self, params: TreeLike, grads: TreeLike, state: TreeLike, *, donate: bool = False, **hyperparameters: Any
    ) -> tuple[Tree, Tree]:
        """The params and the state after one step.

        Without ``donate`` nothing that is given is written to, and the result can be differentiated by params,
        gradients, state and hyperparameters, under any transform of torch.func and by autograd. A param without a
        gradient (``None`` or ``ABSENT``) keeps its value and state, as in torch; a gradient of zeros is a gradient, so
        that weight decay and momentum go on.

        Args:
            params: nested dicts of tensors; absent leaves and integers are passed through.
            grads: gradients of the same structure; ``None`` or ``ABSENT`` for what is not updated.
            state: what :meth:`init` or the last step returned.
            donate: whether params and state may be written over and returned, as torch.optim does. The values are the
                same, except for params of which one is a part of another, which both move, as in torch. It has no
                effect where somebody differentiates through the step.
            hyperparameters: values of this step in place of the record's own, numbers or tensors of one element.
                ``groups={selector: {...}}`` changes those of groups; a value that a group has of its own stays.

        Raises:
            TreeError: if params, gradients and state do not fit together; names all paths.

        >>> from funcnet.optim import SGD
        >>> optimizer = SGD(lr=0.5)
        >>> params = {"w": torch.tensor([1.0, 2.0])}
        >>> state = optimizer.init(params)
        >>> optimizer.step(params, {"w": torch.tensor([1.0, -1.0])}, state)
        ({'w': tensor([0.5000, 2.5000])}, {'w': {}})
        >>> optimizer.step(params, {"w": torch.tensor([1.0, -1.0])}, state, lr=0.1)[0]
        {'w': tensor([0.9000, 2.1000])}
        """
        record = self.replace(**hyperparameters) if hyperparameters else self
        pairing = Pairing(params, grads, state)
        batches = record._batch_by_group(pairing)
        problems = [line for of_group, batch in batches for line in of_group._complete_entries(batch, pairing)]
        require_none(type(self).__name__, problems)
        memory = choose_memory(batches, donate)
        try:
            if memory.donates:
                with torch.no_grad():
                    for of_group, batch in batches:
                        pairing.put(batch, of_group._update_batch(memory, batch))
            else:
                for of_group, batch in batches:
                    batch.entries = [entry.copy() for entry in batch.entries]
                    pairing.put(batch, of_group._update_batch(memory, batch))
        except (KeyError, RuntimeError) as error:  # rare, so that no time is taken to look for it in every step
            for of_group, batch in batches:
                problems += describe_kinds(of_group, batch, pairing)
            require_none(type(self).__name__, problems)
            refuse_sparse(type(self).__name__, batches, pairing, error)
            raise
        return pairing.result(in_place=memory.donates)

    def _update_batch(self, memory: Memory, batch: LeafBatch) -> list[Tensor]:
        """The next params; what changes in the state is put into the entries."""
        new_params: list[Tensor] = []
        record: Any = self
        records: dict[torch.dtype, Any] = {}
        for param, grad, entry in zip(batch.params, batch.grads, batch.entries, strict=True):
            if self._has_typed_scalars:
                if param.dtype not in records:
                    records[param.dtype] = self._widened_for(param)
                record = records[param.dtype]
            if self._is_elementwise and is_large(memory, param, grad, entry):
                new_param, changes = update_in_chunks(record._update_param, memory, param, grad, entry)
            else:
                new_param, changes = record._update_param(memory, param, grad, entry)
            new_params.append(new_param)
            entry.update(changes)
        return new_params

    def _batch_by_group(self, pairing: Pairing) -> list[tuple[Self, LeafBatch]]:
        """The leaves of each group, with the record that has its hyperparameters as scalars."""
        default, batch = self._as_scalars(), pairing.batch()
        if not self._group_records:
            return [(default, batch)]
        records = [*[record._as_scalars() for record in self._group_records], default]
        numbers_by_group: dict[int, list[int]] = {}
        groups = assign_groups(tuple(self.groups), pairing.leaf_paths())
        for number, leaf in enumerate(pairing.leaf_indices()):
            numbers_by_group.setdefault(groups[leaf], []).append(number)
        return [(records[group], batch.split(numbers)) for group, numbers in numbers_by_group.items()]

    def _records_of(self, paths: Sequence[str], indices: Sequence[int]) -> list[Self]:
        """For each of these leaves of a tree the record with the hyperparameters of its group, as scalars."""
        default = self._as_scalars()
        if not self._group_records:
            return [default] * len(indices)
        records = [*[record._as_scalars() for record in self._group_records], default]
        groups = assign_groups(tuple(self.groups), tuple(paths))
        return [records[groups[index]] for index in indices]

    def _as_scalars(self, convert: Callable[[Any], Any] = as_hyperparameter) -> Self:
        """This record with numbers and 0-d float64 tensors in place of all tensors."""
        if not self.has_tensors:
            return self
        values = self.values()
        scalars = {name: convert(value) for name, value in values.items()}
        record = self._copy_with(scalars)
        precise = frozenset(name for name, value in values.items() if _has_float64_tensor(value))
        object.__setattr__(record, "_precise_names", precise)
        object.__setattr__(record, "_has_typed_scalars", any(map(_has_typed_scalar, scalars.values())))
        return record

    def _widened_for(self, param: Tensor) -> Self:
        """This record of scalars, without the dtypes of those that come from tensors rougher than a param."""
        dtype = real_dtype(param)
        record = self._copy_with({name: widen_scalar(value, dtype) for name, value in self.values().items()})
        object.__setattr__(record, "_precise_names", self._precise_names)
        return record

    def _number_dtype(self, param: Tensor, *names: str) -> torch.dtype:
        """The dtype of a number in the state that depends on these hyperparameters: torch's, mostly float32.

        It is float64 for a float64 param, if a hyperparameter is a tensor in float64. Such a tensor may be
        differentiated or slightly perturbed; float32 would round that away.
        """
        is_precise = real_dtype(param) == torch.float64 and not self._precise_names.isdisjoint(names)
        return torch.float64 if is_precise else scalar_dtype()

    def _complete_entries(self, batch: LeafBatch, pairing: Pairing) -> list[str]:
        """Start entries that are empty, as torch does at the first step of a param.

        Returns:
            One line for every tensor of the others that does not fit.
        """
        names = self._entry_names()
        if not self._has_other_shapes and all(batch.entries) and batch.has_shapes_of_params(names):
            return []
        for number, (param, entry) in enumerate(zip(batch.params, batch.entries, strict=True)):
            if not entry:
                batch.set_entry(number, self._init_entry(param))
        return describe_shapes(self, batch, pairing)


def _has_tensor(value: Any) -> bool:
    return isinstance(value, TENSORS) or (isinstance(value, tuple) and any(map(_has_tensor, value)))


def _has_typed_scalar(value: Any) -> bool:
    return isinstance(value, (TensorNumber, TensorScalar)) or (
        isinstance(value, tuple) and any(map(_has_typed_scalar, value))
    )


def _has_float64_tensor(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_has_float64_tensor, value))
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _differs_from_default(value: Any, default: Any) -> bool:
    return isinstance(value, Tensor) or value != default
