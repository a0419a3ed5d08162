"""Values with gradients, at the memory of a plain backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import optree
import torch
from torch import Tensor

from funcnet._errors import FuncnetError, TransformError
from funcnet._tensors import is_inexact
from funcnet._torch import backward_by, pytree
from funcnet.kernels.internals import call_with_kernel_rules, call_with_rules, describe_missing_rule
from funcnet.transforms._function_results import check_plain_values, independence_error, scalar_of
from funcnet.transforms._nesting import (
    is_nested,
    is_traced_here,
    is_within_backward,
    plain_backward_suffices,
    reaches_other_leaves,
    running,
)

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


@overload
def value_and_grad(  # type: ignore[overload-overlap]  # the gradient by argument 0 has the type of that argument
    function: Callable[Concatenate[A, P], R], argnums: Literal[0] = 0, has_aux: bool = False
) -> Callable[Concatenate[A, P], tuple[R, A]]: ...
@overload
def value_and_grad(function: Callable[P, R], argnums: int, has_aux: bool = False) -> Callable[P, tuple[R, Any]]: ...
@overload
def value_and_grad(
    function: Callable[P, R], argnums: tuple[int, ...], has_aux: bool = False
) -> Callable[P, tuple[R, tuple[Any, ...]]]: ...
def value_and_grad(
    function: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the value of ``function`` and its gradient by one argument.

    At top level it runs torch.autograd.grad, which frees the graph as it goes; ``torch.func.grad`` always keeps it for
    a second derivative, at about twice the peak memory. Under vmap, grad, compile, torch.inference_mode or a level
    of torch.autograd.forward_ad, inside another ``value_and_grad``, and where an argument requires grad already, it is
    ``torch.func.grad_and_value``, so it nests. Same bits.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor; or a tuple of positions, for a tuple of
            gradients. Integer tensors get gradient zero.
        has_aux: whether ``function`` returns ``(value, aux)``.

    Returns:
        A function with the arguments of ``function`` that returns ``(value, grads)``, or ``((value, aux), grads)``.

    Raises:
        ValueError: if the value is not a scalar tensor of real floats; or if it depends on none of the arguments, which
            is what torch.no_grad, detach or a mistaken name in the function looks like. Inside of a transform of
            torch.func or another ``value_and_grad``, such a value has gradient zero, as everywhere in torch.func: there
            it may depend on the arguments of an outer transform alone.
        TypeError: if an argument that is differentiated holds anything but tensors and None.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> value_and_grad(loss)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
    (tensor(11.), {'w': tensor([3., 4.])})
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers:
        raise ValueError("value_and_grad needs at least one position in argnums, got an empty tuple.")

    @wraps(function)
    def compute_value_and_grad(*args: Any, **kwargs: Any) -> Any:
        _check_argnums(argnums, numbers, len(args))
        if torch.compiler.is_compiling():
            result, grads = _compute_by_transform(function, numbers, has_aux, args, kwargs)
        else:
            is_plain = not is_nested() and plain_backward_suffices(args, kwargs)
            compute = _compute_by_backward if is_plain else _compute_by_transform
            try:
                result, grads = compute(function, numbers, has_aux, args, kwargs)
            except RuntimeError as error:
                missing_rule = None if isinstance(error, FuncnetError) else describe_missing_rule(error)
                if missing_rule is None:
                    raise
                message = str(error).strip().partition("\n")[0]
                raise TransformError(
                    f"value_and_grad of {function!r}: {missing_rule}. Torch says: {message}"
                ) from error
        return result, grads[0] if isinstance(argnums, int) else grads

    return compute_value_and_grad


@overload
def grad(
    function: Callable[Concatenate[A, P], Any], argnums: Literal[0] = 0, has_aux: Literal[False] = False
) -> Callable[Concatenate[A, P], A]: ...
@overload
def grad(function: Callable[P, Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[P, Any]: ...
def grad(function: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of ``function`` by one argument.

    It is :func:`value_and_grad` without the value, with its arguments and errors.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor; or a tuple of positions, for a tuple of
            gradients.
        has_aux: whether ``function`` returns ``(value, aux)``.

    Returns:
        A function with the arguments of ``function`` that returns the gradient, or ``(grads, aux)``.

    >>> grad(lambda params, x: (params["w"] * x).sum())({"w": torch.ones(2)}, torch.tensor([3.0, 4.0]))
    {'w': tensor([3., 4.])}
    """
    compute_both = value_and_grad(function, argnums, has_aux)

    @wraps(function)
    def compute_grad(*args: Any, **kwargs: Any) -> Any:
        result, grads = compute_both(*args, **kwargs)
        return (grads, result[1]) if has_aux else grads

    return compute_grad


