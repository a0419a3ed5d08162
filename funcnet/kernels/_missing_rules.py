"""What torch's errors about missing derivatives and batching rules mean, and the ways out."""

from __future__ import annotations

import re

_WAYS_OUT = {
    r"Trying to use forward AD with (?:aten::)?(\S+) that does not support it": (
        "torch's {} has no rule for forward mode: take gradients (torch.func.vjp for jvp, jacrev for jacfwd, "
        "jacrev(jacrev) for hessian), or compute it in other operations"
    ),
    r"You must implement the jvp function for (custom autograd\.Function)": (
        "a {} of the code has no jvp, which is its rule for forward mode: write one, or take gradients "
        "(torch.func.vjp for jvp, jacrev for jacfwd, jacrev(jacrev) for hessian)"
    ),
    r"derivative for '?(?:aten::)?(\w+)'? is not implemented": (
        "torch's {} has no derivative: compute in other operations what it is the gradient of, or take one derivative "
        "less"
    ),
    r"(?:Batching rule not implemented for|do not yet support) (?:aten::)?(\w+)": (
        "torch's {} has no batching rule: loop over the examples, or compute it in other operations"
    ),
    r"vmap over calling (\.item\(\))": (
        "the code calls {}, which has no single value under vmap: compute on the tensor, by torch.where for a branch, "
        "or loop over the examples"
    ),
    r"In order to use an (autograd\.Function) with functorch transforms": (
        "the code calls a torch.{} without setup_context, as torch.distributions.Dirichlet and Beta do, which "
        "torch.func cannot transform: loop over the examples, draw before the transform and pass it as an input, or "
        "write a forward without ctx and a setup_context"
    ),
    r"vmap: called (random operation) while in randomness error mode": (
        "the code has a {} from a generator of its own, which has no numbers for each example: draw without "
        "generator=, so that the draws come from rng, or pass what is drawn as an input"
    ),
    r"vmap: (?:aten::)?(inplace arithmetic|\w+)\(self, \*extra_args\) is not possible": (
        "the code writes in place, by torch's {}, to a tensor that is one for all examples what differs between them. "
        "Make that tensor from what differs (x.new_zeros(size)), compute out of place (a cache that grows by "
        "torch.cat), or pass it as an input that has the axis of the examples"
    ),
    r"attempting to use a Tensor in some data-dependent (control flow)": (
        "the code has {} that depends on data, which is not one branch for all under vmap: write torch.where, or loop "
        "over the examples"
    ),
}


def describe_missing_rule(error: Exception) -> str | None:
    """A missing rule that an error of torch is about, with the way out; None for any other error.

    >>> describe_missing_rule(RuntimeError("derivative for aten::glu_jvp is not implemented")).split(":")[0]
    "torch's glu_jvp has no derivative"
    """
    if not isinstance(error, RuntimeError):
        return None
    for pattern, way_out in _WAYS_OUT.items():
        match = re.search(pattern, str(error))
        if match is not None:
            return way_out.format(match[1].rstrip("."))
    return None
