"""What users ask of the gradients of single examples: norms, clipped and weighted sums, inner products, themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from funcnet.transforms._per_sample._example_batch import ExampleBatch, compute_by_chunks
from funcnet.transforms._per_sample._sample_gradients import SampleGradients


def per_sample_norms(
    loss: Callable[..., Any],
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    memory: int | None = None,
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
        memory: bytes that may be taken while gradients are computed, about; it bounds how many examples are computed at
            a time. What one example takes is counted on the first.

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
        norms, aux = compute_by_chunks(batch.split(chunk_size, memory), lambda gradients, _: gradients.norms())
        return (batch.cast(_join(norms)), aux) if has_aux else batch.cast(_join(norms))

    return compute_norms


def clipped_grads(
    loss: Callable[..., Any],
    max_norm: float | Tensor,
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    memory: int | None = None,
) -> Callable[..., Any]:
    """A function that clips the gradient of each example to a norm, and returns their sum.

    One example changes the sum by ``max_norm`` at most, which is what differential privacy begins with. It costs little
    more time and memory than the gradient of the batch; see :func:`per_sample_norms` for how, and for what is not said
    here.

    Args:
        loss: of one example.
        max_norm: longest norm of an example's gradient, all params together; longer ones are scaled by
            ``max_norm / norm``.
        in_dims, has_aux, chunk_size, memory: as for :func:`per_sample_norms`.

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

        def add_clipped(gradients: SampleGradients, _: slice) -> Tensor:
            norms = gradients.norms()
            sums[:] = _add(sums, gradients.sum_weighted((max_norm / norms).clamp(max=1)))
            return norms

        norms, aux = compute_by_chunks(batch.split(chunk_size, memory), add_clipped)
        result = batch.fill(sums), batch.cast(_join(norms))
        return (*result, aux) if has_aux else result

    return compute_clipped


def weighted_grads(
    loss: Callable[..., Any],
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    memory: int | None = None,
) -> Callable[..., Any]:
    """A function that returns a weighted sum of the gradients of single examples.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size, memory: as for :func:`per_sample_norms`.

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
        chunks = batch.split(chunk_size, memory)
        if callable(weights) and len(chunks) > 1:  # it may compare all norms
            norms, _ = compute_by_chunks(chunks, lambda gradients, _: gradients.norms())
            weights = weights(batch.cast(_join(norms)))
        sums: list[Tensor] = []

        def add_weighted(gradients: SampleGradients, examples: slice) -> None:
            factors = weights(batch.cast(gradients.norms())) if callable(weights) else weights
            _check_weights(factors, batch.size)
            sums[:] = _add(sums, gradients.sum_weighted(factors[examples]))

        _, aux = compute_by_chunks(chunks, add_weighted)
        return (batch.fill(sums), aux) if has_aux else batch.fill(sums)

    return compute_weighted


def per_sample_dots(
    loss: Callable[..., Any],
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    memory: int | None = None,
) -> Callable[..., Any]:
    """A function that returns the inner product of each example's gradient with a tree.

    With minus the gradient of a test loss as the tree, it says how much a step on each example would change that loss.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size, memory: as for :func:`per_sample_norms`.

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
        chunks = batch.split(chunk_size, memory)
        dots, aux = compute_by_chunks(chunks, lambda gradients, _: gradients.dots(directions))
        return (batch.cast(_join(dots)), aux) if has_aux else batch.cast(_join(dots))

    return compute_dots


def per_sample_grads(
    loss: Callable[..., Any],
    in_dims: Any = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    memory: int | None = None,
) -> Callable[..., Any]:
    """A function that returns the gradient of each example's loss: what ``torch.vmap(torch.func.grad(loss))`` returns.

    Args:
        loss: of one example.
        in_dims, has_aux, chunk_size, memory: as for :func:`per_sample_norms`.

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
        stacks, aux = compute_by_chunks(batch.split(chunk_size, memory), lambda gradients, _: gradients.stack())
        grads = batch.fill([_join(list(pieces)) for pieces in zip(*stacks, strict=True)], (batch.size,))
        return (grads, aux) if has_aux else grads

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


def _add(sums: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    return [total + other for total, other in zip(sums, others, strict=True)] if sums else others


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _check_weights(weights: Any, size: int) -> None:
    if not isinstance(weights, Tensor) or weights.shape != (size,):
        got = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(
            f"weighted_grads needs weights of shape ({size},), one for each example, or a function of the norms that "
            f"returns them, got {got}."
        )