_UNCHANGED = nullcontext()  # made once: a training step is timed in microseconds


def _check_argnums(argnums: int | tuple[int, ...], numbers: tuple[int, ...], count: int) -> None:
    if len(numbers) == 1 and 0 <= numbers[0] < count:  # nearly always
        return
    if any(not -count <= number < count for number in numbers):
        raise TypeError(f"argnums={argnums} needs {max(numbers) + 1} positional arguments, got {count}.")
    if len({number % count for number in numbers}) < len(numbers):
        raise ValueError(f"argnums={argnums} names an argument twice.")


def _compute_by_backward(
    function: Callable[..., Any],
    numbers: tuple[int, ...],
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, tuple[Any, ...]]:
    """The result of the function, and gradients by a plain backward pass, which frees the graph."""
    is_recording = torch.is_grad_enabled()
    inputs: list[Any] = []

    def record_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf = leaf.detach()
            if leaf.is_floating_point() or leaf.is_complex():
                leaf.requires_grad = True
        inputs.append(leaf)
        return leaf

    traced_args = list(args)
    for number in numbers:
        traced_args[number] = _map_leaves(record_leaf, args[number])
    _check_leaves(args, numbers, inputs)
    with _UNCHANGED if is_recording else torch.enable_grad():
        running.depth = 1
        try:
            result = function(*traced_args, **kwargs)
        finally:
            running.depth = 0
    value = scalar_of(function, result, has_aux)
    # A graph that reaches other leaves belongs to somebody else too, who may differentiate the gradient.
    keeps_graph = is_recording and reaches_other_leaves(value, inputs)
    remaining = iter(_compute_grads(function, value, inputs, keeps_graph))
    grads = tuple([_map_leaves(lambda leaf: next(remaining), args[number]) for number in numbers])
    return result if keeps_graph else _map_leaves(_detach, result), grads


def _compute_by_transform(
    function: Callable[..., Any],
    numbers: tuple[int, ...],
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, tuple[Any, ...]]:
    """The same by torch.func.grad_and_value, which nests, and lets no argument but its own count as one."""
    is_inner = is_nested()
    leaves, treedef = pytree.tree_flatten(tuple(args[number] for number in numbers))
    _check_leaves(args, numbers, [leaf for leaf in leaves if leaf is not None])
    places = [index for index, leaf in enumerate(leaves) if leaf is not None and is_inexact(leaf)]
    fixed_args = [None if number in {n % len(args) for n in numbers} else arg for number, arg in enumerate(args)]
    plain_values: list[Any] = []

    def compute_scalar(
        inputs: list[Tensor], fixed_args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Tensor, list[Tensor]]:
        all_leaves = list(leaves)
        for index, tensor in zip(places, inputs, strict=True):
            all_leaves[index] = tensor
        traced_args = list(fixed_args)
        for number, tree in zip(numbers, pytree.tree_unflatten(all_leaves, treedef), strict=True):
            traced_args[number] = tree
        call = call_with_kernel_rules if is_within_backward() else call_with_rules
        result = call(function, *traced_args, **kwargs)
        value = scalar_of(function, result, has_aux)
        if inputs and not is_inner and not is_traced_here(value):
            raise independence_error(function)
        result_leaves, result_treedef = pytree.tree_flatten(result)
        check_plain_values(result_leaves)
        plain_values.append((result_leaves, result_treedef))
        return value.reshape(()), [leaf for leaf in result_leaves if isinstance(leaf, Tensor)]

    if places:
        inputs = [leaves[index] for index in places]
        by_leaf, (_, tensors) = torch.func.grad_and_value(compute_scalar, has_aux=True)(inputs, fixed_args, kwargs)
    else:
        by_leaf, (_, tensors) = [], compute_scalar([], fixed_args, kwargs)
    result_leaves, result_treedef = plain_values[0]
    remaining = iter(tensors)
    result_leaves = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in result_leaves]
    grads = [
        None if leaf is None else torch.zeros_like(leaf) if index not in places else leaf
        for index, leaf in enumerate(leaves)
    ]
    for index, grad in zip(places, _make_distinct(by_leaf), strict=True):
        grads[index] = grad
    return pytree.tree_unflatten(result_leaves, result_treedef), pytree.tree_unflatten(grads, treedef)


