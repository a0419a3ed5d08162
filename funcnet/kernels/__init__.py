"""Functions of torch in composed form: what they compute, in operations that have every derivative and batching rule.

Torch's own kernels are faster. Layers of funcnet take a composed form where the kernel has no rule for what is asked of
it, or a wrong one (see ``funcnet/layers/WRONG_KERNELS.md``).

layer_norm       is torch.nn.functional.layer_norm, whose directional derivatives can be differentiated.
batch_norm       is torch.nn.functional.batch_norm, likewise.
instance_norm    is torch.nn.functional.instance_norm, likewise.
scaled_dot_product_attention   is attention without dropout.
mse_loss                       is the squared difference.
huber_loss                     is squared near zero and linear beyond.
soft_margin_loss               is the logistic loss of targets 1 and -1.
multi_margin_loss              is the hinge loss of one class.
multilabel_margin_loss         is the hinge loss of several classes.
ctc_loss                       is the loss of sequences that are aligned in any way.
hardsigmoid                    is a sigmoid of straight lines.
glu                            is one half of the input times the sigmoid of the other.
embedding_bag                  sums, averages or takes maxima over bags of rows.
cdist                          is the distance between all pairs of two sets of vectors.
pdist                          is the distance between all pairs of one set.
solve                          is the solution of linear equations, in the bits of torch.linalg.solve.
householder_product            is the product of reflections.
weight_norm                    is a weight of given lengths and directions.
"""

from funcnet.kernels._activations import glu as glu
from funcnet.kernels._activations import hardsigmoid as hardsigmoid
from funcnet.kernels._attention_kernel import scaled_dot_product_attention as scaled_dot_product_attention
from funcnet.kernels._ctc_by_steps import ctc_loss as ctc_loss
from funcnet.kernels._distances import cdist as cdist
from funcnet.kernels._distances import pdist as pdist
from funcnet.kernels._embedding_bag_rows import embedding_bag as embedding_bag
from funcnet.kernels._linear_algebra import householder_product as householder_product
from funcnet.kernels._linear_algebra import solve as solve
from funcnet.kernels._losses import huber_loss as huber_loss
from funcnet.kernels._losses import mse_loss as mse_loss
from funcnet.kernels._losses import multi_margin_loss as multi_margin_loss
from funcnet.kernels._losses import multilabel_margin_loss as multilabel_margin_loss
from funcnet.kernels._losses import soft_margin_loss as soft_margin_loss
from funcnet.kernels._norms import batch_norm as batch_norm
from funcnet.kernels._norms import instance_norm as instance_norm
from funcnet.kernels._norms import layer_norm as layer_norm
from funcnet.kernels._weight_norm import weight_norm as weight_norm

__all__ = [
    "batch_norm",
    "cdist",
    "ctc_loss",
    "embedding_bag",
    "glu",
    "hardsigmoid",
    "huber_loss",
    "instance_norm",
    "layer_norm",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "pdist",
    "scaled_dot_product_attention",
    "soft_margin_loss",
    "weight_norm",
]


def __dir__() -> list[str]:
    return [*__all__]
