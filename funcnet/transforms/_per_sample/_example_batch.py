"""A loss of one example with the arguments for a batch of them: checks, chunks and the two ways to gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from funcnet._errors import bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import broadcast_to_leaves, pytree
from funcnet.transforms._function_results import independence_error, scalar_of
from funcnet.transforms._nesting import is_nested, is_traced_here
from funcnet.transforms._per_sample._contributions import StackedGrads
from funcnet.transforms._per_sample._one_backward import RecordedPass, name_rules, run_recorded
from funcnet.transforms._per_sample._sample_gradients import ParamGrads, SampleGradients, Segment
from funcnet.transforms._recording import is_outermost
from funcnet.transforms._variables import Variables

_R = TypeVar("_R")


class ExampleBatch:
    """A loss of one example, and the arguments for a batch of them.

    Args:
        title: of the function that the user called, for errors.
        loss: ``(params, *arguments, **kwargs)`` -> the loss of one example, or ``(loss, aux)``.
        in_dims: for each positional argument the axis of the examples, as for torch.vmap; None for the default.
        has_aux: whether there is aux.
        args, kwargs: what the loss is called with, for all examples.

    Attributes:
        variables: the floating and complex tensors of the first argument, and where they stand.
        params: these tensors.
        size: number of examples.
    """

    def __init__(
        self,
        title: str,
        loss: Callable[..., Any],
        in_dims: Any,
        has_aux: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.title, self.loss, self.has_aux, self.args, self.kwargs = title, loss, has_aux, args, kwargs
        if not args:
            raise TypeError(f"{title} takes the params first, and then the examples; it got no argument.")
        self.in_dims = self._complete_in_dims(in_dims)
        self.variables = Variables({"params": args[0]}, title)
        self.params = self.variables.tensors
        self.size = self._count_examples()

    # --- arguments ---

    def _complete_in_dims(self, in_dims: Any) -> tuple[Any, ...]:
        count = len(self.args)
        if in_dims is None:
            return (None, *(0,) * (count - 1))
        if not isinstance(in_dims, (tuple, list)) or len(in_dims) != count:
            raise ValueError(
                f"{self.title}: in_dims has one entry for each positional argument of the loss, params first; got "
                f"in_dims={in_dims!r} for {count} arguments."
            )
        if any(dim is not None for dim in pytree.tree_leaves(in_dims[0], is_leaf=lambda dim: dim is None)):
            raise ValueError(
                f"{self.title}: in_dims={tuple(in_dims)!r} maps the params, which are the same for all examples: its "
                f"first entry is None. For an ensemble, map the whole: torch.vmap over a function that calls this one."
            )
        return tuple(in_dims)

    def _list_mapped(self) -> list[tuple[str, Any, int]]:
        """Name, leaf and axis of everything that is mapped."""
        mapped = []
        for number, (arg, dims) in enumerate(zip(self.args, self.in_dims, strict=True)):
            if dims is None:
                continue
            if isinstance(arg, Tensor) and isinstance(dims, int):  # the common case, without a detour
                mapped.append((f"argument {number}", arg, dims))
                continue
            named, spec = pytree.tree_flatten_with_path(arg)
            by_leaf = broadcast_to_leaves(dims, spec)
            if by_leaf is None:
                raise ValueError(
                    f"{self.title}: in_dims[{number}]={dims!r} does not fit the structure of its argument."
                )
            for (path, leaf), dim in zip(named, by_leaf, strict=True):
                if dim is not None:
                    mapped.append((f"argument {number}{pytree.keystr(path)}", leaf, dim))
        return mapped

    def _count_examples(self) -> int:
        sizes: dict[str, int] = {}
        problems = []
        for name, leaf, dim in self._list_mapped():
            if not isinstance(leaf, Tensor) or not -leaf.dim() <= dim < leaf.dim():
                got = f"of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
                problems.append(f"{name} is {got}, which has no axis {dim}")
            else:
                sizes[name] = leaf.shape[dim]
        if problems:
            raise ValueError(
                f"{self.title} maps the loss over an axis of examples:{bullet_list(problems)}\n"
                f"Give None in in_dims to what is the same for all examples, or pass it by name."
            )
        if not sizes:
            raise ValueError(f"{self.title} maps the loss over examples, and in_dims={self.in_dims!r} maps nothing.")
        if len(set(sizes.values())) > 1:
            lines = [f"{name} has {size} examples" for name, size in sizes.items()]
            raise ValueError(f"{self.title}: the arguments are batches of different sizes:{bullet_list(lines)}")
        return next(iter(sizes.values()))

    def split(self, chunk_size: int | None, memory: int | None) -> list[ExampleBatch]:
        """The same for fewer examples at a time.

        Args:
            chunk_size: how many, at most.
            memory: bytes that a pass may take; what one example takes is counted on the first.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"{self.title}: chunk_size is a number of examples, at least 1, got {chunk_size}.")
        if memory is not None and memory < 1:
            raise ValueError(f"{self.title}: memory is a number of bytes, at least 1, got {memory}.")
        size = min(self.size, chunk_size or self.size)
        if memory is not None and size > 1:
            size = min(size, max(1, memory // max(1, self._narrow(0, 1)._count_bytes())))
        if size == self.size:
            return [self]
        return [self._narrow(start, min(size, self.size - start)) for start in range(0, self.size, size)]

    def _count_bytes(self) -> int:
        """About the memory that the gradients of these examples take, while they are computed."""
        recorded = self._record(counts_bytes=True)
        return 2 * self.size * sum(param.nbytes for param in self.params) if recorded is None else recorded.bytes

    def _narrow(self, start: int, length: int) -> ExampleBatch:
        args = []
        for arg, dims in zip(self.args, self.in_dims, strict=True):
            leaves, spec = pytree.tree_flatten(arg)
            by_leaf = broadcast_to_leaves(dims, spec) or []
            narrowed = [
                leaf if dim is None else leaf.narrow(dim, start, length)
                for leaf, dim in zip(leaves, by_leaf, strict=True)
            ]
            args.append(pytree.tree_unflatten(narrowed, spec))
        return ExampleBatch(self.title, self.loss, self.in_dims, self.has_aux, tuple(args), self.kwargs)

    # --- gradients ---

    def compute_gradients(self) -> tuple[SampleGradients, Any]:
        """The gradients of all examples, and aux."""
        recorded = self._record()
        if recorded is None:
            return self._map_gradients(range(len(self.params)))
        gradients, unrecorded = recorded.gradients, recorded.unrecorded
        if unrecorded:
            others, _ = self._map_gradients(unrecorded)
            for index, grads in zip(unrecorded, others.by_param, strict=True):
                gradients.by_param[index] = grads
        return gradients, recorded.aux

    def name_rules(self) -> dict[str, str]:
        """For each param, by path, the rules that give its gradients."""
        named, _ = pytree.tree_flatten_with_path(self.args[0])
        paths = [_join_keys(path) for path, leaf in named if isinstance(leaf, Tensor) and is_inexact(leaf)]
        recorded = self._record()
        if recorded is None:
            return dict.fromkeys(paths, "vmap(grad)")
        names = [", ".join(rules) or "unused" for rules in name_rules(recorded.leaves, recorded.uses)]
        for index in recorded.unrecorded:
            names[index] = "vmap(grad)"
        return dict(zip(paths, names, strict=True))

    def _record(self, counts_bytes: bool = False) -> RecordedPass | None:
        """One pass with rules; None where only transforms of torch.func can be used."""
        if self.size == 0:
            none = [ParamGrads(param, 0, []) for param in self.params]
            return RecordedPass(SampleGradients(none, 0), None, [], self.params, [])
        if not is_outermost(self.args, self.kwargs):
            return None
        recorded = run_recorded(self._map_loss, self._compute_loss, self.params, self.size, counts_bytes)
        if recorded is not None and self.params and not recorded.uses and not recorded.unrecorded:
            raise independence_error(self.loss, self.title)
        return recorded

    def _map_loss(self, run_one: Callable[..., Any]) -> tuple[Tensor, Any]:
        losses, *aux = torch.vmap(run_one, in_dims=self.in_dims[1:])(*self.args[1:])
        return losses, pytree.tree_map_only(Tensor, Tensor.detach, aux[0]) if aux else None

    def _compute_loss(self, params: Sequence[Tensor], *arguments: Any) -> tuple[Any, ...]:
        """The loss of one example, in a tuple, with aux if there is any."""
        (tree,) = self.variables.fill(params, self.variables.others)
        result = self.loss(tree, *arguments, **self.kwargs)
        title = f"{self.title}, which calls the loss for one example,"
        value = scalar_of(self.loss, result, self.has_aux, title).reshape(())
        return (value, result[1]) if self.has_aux else (value,)

    def _map_gradients(self, indices: Sequence[int]) -> tuple[SampleGradients, Any]:
        """The gradients by some of the params, by vmap(grad)."""
        is_inner = is_nested()

        def compute_loss(chosen: list[Tensor], fixed: list[Tensor], *arguments: Any) -> tuple[Tensor, Any]:
            params = list(fixed)
            for index, param in zip(indices, chosen, strict=True):
                params[index] = param
            value, *aux = self._compute_loss(params, *arguments)
            if chosen and not is_inner and not is_traced_here(value):
                raise independence_error(self.loss, self.title)
            return value, aux

        chosen = [self.params[index] for index in indices]
        compute_gradients = torch.func.grad(compute_loss, has_aux=True)
        stacks, aux = torch.vmap(compute_gradients, in_dims=(None, None, *self.in_dims[1:]))(
            chosen, self.params, *self.args[1:]
        )
        by_param = [
            ParamGrads(param, self.size, [Segment(0, param.numel(), [StackedGrads(stacked)])])
            for param, stacked in zip(chosen, stacks, strict=True)
        ]
        return SampleGradients(by_param, self.size), aux[0] if aux else None

    # --- results ---

    def fill(self, tensors: Sequence[Tensor], front: tuple[int, ...] = ()) -> Any:
        """The tree of the params with derivatives in their places; ``front`` are sizes before those of the params."""
        return self.variables.fill_derivative(tensors, front)[0]

    def cast(self, values: Tensor) -> Tensor:
        """One number for each example, in the dtype that torch promotes the dtypes of real params to.

        Complex numbers, as inner products with complex params, stay as they are.
        """
        dtypes = [param.dtype for param in self.params if not param.is_complex()]
        if values.is_complex() or not dtypes:
            return values
        return values.to(reduce(torch.promote_types, dtypes))


def _join_keys(path: Sequence[Any]) -> str:
    """The joined path of the keys by which torch's pytrees name a leaf."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def compute_by_chunks(
    chunks: Sequence[ExampleBatch], compute: Callable[[SampleGradients, slice], _R]
) -> tuple[list[_R], Any]:
    """What a function computes from the gradients of each chunk, and the aux of all.

    Args:
        chunks: of one batch, in order.
        compute: called with the gradients, which are given up after it, and which examples of the batch they are of.
    """
    results, auxes, start = [], [], 0
    for chunk in chunks:
        gradients, aux = chunk.compute_gradients()
        results.append(compute(gradients, slice(start, start + chunk.size)))
        auxes.append(aux)
        del gradients
        start += chunk.size
    if len(auxes) == 1 or auxes[0] is None:
        return results, auxes[0]
    return results, pytree.tree_map(lambda *leaves: torch.cat(leaves), *auxes)