def _map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with the results of a function in place of its leaves, which are those of optree.

    Nested dicts and tuples are walked here, which takes a fraction of the time: a training step does so four times.
    """
    kind = type(tree)
    if kind is dict:
        return {
            key: function(value) if type(value) is Tensor else _map_leaves(function, value)
            for key, value in tree.items()
        }
    if isinstance(tree, Tensor):
        return function(tree)
    if kind is tuple:
        return tuple([_map_leaves(function, value) for value in tree])
    return optree.tree_map(function, tree)


def _check_leaves(args: tuple[Any, ...], numbers: tuple[int, ...], leaves: list[Any]) -> None:
    """Refuse arguments with leaves that have no gradient and no place for one."""
    if all([isinstance(leaf, Tensor) for leaf in leaves]):  # noqa: C419  # a list is quicker
        return
    problems = []
    for number in numbers:
        paths, leaves, _ = optree.tree_flatten_with_path(args[number])
        for path, leaf in zip(paths, leaves, strict=True):
            if not isinstance(leaf, Tensor):
                keys = "".join(f"[{key!r}]" for key in path)
                problems.append(f"argument {number}{keys} is {type(leaf).__name__}")
    raise TypeError(
        f"value_and_grad differentiates by nested dicts of tensors: {'; '.join(problems)}. Make it a tensor, or pass "
        f"it as another argument."
    )


def _compute_grads(
    function: Callable[..., Any], value: Tensor, inputs: list[Tensor], keeps_graph: bool
) -> list[Tensor]:
    """The gradient by each input; zeros where the value does not depend on it, or it has none."""
    differentiable = [leaf for leaf in inputs if leaf.requires_grad]
    grads: tuple[Tensor | None, ...] = (None,) * len(differentiable)
    if value.requires_grad and differentiable:
        grads = backward_by(value, differentiable, create_graph=keeps_graph)
    found = [grad for grad in grads if grad is not None]
    if len(found) == len(inputs):  # nearly always
        return _make_distinct(found)
    if differentiable and not found:
        raise independence_error(function)
    remaining = iter(grads)
    grads_or_none = [next(remaining) if leaf.requires_grad else None for leaf in inputs]
    grads_or_zeros = [
        torch.zeros_like(leaf, requires_grad=keeps_graph and leaf.requires_grad) if grad is None else grad
        for leaf, grad in zip(inputs, grads_or_none, strict=True)
    ]
    return _make_distinct(grads_or_zeros)


def _make_distinct(grads: list[Tensor]) -> list[Tensor]:
    """The gradients, each a tensor of its own.

    Autograd gives one tensor to all terms of a sum. An optimizer takes one tensor at two paths for the whole gradient
    of a param that stands there twice, and a write in place to one would change the other.
    """
    if torch.compiler.is_compiling() or len(set(map(id, grads))) == len(grads):
        return grads
    return [grad.clone() if any(grad is other for other in grads[:at]) else grad for at, grad in enumerate(grads)]


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
