"""Derivatives on nested dicts of tensors, each in the form that costs least; they nest with torch.func and each other.

value_and_grad    returns the value of a function and its gradients by one plain backward pass.
grad              returns the gradients alone.
jvp               returns the output of a function and its directional derivative.
vjp               returns the output of a function and the map from changes of it back to the arguments.
jacobian          returns the derivative of each output by each number of an argument.
hessian           returns the second derivatives of a scalar.
hvp               returns the product of the Hessian with a vector.
ggn_vp            returns the product of the Gauss-Newton matrix with a vector.

vmap and all other transforms are torch.func's.
"""

from funcnet.transforms._gauss_newton import ggn_vp as ggn_vp
from funcnet.transforms._grad import grad as grad
from funcnet.transforms._grad import value_and_grad as value_and_grad
from funcnet.transforms._hvp import hvp as hvp
from funcnet.transforms._jacobian import hessian as hessian
from funcnet.transforms._jacobian import jacobian as jacobian
from funcnet.transforms._jvp import jvp as jvp
from funcnet.transforms._vjp import vjp as vjp

__all__ = ["ggn_vp", "grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]


def __dir__() -> list[str]:
    return [*__all__]
