"""The one transform that torch.func does not have; vmap, jvp, hessian and all others are torch.func's.

value_and_grad      returns the value of a function and its gradients by one plain backward pass.

per_sample_norms    returns the norm of each example's gradient, by one backward pass over the batch.
clipped_grads       returns the sum of the gradients of examples, each clipped to a norm, and the norms.
weighted_grads      returns the sum of the gradients of examples, each times a weight.
per_sample_dots     returns the inner product of each example's gradient with a tree.
per_sample_grads    returns the gradient of each example.
per_sample_rules    says how these are computed, for each param.
"""

from funcnet.transforms._grad import value_and_grad as value_and_grad
from funcnet.transforms._per_sample._sample_statistics import clipped_grads as clipped_grads
from funcnet.transforms._per_sample._sample_statistics import per_sample_dots as per_sample_dots
from funcnet.transforms._per_sample._sample_statistics import per_sample_grads as per_sample_grads
from funcnet.transforms._per_sample._sample_statistics import per_sample_norms as per_sample_norms
from funcnet.transforms._per_sample._sample_statistics import per_sample_rules as per_sample_rules
from funcnet.transforms._per_sample._sample_statistics import weighted_grads as weighted_grads

__all__ = [
    "clipped_grads",
    "per_sample_dots",
    "per_sample_grads",
    "per_sample_norms",
    "per_sample_rules",
    "value_and_grad",
    "weighted_grads",
]


def __dir__() -> list[str]:
    return [*__all__]
