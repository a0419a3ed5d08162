"""The transforms that torch.func leaves to be desired; all others (vmap, jvp, hessian) are torch.func's."""

from funcnet.transforms._grad import value_and_grad as value_and_grad
