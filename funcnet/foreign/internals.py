"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.foreign._carried_values import EXTRA_STATE as EXTRA_STATE
from funcnet.foreign._carried_values import UNKNOWN_VALUE as UNKNOWN_VALUE
from funcnet.foreign._input_copies import copy_inputs as copy_inputs
from funcnet.foreign._isolated_copies import copy_with_tensors as copy_with_tensors
from funcnet.foreign._module_walk import named_modules as named_modules
from funcnet.foreign._module_walk import named_tensors as named_tensors
from funcnet.foreign._module_walk import train_flags as train_flags
from funcnet.foreign._module_walk import unwrap_module as unwrap_module
from funcnet.foreign._outside_parameters import check_outside_parameters as check_outside_parameters
