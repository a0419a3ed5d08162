"""Second derivatives by a backward pass with a graph, through kernels of torch that have none, or a wrong one.

When a call runs, nobody knows whether its backward pass will be differentiated. So its nodes in the graph of autograd
are left as they are, with a hook. A plain backward pass asks the hook one question. One with ``create_graph=True`` gets
from it the gradient with the same bits, and the derivative of the composed form, computed from what the node has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from funcnet._context import under_transform
from funcnet._errors import TransformError
from funcnet._tensors import iter_tensors
from funcnet._torch import assume_constant_result, current_autograd_node, is_traced_by_compiler

_Value = TypeVar("_Value")

Recipe: TypeAlias = "tuple[Sequence[Tensor], Callable[..., Tensor]]"
"""The inputs that a node saved, in the order of its gradients, and the composed function of them."""

RECIPES: dict[str, Callable[[Any], Recipe]] = {}
"""Name of a node whose gradient has no derivative, or a wrong one -> what it computed; see ``_node_recipes.py``."""

REFUSED = {
    "EmbeddingBagBackward0": "torch.nn.functional.embedding_bag",
    "ScaledDotProductFlashAttentionBackward0": "torch's flash attention",
    "ScaledDotProductEfficientAttentionBackward0": "torch's memory-efficient attention",
    "ScaledDotProductCudnnAttentionBackward0": "cuDNN's attention",
}
"""Name of a node whose gradient has no derivative, and which saves too little to compute one -> its function."""


def allow_second_derivative(y: Tensor) -> Tensor:
    """The output of a kernel, whose gradient can be differentiated in a backward pass with ``create_graph=True``."""
    if y.requires_grad and _takes_hooks() and y.grad_fn is not None:
        y.grad_fn.register_hook(_derive_again)
    return y


def allow_second_derivatives_within(output: _Value) -> _Value:
    """The same for all kernels in the graph of the tensors in a value; it is looked through when that is asked for."""
    if torch.is_grad_enabled() and _takes_hooks():
        for tensor in iter_tensors(output):
            if tensor.grad_fn is not None:
                tensor.register_hook(_prepare_graph)
    return output


@assume_constant_result
def _takes_hooks() -> bool:
    """Whether autograd records for a backward pass of its own: not for torch.func, and not for a compiler."""
    return not under_transform() and not is_traced_by_compiler()


def _prepare_graph(grad: Tensor) -> None:
    """A hook of an output: in a backward pass with a graph, it finds the kernels behind the output."""
    if not torch.is_grad_enabled():
        return
    waiting = [current_autograd_node()]
    while waiting:
        node = waiting.pop()
        metadata = node.metadata
        if __name__ in metadata:
            continue
        metadata[__name__] = True
        if node.name() in RECIPES or node.name() in REFUSED:
            node.register_hook(_derive_again)
        waiting += [parent for parent, _ in node.next_functions if parent is not None]


def _derive_again(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> Any:
    """A hook of a node: its gradients, with a derivative."""
    if not torch.is_grad_enabled() or grad_outputs[0] is None:
        return None
    node = current_autograd_node()
    if node.name() in REFUSED:
        return tuple(
            None if grad is None else _NoDerivative.apply(grad, REFUSED[node.name()])  # type: ignore[no-untyped-call]
            for grad in grad_inputs
        )
    inputs, compose = RECIPES[node.name()](node)
    wanted = [index for index, grad in enumerate(grad_inputs) if grad is not None and inputs[index].requires_grad]
    with torch.enable_grad():
        sources = [inputs[index] for index in wanted]
        composed = torch.autograd.grad(compose(*inputs), sources, grad_outputs[0], create_graph=True)
    grads = list(grad_inputs)
    for index, grad in zip(wanted, composed, strict=True):
        kernel_grad = grads[index]
        assert kernel_grad is not None
        grads[index] = kernel_grad.detach() + (grad - grad.detach())  # the bits of the kernel
    return tuple(grads)


class _NoDerivative(torch.autograd.Function):
    """The identity, whose derivative is refused."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, function: str) -> Tensor:
        ctx.function = function
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise TransformError(
            f"{ctx.function} has no second derivative in a backward pass with create_graph=True. Take the first one by "
            f"torch.func.grad or torch.func.jvp, inside of which funcnet composes it of operations that have one."
        )
