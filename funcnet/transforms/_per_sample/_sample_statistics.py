"""What users ask of the gradients of single examples: norms, clipped and weighted sums, inner products, themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet.transforms._per_sample._example_batch import ExampleBatch


def per_sample_norms(
    loss: Callable[..., Any], in_dims: Any = None, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """A function that returns the norm of the gradient of each example's loss, without computing these gradients.

    ``loss`` is that of one example, as for ``torch.vmap(torch.func.grad(loss))``, whose results this has, by one
    backward pass over the batch. Linear maps, convolutions, embeddings and the weights of norms have rules; other
    functions get a weight as one copy for each example. Params that are used inside of what torch shows to nobody (an
    autograd function, a transform in the loss) are differentiated once more, by vmap(grad): :func:`per_sample_rules`
    says which. Under a transform or torch.compile, and where an argument requires grad, all of it is vmap(grad), which
    can be differentiated and mapped.

    Args:
        loss: ``loss(params, *example, **options)`` returns a scalar tensor; with ``has_aux``, a pair of one and
            tensors.
        in_dims: for each positional argument of ``loss`` the axis of the examples, or None where all examples share it,
            as for :func:`torch.vmap`. Default: None for the params, 0 for all others. What is passed by name is shared:
            with a Key all examples draw the same numbers; keys of their own are ``fn.random.split(key, B)``, passed by
            position.
        has_aux: whether ``loss`` returns ``(loss, aux)``.
        chunk_size: how many examples are computed at a time, at most; less memory for some time.

    Returns:
        A function of ``(params, *batch, **options)`` that returns the norms (B,), all params together, or
        ``(norms, aux)``. Integer tensors, ``None`` and ``ABSENT`` among the params do not count.

    Raises:
        ValueError: if batches differ in size, ``in_dims`` maps the params or nothing, or the loss is no scalar, or
            depends on no param.
        TransformError: if BatchNorm normalises one example in training mode, by itself.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> per_sample_norms(loss)({"w": torch.ones(2)}, torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([5., 2.])
    """

    @wraps(loss)
    def compute_norms(*args: Any, **kwargs: Any) -> Any:
        batch = ExampleBatch("per_sample_norms", loss, in_dims, has_aux, args, kwargs)
        parts = [(gradients.norms(), aux) for _, gradients, aux in _iter_chunks(batch, chunk_size)]
        norms = batch.cast(_join([norms for norms, _ in parts]))
        return (norms, _join_aux([aux for _, aux in parts])) if has_aux else norms

    return compute_norms


def clipped_grads(
    loss: Callable[..., Any],
    max_norm: float | Tensor,
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function that clips the gradient of each example to a norm, and returns their sum.

    One example changes the sum by ``max_norm`` at most, which is what differential privacy begins with. It costs little
    more time and memory than the gradient of the batch; see :func:`per_sample_norms` for how, and for what is not said
    here.

    Args:
        loss: of one example.
        max_norm: longest norm of an example's gradient, all params together; longer ones are scaled by
            ``max_norm / norm``.
        in_dims, has_aux, chunk_size: as for :func:`per_sample_norms`.

    Returns:
        A function of ``(params, *batch, **options)`` that returns ``(grads, norms)``, or ``(grads, norms, aux)``: the
        sum of the clipped gradients, a tree like the params, and the norms before clipping, (B,).

    Raises:
        ValueError: if ``max_norm`` is not positive, and as for :func:`per_sample_norms`.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> clipped_grads(loss, 1.0)({"w": torch.ones(2)}, torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
    ({'w': tensor([0.6000, 1.3000])}, tensor([5.0000, 0.5000]))
    """
    if not isinstance(max_norm, Tensor) and not max_norm > 0:
        raise ValueError(f"clipped_grads: max_norm is the longest norm that is left, more than 0, got {max_norm!r}.")

    @wraps(loss)
    def compute_clipped(*args: Any, **kwargs: Any) -> Any:
        batch = ExampleBatch("clipped_grads", loss, in_dims, has_aux, args, kwargs)
        sums: list[Tensor] = []
        norms, auxes = [], []
        for _, gradients, aux in _iter_chunks(batch, chunk_size):
            norms.append(gradients.norms())
            auxes.append(aux)
            sums = _add(sums, gradients.sum_weighted((max_norm / norms[-1]).clamp(max=1)))
        result = batch.fill(sums), batch.cast(_join(norms))
        return (*result, _join_aux(auxes)) if has_aux else result

    return compute_clipped


def weighted_grads(
    loss: Callable[..., Any], in_dims: Any = None, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """A function that returns a weighted sum of the gradients of single examples.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size: as for :func:`per_sample_norms`.

    Returns:
        A function of ``(params, weights, *batch, **options)`` that returns the sum, a tree like the params, or
        ``(sum, aux)``. ``weights`` is a tensor (B,), or a function of the norms (B,) that returns one: with
        ``lambda norms: 1 / (norms + 0.01)`` each example has about the same say. ``in_dims`` has no entry for it.

    Raises:
        ValueError: if there is not one weight for each example, and as for :func:`per_sample_norms`.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> params, x = {"w": torch.ones(2)}, torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> weighted_grads(loss)(params, torch.tensor([1.0, -1.0]), x)
    {'w': tensor([3., 2.])}
    >>> weighted_grads(loss)(params, lambda norms: 1 / norms, x)
    {'w': tensor([0.6000, 1.8000])}
    """

    @wraps(loss)
    def compute_weighted(params: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        batch = ExampleBatch("weighted_grads", loss, in_dims, has_aux, (params, *args), kwargs)
        if callable(weights) and chunk_size is not None and chunk_size < batch.size:  # it may compare all norms
            norms = [gradients.norms() for _, gradients, _ in _iter_chunks(batch, chunk_size)]
            weights = weights(batch.cast(_join(norms)))
        sums: list[Tensor] = []
        auxes = []
        for examples, gradients, aux in _iter_chunks(batch, chunk_size):
            factors = weights(batch.cast(gradients.norms())) if callable(weights) else weights
            _check_weights(factors, batch.size)
            sums = _add(sums, gradients.sum_weighted(factors[examples]))
            auxes.append(aux)
        return (batch.fill(sums), _join_aux(auxes)) if has_aux else batch.fill(sums)

    return compute_weighted


def per_sample_dots(
    loss: Callable[..., Any], in_dims: Any = None, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """A function that returns the inner product of each example's gradient with a tree.

    With minus the gradient of a test loss as the tree, it says how much a step on each example would change that loss.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size: as for :func:`per_sample_norms`.

    Returns:
        A function of ``(params, tree, *batch, **options)`` that returns the inner products (B,), or ``(dots, aux)``.
        ``tree`` is like the params. ``in_dims`` has no entry for it.

    Raises:
        TreeError: if the tree has other paths, shapes or dtypes than the params.
        ValueError: as for :func:`per_sample_norms`.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> params, x = {"w": torch.ones(2)}, torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> per_sample_dots(loss)(params, {"w": torch.tensor([1.0, 10.0])}, x)
    tensor([43., 20.])
    """

    @wraps(loss)
    def compute_dots(params: Any, tree: Any, *args: Any, **kwargs: Any) -> Any:
        batch = ExampleBatch("per_sample_dots", loss, in_dims, has_aux, (params, *args), kwargs)
        directions = batch.variables.match([tree], "tree")
        parts = [(gradients.dots(directions), aux) for _, gradients, aux in _iter_chunks(batch, chunk_size)]
        dots = batch.cast(_join([dots for dots, _ in parts]))
        return (dots, _join_aux([aux for _, aux in parts])) if has_aux else dots

    return compute_dots


def per_sample_grads(
    loss: Callable[..., Any], in_dims: Any = None, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """A function that returns the gradient of each example's loss: what ``torch.vmap(torch.func.grad(loss))`` returns.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size: as for :func:`per_sample_norms`.

    Returns:
        A function of ``(params, *batch, **options)`` that returns a tree like the params, with the examples along axis
        0 of each leaf, or ``(grads, aux)``.

    Raises:
        ValueError: as for :func:`per_sample_norms`.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> per_sample_grads(loss)({"w": torch.ones(2)}, torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    {'w': tensor([[3., 4.], [0., 2.]])}
    """

    @wraps(loss)
    def compute_grads(*args: Any, **kwargs: Any) -> Any:
        batch = ExampleBatch("per_sample_grads", loss, in_dims, has_aux, args, kwargs)
        parts = [(gradients.stack(), aux) for _, gradients, aux in _iter_chunks(batch, chunk_size)]
        stacks = [_join(list(pieces)) for pieces in zip(*(stacks for stacks, _ in parts), strict=True)]
        grads = batch.fill(stacks, (batch.size,))
        return (grads, _join_aux([aux for _, aux in parts])) if has_aux else grads

    return compute_grads


def per_sample_rules(
    loss: Callable[..., Any], in_dims: Any = None, *, has_aux: bool = False
) -> Callable[..., dict[str, str]]:
    """A function that says how the gradients of single examples are computed, for each param.

    Args:
        loss: of one example.
        in_dims, has_aux: as for :func:`per_sample_norms`.

    Returns:
        A function of ``(params, *batch, **options)`` that returns path -> the rules for the uses of this param:
        "linear", "matmul", "convolution", "embedding" and "norm" are quick and small; "copies for NAME" makes a
        gradient for each example in torch's function of that name; "vmap(grad)" is a pass of its own.

    >>> def loss(params, x):
    ...     return torch.nn.functional.linear(x * params["scale"], params["weight"]).sum()
    >>> params = {"scale": torch.ones(2), "weight": torch.ones(3, 2)}
    >>> per_sample_rules(loss)(params, torch.ones(4, 2))
    {'scale': 'copies for mul', 'weight': 'linear'}
    """

    @wraps(loss)
    def name_rules(*args: Any, **kwargs: Any) -> dict[str, str]:
        batch = ExampleBatch("per_sample_rules", loss, in_dims, has_aux, args, kwargs)
        return batch.name_rules()

    return name_rules


def _iter_chunks(batch: ExampleBatch, chunk_size: int | None) -> Iterator[tuple[slice, Any, Any]]:
    """Which examples, their gradients, and their aux, for a few examples at a time."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{batch.title}: chunk_size is a number of examples, at least 1, got {chunk_size}.")
    start = 0
    for chunk in [batch] if chunk_size is None or batch.size <= chunk_size else batch.split(chunk_size):
        yield slice(start, start + chunk.size), *chunk.compute_gradients()
        start += chunk.size


def _add(sums: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    return [total + other for total, other in zip(sums, others, strict=True)] if sums else others


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _join_aux(auxes: list[Any]) -> Any:
    return auxes[0] if len(auxes) == 1 else pytree.tree_map(lambda *leaves: torch.cat(leaves), *auxes)


def _check_weights(weights: Any, size: int) -> None:
    if not isinstance(weights, Tensor) or weights.shape != (size,):
        got = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(
            f"weighted_grads needs weights of shape ({size},), one for each example, or a function of the norms that "
            f"returns them, got {got}."
        )
