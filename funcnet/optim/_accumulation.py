"""The gradient of a batch from gradients of its parts, for batches that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from funcnet._context import is_plainly_eager
from funcnet._typing import Tree
from funcnet.random import fold_in
from funcnet.random.internals import RngArgument, as_rng
from funcnet.transforms import value_and_grad
from funcnet.tree import map


def accumulate(
    function: Callable[..., Any],
    microbatches: int,
    *,
    has_buffers: bool = False,
    has_aux: bool = False,
    reduction: Literal["mean", "sum"] = "mean",
) -> Callable[..., Any]:
    """A function that does what ``value_and_grad(function)`` does, on one part of the batch after the other.

    Only one part's activations are in memory at a time. The gradients have the bits of torch's recipe, ``(loss /
    microbatches).backward()`` for each part.

    Args:
        function: ``function(params, *inputs)`` returns the mean loss of its inputs; with ``has_buffers``
            ``function(params, buffers, *inputs)`` returns ``(value, buffers)``.
        microbatches: number of parts. If the batch is not a multiple, sizes differ by one, and each part's value
            counts by its size.
        has_buffers: whether the function takes buffers and returns new ones, with which the next part goes on.
        has_aux: whether it returns more: ``(value, aux)``, with buffers ``(value, (buffers, aux))``.
        reduction: "mean" if the value of a batch is the mean over its examples, "sum" if it is the sum.

    Returns:
        A function with the arguments of ``function``. All tensors of positional arguments after params and buffers,
        alone or in dicts, lists and tuples, are divided along axis 0; keyword arguments go to every part as they are.
        ``rng=`` is an exception: of a Key each part gets ``funcnet.random.fold_in(key, part)``, and with an int seed
        the parts draw in turn from ``torch.manual_seed(seed)``. It returns ``(value, grads)``; with buffers
        ``((value, buffers), grads)``; with aux ``((value, auxes), grads)``, and with both ``((value, (buffers, auxes)),
        grads)``, where ``auxes`` is the list of all parts' aux.

    Raises:
        ValueError: if inputs have batches of different sizes, or one smaller than the number of parts.

    >>> import torch
    >>> loss = lambda params, x: (params["w"] * x).mean()
    >>> accumulate(loss, 2)({"w": torch.tensor(1.0)}, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    (tensor(2.5000), {'w': tensor(2.5000)})
    """
    if microbatches < 1:
        raise ValueError(f"accumulate divides a batch into 1 part or more, got microbatches={microbatches}.")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'mean' or 'sum', got {reduction!r}.")

    def compute_value_and_grad(params: Tree, *args: Any, rng: RngArgument = None, **kwargs: Any) -> Any:
        buffers, inputs = (args[0], args[1:]) if has_buffers else (None, args)
        sizes = _part_sizes(inputs, microbatches)
        weigh = _make_weighing(sizes, microbatches) if reduction == "mean" else None
        source = as_rng(rng)
        total_value: Any = None
        total_grads: Tree = {}
        auxes: list[Any] = []
        for index, part in enumerate(_iter_parts(inputs, sizes, microbatches)):

            def compute_part(params: Tree, *part: Any, index: int = index, buffers: Any = buffers) -> Any:
                options = kwargs
                if source is not None:
                    options = {**kwargs, "rng": fold_in(source, index) if isinstance(source, Tensor) else source}
                result = function(params, *((buffers,) if has_buffers else ()), *part, **options)
                value, aux = result if has_buffers or has_aux else (result, None)
                return value if weigh is None else weigh(value, index), aux

            (value, aux), grads = value_and_grad(compute_part, has_aux=True)(params, *part)
            if has_buffers:
                buffers, aux = aux if has_aux else (aux, None)
            auxes.append(aux)
            total_value = value if total_value is None else total_value + value
            total_grads = grads if index == 0 else _add_grads(total_grads, grads, owned=index > 1)
        more = [*([buffers] if has_buffers else []), *([auxes] if has_aux else [])]
        if not more:
            return total_value, total_grads
        return (total_value, more[0] if len(more) == 1 else tuple(more)), total_grads

    return compute_value_and_grad


def _part_sizes(inputs: tuple[Any, ...], microbatches: int) -> list[int] | None:
    """The number of examples in each part; None if no input has an axis to divide."""
    sizes = {
        f"input {index}{place}": tensor.shape[0]
        for index, value in enumerate(inputs)
        for place, tensor in _iter_batched("", value)
    }
    if not sizes:
        return None
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(
            f"accumulate divides all positional inputs along axis 0, and their sizes differ: {listed}. Pass what is no "
            "batch by keyword."
        )
    size = next(iter(sizes.values()))
    if size < microbatches:
        raise ValueError(f"a batch of {size} cannot be divided into {microbatches} parts.")
    return [size // microbatches + (index < size % microbatches) for index in range(microbatches)]


def _iter_batched(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors with an axis in an input, each with the expression that reads it."""
    if isinstance(value, Tensor):
        if value.dim():
            yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _iter_batched(f"{place}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _iter_batched(f"{place}[{index}]", item)


def _iter_parts(inputs: tuple[Any, ...], sizes: list[int] | None, microbatches: int) -> Iterator[tuple[Any, ...]]:
    start = 0
    for index in range(microbatches):
        length = sizes[index] if sizes else 0
        yield tuple(_narrow_batch(value, start, length) for value in inputs)
        start += length


def _narrow_batch(value: Any, start: int, length: int) -> Any:
    if isinstance(value, Tensor):
        return value.narrow(0, start, length) if value.dim() else value
    if isinstance(value, Mapping):
        return {key: _narrow_batch(item, start, length) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_narrow_batch(item, start, length) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_narrow_batch(item, start, length) for item in value)
    return value


def _make_weighing(sizes: list[int] | None, microbatches: int) -> Callable[[Tensor, int], Tensor]:
    """The function that makes a part's mean its share in the mean of the batch."""
    if sizes is None or len(set(sizes)) == 1:
        return lambda value, index: value / microbatches  # division, as in torch's recipe: a factor rounds differently
    total = sum(sizes)
    return lambda value, index: value * (sizes[index] / total)


def _add_grads(total: Tree, grads: Tree, owned: bool) -> Tree:
    """The sum of two gradients; written over the first if it is ours, which it is from the second sum on."""

    def add_leaf(total: Tensor, grad: Tensor) -> Tensor:
        if owned and is_plainly_eager() and not (total.requires_grad or grad.requires_grad):
            return total.add_(grad)
        return total + grad

    return map(add_leaf, total, grads)
