"""Where the tensors of a module are: in its dicts of params and buffers, and wherever else it refers to one."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from funcnet._errors import TransformError, bullet_list
from funcnet._reachable import collect_reachable, iter_containers, slot_names
from funcnet.foreign._module_walk import named_modules
from funcnet.tree import join


def iter_tensor_slots(modules: list[nn.Module]) -> Iterator[tuple[dict[str, Any], str]]:
    """The dicts and names of all params and buffers."""
    for module in modules:
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield tensors, name


class _Attributes:
    """The attributes of an object that are not in its dict, as a container."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def get(self, name: str) -> Any:
        return getattr(self._obj, name, None)

    __getitem__ = get

    def __setitem__(self, name: str, value: object) -> None:
        object.__setattr__(self._obj, name, value)


class TensorReferences:
    """Where else than in a module's dicts of tensors its params and buffers are held, and how to put others there.

    A list, a dict or an object that holds one is written to. A tuple, a set, a dict whose keys are tensors, a partial
    and a weak reference cannot be, so what holds it gets a new one for each call.

    Args:
        slots: the dicts and names of all params and buffers, each with the tensor that it holds.
        objects: all objects that can be reached from the module.
    """

    def __init__(self, slots: list[tuple[dict[str, Any], str, Tensor]], objects: list[Any]) -> None:
        dict_ids = {id(tensors) for tensors, _, _ in slots}
        self._slot_by_id = {id(tensor): (tensors, name) for tensors, name, tensor in slots}
        self._direct: list[tuple[Any, Any, dict[str, Any], str]] = []
        self._rebuilt: list[tuple[Any, Any, Any]] = []
        self._current: list[Any] = []
        for obj in objects:
            if isinstance(obj, nn.RNNBase) or id(obj) in dict_ids:
                continue
            attributes = (_Attributes(obj), [*slot_names(type(obj)), "__defaults__"])
            for container, keys in (*iter_containers(obj), attributes):
                if isinstance(container, tuple):
                    continue
                for key in keys:
                    value = container.get(key) if isinstance(container, _Attributes) else container[key]
                    if id(value) in self._slot_by_id:
                        self._direct.append((container, key, *self._slot_by_id[id(value)]))
                    elif self._must_be_rebuilt(value):
                        self._rebuilt.append((container, key, value))

    def _must_be_rebuilt(self, value: object) -> bool:
        items: Iterable[Any] = ()
        if isinstance(value, (tuple, set, frozenset)):
            items = value
        elif type(value) is partial:
            items = value.args
        elif type(value) is weakref.ref:
            items = (value(),)
        elif type(value) in (dict, OrderedDict):
            items = value  # type: ignore[assignment]  # its keys
        return any(id(item) in self._slot_by_id or self._must_be_rebuilt(item) for item in items)

    def _rebuild(self, value: Any) -> Any:
        if id(value) in self._slot_by_id:
            tensors, name = self._slot_by_id[id(value)]
            return tensors[name]
        if not self._must_be_rebuilt(value):
            return value
        if type(value) is partial:
            return partial(value.func, *map(self._rebuild, value.args), **value.keywords)
        if type(value) is weakref.ref:
            return weakref.ref(self._rebuild(value()))
        if isinstance(value, dict):
            return type(value)((self._rebuild(key), self._rebuild(item)) for key, item in value.items())
        items = [self._rebuild(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def __bool__(self) -> bool:
        return bool(self._direct or self._rebuilt)

    def list_direct(self) -> list[tuple[Any, Any, int, str]]:
        """What can be written to: a container, a key, and the id of the dict and the name of the tensor in it."""
        return [(container, key, id(tensors), name) for container, key, tensors, name in self._direct]

    def list_rebuilt(self) -> list[Any]:
        """The values of which each call gets new ones."""
        return [value for _, _, value in self._rebuilt]

    def put(self) -> None:
        """Make all of them refer to what the dicts of tensors hold now."""
        for container, key, tensors, name in self._direct:
            container[key] = tensors[name]
        self._current = [self._rebuild(value) for _, _, value in self._rebuilt]
        for (container, key, _), value in zip(self._rebuilt, self._current, strict=True):
            container[key] = value

    def are_unchanged(self) -> bool:
        """Whether all of them refer to what :meth:`put` put there."""
        return all(container[key] is tensors[name] for container, key, tensors, name in self._direct) and all(
            container[key] is value for (container, key, _), value in zip(self._rebuilt, self._current, strict=True)
        )

    def restore(self) -> None:
        """Make all of them refer to what they referred to first; the dicts of tensors hold it again."""
        for container, key, tensors, name in self._direct:
            container[key] = tensors[name]
        for container, key, value in self._rebuilt:
            container[key] = value
        self._current = []


class Reference(NamedTuple):
    """A place outside of the dicts of a module that holds one of its tensors, for code that the compiler traces."""

    owner: Any
    key: Any
    value: Any
    path: str
    is_attribute: bool

    def put(self, tensor: object) -> None:
        """Put another tensor there."""
        if self.is_attribute:
            setattr(self.owner, self.key, tensor)
        else:
            self.owner[self.key] = tensor


def list_references(module: nn.Module, words: frozenset[str]) -> list[Reference]:
    """Where else than in its dicts a module holds its params and buffers, each with the first name of the tensor.

    Args:
        module: the module.
        words: the words in its code.

    Raises:
        TransformError: if it holds some in what the compiler cannot write to, and its code reads that; names the
            attributes.
    """
    slots = [(tensors, name, tensors[name]) for tensors, name in iter_tensor_slots(list(module.modules()))]
    objects = list(collect_reachable(module).values())
    references = TensorReferences(slots, objects)
    if not references:
        return []
    owners = {id(vars(obj)): obj for obj in objects if hasattr(obj, "__dict__")}
    first_names = first_names_of(module)
    paths = {
        (id(tensors), name): first_names[join(path, name)]
        for path, submodule in named_modules(module)
        for tensors in (submodule._parameters, submodule._buffers)
        for name in tensors
    }
    listed: list[Reference] = []
    hidden_ids = {id(value) for value in references.list_rebuilt()}
    for container, key, dict_id, name in references.list_direct():
        value = container[key]
        owner = owners.get(id(container), container)
        setters: tuple[object, ...] = (object.__setattr__, nn.Module.__setattr__)
        if isinstance(container, (list, dict)) and (owner is container or type(owner).__setattr__ in setters):
            listed.append(Reference(owner, key, value, paths[dict_id, name], owner is not container))
        else:
            hidden_ids.add(id(value))
    holders = list(_iter_holders(module, hidden_ids, words)) if hidden_ids else []
    if holders:
        raise TransformError(
            f"{type(module).__name__} holds parameters or buffers in what torch.compile cannot write to while it "
            f"traces{bullet_list(holders)}\n"
            f"Hold them in a list or in a dict by name, or read them as attributes of the module."
        )
    return listed


def _iter_holders(module: nn.Module, ids: set[int], words: frozenset[str]) -> Iterator[str]:
    """The attributes that code names and from which one of these objects can be reached, with their classes."""
    for path, submodule in named_modules(module):
        for name, value in vars(submodule).items():
            is_read = name in words and name not in ("_parameters", "_buffers", "_modules")
            if is_read and not ids.isdisjoint({id(value), *collect_reachable(value)}):
                yield f"{join(path, name)}, a {type(value).__name__}"


def clone_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def empty_weight_lists(module: nn.RNNBase) -> dict[str, Any]:
    """Empty lists for the weights that a recurrent module caches; it fills them when its weights change."""
    count = len(module._flat_weights_names)
    return {"_flat_weights": [None] * count, "_flat_weight_refs": [_dead_reference] * count}


def _dead_reference() -> None:
    """A dead weak reference: returns None."""


def renorms_weight(module: nn.Module) -> bool:
    """Whether a module shortens the rows of its weight in place."""
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None


def first_names_of(module: nn.Module) -> dict[str, str]:
    """Every name of a tensor, and the first name of the same attribute of the same module."""
    first_path_by_id: dict[int, str] = {}
    first_names: dict[str, str] = {}
    for path, submodule in named_modules(module):
        first_path = first_path_by_id.setdefault(id(submodule), path)
        for name in (*submodule._parameters, *submodule._buffers):
            first_names[join(path, name)] = join(first_path, name)
    return first_names
