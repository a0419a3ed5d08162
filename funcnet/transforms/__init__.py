"""Transforms that torch.func does not have in this form; all others (vmap, jvp, hessian) are those of torch.func."""

from funcnet.transforms._grad import value_and_grad as value_and_grad
