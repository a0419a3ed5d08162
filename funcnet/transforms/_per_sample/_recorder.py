"""Watches a loss of one example while vmap runs it for all, and notes where the params meet the examples.

Under a vmap that maps the examples alone, params and what is computed from them only are plain tensors; all else is
batched. Where the two meet, the gradient of each example by the weight follows from the gradient by the output, and
that one a single backward pass gives for all examples: no weight has a gradient of its own for each. A function with a
rule runs on the whole batch with its weights detached; to any other function a weight is given as one copy for each
example, which holds no memory. What neither of them sees is noticed, because a param still gets a gradient then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from funcnet._context import outside_transforms
from funcnet._errors import UnplacedTransformError
from funcnet._torch import (
    AccumulateGrad,
    add_batch_axis,
    current_transform_level,
    is_wrapped_by_transform,
    pytree,
    remove_batch_axis,
)
from funcnet._typing import Shape
from funcnet.random.internals import FUNCTIONS_THAT_CALL_OTHERS
from funcnet.transforms._per_sample._contributions import Contribution, StackedGrads

_Weight = TypeVar("_Weight", Tensor, Tensor | None)


class SavedInput:
    """An input of a recorded call, which its rule needs after the backward pass.

    Args:
        tensor: the input, a plain tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor.detach(), tensor._version

    def read(self) -> Tensor:
        """The input.

        Raises:
            RuntimeError: if it was written to since the call, as for autograd.
        """
        if self._tensor._version != self._version:
            raise RuntimeError(
                f"an input of shape {tuple(self._tensor.shape)} of a layer was written to after the layer had run, and "
                f"its gradient needs the input as it was. Compute a new tensor, x = x + y, in place of x += y."
            )
        return self._tensor


@dataclass(frozen=True)
class Use:
    """One place where a weight meets the examples.

    Attributes:
        weight: a param, or a tensor computed from params alone.
        edge: the output, by whose gradient the gradient of the weight is known.
        shape: of the output, (B, ...).
        contribute: (gradient of the output) -> what it adds to the gradients by the weight.
        rule: name of the rule, for readers.
        version: of the weight when it was used; a write in place gives it another one.
    """

    weight: Tensor
    edge: GradientEdge
    shape: Shape
    contribute: Callable[[Tensor], Contribution]
    rule: str
    version: int


