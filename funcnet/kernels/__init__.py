"""Functions of torch in composed form: what they compute, in operations that have every derivative and batching rule.

Torch's own kernels are faster. Layers of funcnet take a composed form where the kernel has no rule for what is asked of
it, or a wrong one (see ``funcnet/layers/WRONG_KERNELS.md``).

layer_norm       is torch.nn.functional.layer_norm, whose directional derivatives can be differentiated.
batch_norm       is torch.nn.functional.batch_norm, likewise.
instance_norm    is torch.nn.functional.instance_norm, likewise.
"""

from funcnet.kernels._norms import batch_norm as batch_norm
from funcnet.kernels._norms import instance_norm as instance_norm
from funcnet.kernels._norms import layer_norm as layer_norm

__all__ = ["batch_norm", "instance_norm", "layer_norm"]


def __dir__() -> list[str]:
    return [*__all__]
