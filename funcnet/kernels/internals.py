"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.kernels import _node_recipes as _node_recipes
from funcnet.kernels._ctc_by_steps import Lengths as Lengths
from funcnet.kernels._kernel_interception import UNRULED_KERNEL_NAMES as UNRULED_KERNEL_NAMES
from funcnet.kernels._kernel_interception import KernelInterceptor as KernelInterceptor
from funcnet.kernels._kernel_interception import kernels_lack_rules as kernels_lack_rules
from funcnet.kernels._losses import reduce_loss as reduce_loss
from funcnet.kernels._missing_rules import describe_missing_rule as describe_missing_rule
from funcnet.kernels._norms import flatten_space_for_compiler as flatten_space_for_compiler
from funcnet.kernels._norms import guard_batch_norm_gradient as guard_batch_norm_gradient
from funcnet.kernels._norms import guard_instance_norm_gradient as guard_instance_norm_gradient
from funcnet.kernels._recurrent_cells_composed import CELL_STEPS as CELL_STEPS
from funcnet.kernels._recurrent_cells_composed import CellStep as CellStep
from funcnet.kernels._recurrent_cells_composed import State as State
from funcnet.kernels._recurrent_cells_composed import run_layer as run_layer
from funcnet.kernels._recurrent_cells_composed import step_gru as step_gru
from funcnet.kernels._recurrent_cells_composed import step_lstm as step_lstm
from funcnet.kernels._recurrent_cells_composed import step_rnn_relu as step_rnn_relu
from funcnet.kernels._recurrent_cells_composed import step_rnn_tanh as step_rnn_tanh
from funcnet.kernels._recurrent_kernels import RECURRENT_KERNELS as RECURRENT_KERNELS
from funcnet.kernels._recurrent_kernels import divide_by_direction as divide_by_direction
from funcnet.kernels._second_derivatives import allow_second_derivatives_within as allow_second_derivatives_within
from funcnet.kernels._weight_norm import slice_lengths as slice_lengths
from funcnet.kernels._wrong_kernels import WrongKernelWatch as WrongKernelWatch
from funcnet.kernels._wrong_kernels import find_wrong_kernel as find_wrong_kernel
