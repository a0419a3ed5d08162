"""Derivatives on nested dicts of tensors, each in the form that costs least; they nest with torch.func and each other.

value_and_grad    returns the value of a function and its gradients by one plain backward pass.
grad              returns the gradients alone.
jvp               returns the output of a function and its directional derivative.
vjp               returns the output of a function and the map from changes of it back to the arguments.
jacobian          returns the derivative of each output by each number of an argument.
hessian           returns the second derivatives of a scalar.
hvp               returns the product of the Hessian with a vector.
ggn_vp            returns the product of the Gauss-Newton matrix with a vector.

per_sample_norms    returns the norm of each example's gradient, by one backward pass over the batch.
clipped_grads       returns the sum of the gradients of examples, each clipped to a norm, and the norms.
weighted_grads      returns the sum of the gradients of examples, each times a weight.
per_sample_dots     returns the inner product of each example's gradient with a tree.
per_sample_grads    returns the gradient of each example.
per_sample_rules    says how these are computed, for each param.

vmap and all other transforms are torch.func's.
"""

from funcnet.transforms._gauss_newton import ggn_vp as ggn_vp
from funcnet.transforms._grad import grad as grad
from funcnet.transforms._grad import value_and_grad as value_and_grad
from funcnet.transforms._hvp import hvp as hvp
from funcnet.transforms._jacobian import hessian as hessian
from funcnet.transforms._jacobian import jacobian as jacobian
from funcnet.transforms._jvp import jvp as jvp
from funcnet.transforms._per_sample._sample_statistics import clipped_grads as clipped_grads
from funcnet.transforms._per_sample._sample_statistics import per_sample_dots as per_sample_dots
from funcnet.transforms._per_sample._sample_statistics import per_sample_grads as per_sample_grads
from funcnet.transforms._per_sample._sample_statistics import per_sample_norms as per_sample_norms
from funcnet.transforms._per_sample._sample_statistics import per_sample_rules as per_sample_rules
from funcnet.transforms._per_sample._sample_statistics import weighted_grads as weighted_grads
from funcnet.transforms._vjp import vjp as vjp

__all__ = [
    "clipped_grads",
    "ggn_vp",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "per_sample_dots",
    "per_sample_grads",
    "per_sample_norms",
    "per_sample_rules",
    "value_and_grad",
    "vjp",
    "weighted_grads",
]


def __dir__() -> list[str]:
    return [*__all__]
