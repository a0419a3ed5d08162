"""The one transform that torch.func does not have; vmap, jvp, hessian and all others are torch.func's.

value_and_grad    returns the value of a function and its gradients by one plain backward pass.
"""

from funcnet.transforms._grad import value_and_grad as value_and_grad

__all__ = ["value_and_grad"]


def __dir__() -> list[str]:
    return [*__all__]
