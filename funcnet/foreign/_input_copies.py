"""Copies of the inputs of a forward, which may write to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._context import unwrap_transforms
from funcnet._errors import PurityError
from funcnet._reachable import collect_reachable
from funcnet._tensors import is_tensordict, iter_named_tensors
from funcnet.core.internals import name_inputs, read_storage_id, read_version
from funcnet.foreign._isolated_copies import CopiesById, deepcopy_isolated

_SHARED_CLASSES = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, type, nn.Module)


def copy_inputs(
    inputs: tuple[Any, ...], kwargs: Mapping[str, Any], copies_tensors: bool = True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of all inputs; a tensor that occurs twice is copied once.

    Args:
        inputs, kwargs: the inputs of a forward.
        copies_tensors: whether the forward may write to tensors in place; to containers, any may.
    """
    if not copies_tensors and all(map(_is_shared, inputs)) and all(map(_is_shared, kwargs.values())):
        return inputs, dict(kwargs)
    if len(inputs) == 1 and not kwargs and isinstance(inputs[0], Tensor):  # the common case takes the short way
        return (_copy_tensor(inputs[0]),), {}
    copied: tuple[tuple[Any, ...], dict[str, Any]] = _copy_input((inputs, dict(kwargs)), [], {})
    return copied


def _is_shared(value: object) -> bool:
    """Whether nothing but a write in place to a tensor could change a value."""
    return type(value) in (Tensor, nn.Parameter) or isinstance(value, _SHARED_CLASSES)


def _copy_input(value: Any, copies: list[tuple[Any, Any]], memo: CopiesById) -> Any:
    if isinstance(value, Tensor):
        tensor_copy = _find_copy(value, copies)
        if tensor_copy is None:
            tensor_copy = _copy_tensor(value)
            copies.append((value, tensor_copy))
        return tensor_copy
    cls = type(value)
    if cls is dict:
        return {key: _copy_input(item, copies, memo) for key, item in value.items()}
    if cls is list or cls is tuple:
        return cls([_copy_input(item, copies, memo) for item in value])
    if is_tensordict(value):
        return value.clone()  # its items are not its entries
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return cls(*[_copy_input(item, copies, memo) for item in value])
    if isinstance(value, _SHARED_CLASSES) or callable(value):
        return value
    # a cache, or an output of a different model: copied with its contents
    if torch.compiler.is_compiling():
        return _copy_object_while_compiling(value, copies, memo)
    for obj in collect_reachable(value).values():
        if isinstance(obj, Tensor):
            memo[id(obj)] = _copy_input(obj, copies, memo)
        elif isinstance(obj, nn.Module):
            memo[id(obj)] = obj
    return deepcopy_isolated(value, memo)


def _find_copy(value: Any, copies: list[tuple[Any, Any]]) -> Any:
    """The copy of a value that was copied before, found by identity: id() is another constant in each compilation."""
    for original, made in copies:
        if original is value:
            return made
    return None


def _copy_object_while_compiling(value: Any, copies: list[tuple[Any, Any]], memo: CopiesById) -> Any:
    """A copy of an object with copies of its attributes, in words that the compiler knows."""
    if isinstance(value, (dict, list, tuple, set)) or not hasattr(value, "__dict__"):
        raise TypeError(
            f"an input is a {type(value).__name__}, which cannot be copied while torch.compile traces, and a forward "
            f"may write to its inputs. Pass its tensors, and make it of them in the function that is compiled."
        )
    result = _find_copy(value, copies)
    if result is not None:
        return result
    result = object.__new__(type(value))
    copies.append((value, result))
    for name, item in value.__dict__.items():
        setattr(result, name, _copy_input(item, copies, memo))
    return result


def _copy_tensor(tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided and not tensor.is_nested and 0 in tensor.stride():
        return tensor  # an expanded tensor cannot be written to
    return tensor.clone()


class OverlappingInputs:
    """The inputs of a forward that are different tensors over one memory. Copies of them no longer share it.

    Args:
        inputs, kwargs: the inputs.
        copied_inputs, copied_kwargs: their copies.
    """

    def __init__(
        self,
        inputs: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        copied_inputs: tuple[Any, ...],
        copied_kwargs: Mapping[str, Any],
    ) -> None:
        originals, copies = _named_tensors(inputs, kwargs), _named_tensors(copied_inputs, copied_kwargs)
        by_storage: dict[int, dict[int, tuple[str, Tensor, Tensor]]] = {}
        if len(originals) > 1:
            for (name, original), (_, made) in zip(originals, copies, strict=True):
                if original.layout == torch.strided and not original.is_nested:
                    by_storage.setdefault(read_storage_id(original), {}).setdefault(
                        id(original), (name, original, made)
                    )
        self._groups = [list(group.values()) for group in by_storage.values() if len(group) > 1]

    def check(self, title: str) -> None:
        """Refuse a write to one of them, which the module would see in another.

        Args:
            title: the module.

        Raises:
            PurityError: if the forward wrote to the copy of one; names both.
        """
        for group in self._groups:
            for name, original, made in group:
                if made is original or read_version(made) == 0:
                    continue
                for other_name, other, _ in group:
                    if other is not original and _overlap(unwrap_transforms(original), unwrap_transforms(other)):
                        raise PurityError(
                            f"the forward of {title} wrote in place to {name}, which shares memory with {other_name}: "
                            f"the module would see the new numbers in both, and a net has a copy of each. Pass a "
                            f"clone() of one, and write what is to change in both as an output."
                        )


def _named_tensors(inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    return [pair for name, value in name_inputs(inputs, kwargs) for pair in iter_named_tensors(name, value)]


def _overlap(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors over one storage have an element in common."""
    length = max(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in (left, right))
    if left.element_size() != right.element_size():
        return True  # a view with another dtype
    elements = torch.zeros(length, dtype=torch.bool)
    elements.as_strided(left.shape, left.stride(), left.storage_offset()).fill_(True)
    return bool(elements.as_strided(right.shape, right.stride(), right.storage_offset()).any())
