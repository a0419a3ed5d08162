"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.kernels._norms import flatten_space_for_compiler as flatten_space_for_compiler
from funcnet.kernels._norms import guard_batch_norm_gradient as guard_batch_norm_gradient
from funcnet.kernels._norms import guard_instance_norm_gradient as guard_instance_norm_gradient