class UseRecorder(TorchFunctionMode):
    """A context inside of a vmap over examples that records the uses of weights.

    Args:
        params: the leaves that gradients are taken by; they require grad.
        batch_size: number of examples.
        rules: function of torch -> its rule, which returns NotImplemented where it does not fit the arguments.
    """

    def __init__(self, params: Sequence[Tensor], batch_size: int, rules: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.batch_size, self.rules = batch_size, rules
        self.uses: list[Use] = []
        self.reaches_other_leaves = False
        """Whether a tensor that requires grad and is no function of the params met the examples."""
        self.level = 0
        self._param_ids = {id(param) for param in params}
        self._aliases = {id(param): param.detach().requires_grad_() for param in params}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Self:
        self.level = self.level or current_transform_level() or 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and current_transform_level() == self.level:
            _refuse_batch_statistics(*args, **kwargs)
        if func is F.cross_entropy and current_transform_level() == self.level:
            result = self.rules[func](self, *args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        # Without autograd, as in torch.no_grad(), a param is a constant.
        has_weight = torch.is_grad_enabled() and any(map(self._is_weight, _iter_leaves(args, kwargs)))
        if not has_weight or current_transform_level() != self.level:  # not recorded in a transform of the loss itself
            return func(*args, **kwargs)
        if func in FUNCTIONS_THAT_CALL_OTHERS:
            with self:
                return FUNCTIONS_THAT_CALL_OTHERS[func](*args, **kwargs)
        rule = self.rules.get(func)
        if rule is not None:
            result = rule(self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return self._run_with_copies(func, args, kwargs)

    @property
    def has_overwritten_weights(self) -> bool:
        """Whether a weight was written in place after a use, so that the tensor no longer tells what was used."""
        return any(use.weight._version != use.version for use in self.uses)

    # --- what rules ask and do ---

    def is_batched(self, value: Any) -> bool:
        """Whether a value is a tensor with one part for each example."""
        return isinstance(value, Tensor) and is_wrapped_by_transform(value)

    def unwrap(self, tensor: Tensor) -> Tensor:
        """A tensor of the loss as a plain one with the examples along axis 0, (B, ...)."""
        return remove_batch_axis(tensor, self.level, self.batch_size, 0)

    def wrap(self, tensor: Tensor) -> Tensor:
        """A plain tensor with the examples along axis 0 as the loss sees it: the inverse of :meth:`unwrap`."""
        return add_batch_axis(tensor, 0, self.level)

    def alias(self, weight: _Weight) -> _Weight:
        """A weight for a kernel that gives its output a gradient, without one by the weight being computed."""
        if weight is None or not weight.requires_grad:
            return weight
        alias = self._aliases.get(id(weight))
        if alias is None:
            with outside_transforms():
                alias = weight.detach().requires_grad_()
        return alias

    def record(
        self,
        y: Tensor,
        rule: str,
        *contributions: tuple[Tensor | None, Callable[[Tensor], Contribution]],
        shape: Shape | None = None,
    ) -> Tensor:
        """Note what the weights of a call add to their gradients.

        Args:
            y: the output, a plain tensor with the examples along axis 0.
            rule: name of the rule.
            contributions: the weights of the call, each with its ``Use.contribute``; those that are None or do not
                require grad are passed over.
            shape: of the output as the loss sees it, (B, ...), if it is not that of ``y``.

        Returns:
            The output as the loss sees it.
        """
        base = y._base
        if base is not None and not (base.numel() == y.numel() and base.is_contiguous() and y.is_contiguous()):
            y, base = y.clone(), None
        # The loss may write over the output. A view has another place in the graph of autograd then, its base has not.
        edge = get_gradient_edge(y if base is None else base)
        y = y if shape is None else y.reshape(shape)
        for weight, contribute in contributions:
            if weight is not None and weight.requires_grad:
                self._add_use(Use(weight, edge, y.shape, contribute, rule, weight._version))
        return self.wrap(y)

    # --- everything else ---

    def _is_weight(self, value: Any) -> bool:
        """Whether a value is a param, or computed from params and no example."""
        return isinstance(value, Tensor) and value.requires_grad and not is_wrapped_by_transform(value)

    def _add_use(self, use: Use) -> None:
        if id(use.weight) not in self._param_ids and not leaf_ids(use.weight) <= self._param_ids:
            self.reaches_other_leaves = True
        self.uses.append(use)

    def _run_with_copies(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that has no rule: where examples are among its arguments, on a copy of the weight for each."""
        if not any(map(self.is_batched, _iter_leaves(args, kwargs))):
            return func(*args, **kwargs)
        leaves, treedef = pytree.tree_flatten((args, kwargs))
        name = getattr(func, "__name__", str(func)).strip("_")
        copies = [self._copy(leaf, name) if self._is_weight(leaf) else leaf for leaf in leaves]
        copied_args, copied_kwargs = pytree.tree_unflatten(copies, treedef)
        return func(*copied_args, **copied_kwargs)

    def _copy(self, weight: Tensor, function_name: str) -> Tensor:
        """A weight as one copy for each example."""
        if id(weight) not in self._copies:
            with outside_transforms():
                copies = weight.detach().unsqueeze(0).expand(self.batch_size, *weight.shape).requires_grad_()
                rule = f"copies for {function_name}"
                self._add_use(Use(weight, get_gradient_edge(copies), copies.shape, StackedGrads, rule, weight._version))
            self._copies[id(weight)] = (weight, add_batch_axis(copies, 0, self.level))
        return self._copies[id(weight)][1]


def _iter_leaves(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
    """The arguments of a function of torch, and what lists and tuples among them hold."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (list, tuple)):
            yield from _iter_leaves(value, {})
        else:
            yield value


def _refuse_batch_statistics(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *options: Any,
    **named_options: Any,
) -> None:
    """Refuse to normalise a single example by its own statistics, where training has those of a batch."""
    if training and input.dim() > 1 and input.shape[0] == 1:
        raise UnplacedTransformError(
            "torch.nn.functional.batch_norm",
            "normalises by the statistics of the batch, so that no example has a gradient of its own; here it would "
            "see one example at a time. Run it in eval mode, as train='!**.bn' does for every bn, or use GroupNorm.",
        )


def leaf_ids(tensor: Tensor) -> set[int]:
    """The ids of the leaves of autograd that a tensor is computed from."""
    read_grad_fn: Any = (
        Tensor.grad_fn
    )  # of the base class: a parameter in a foreign forward answers its module otherwise
    grad_fn = read_grad_fn.__get__(tensor)
    if grad_fn is None:
        return {id(tensor)}
    waiting, leaves = [grad_fn], set()
    visited = set(waiting)
    while waiting:
        node = waiting.pop()
        if type(node) is AccumulateGrad:
            leaves.add(id(node.variable))  # type: ignore[attr-defined]
        for parent, _ in node.next_functions:
            if parent is not None and parent not in visited:
                visited.add(parent)
                waiting.append(parent)
    return leaves
