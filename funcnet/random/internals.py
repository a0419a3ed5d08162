"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.random._distributions import contiguous_stride as contiguous_stride
from funcnet.random._distributions import draw_tensor as draw_tensor
from funcnet.random._draws_in_code import names_in_function as names_in_function
from funcnet.random._draws_in_code import names_in_methods as names_in_methods
from funcnet.random._draws_in_code import never_draws as never_draws
from funcnet.random._dropout_functions import DROPOUT_OF_MODULES as DROPOUT_OF_MODULES
from funcnet.random._generators import GLOBAL_GENERATORS_LOCK as GLOBAL_GENERATORS_LOCK
from funcnet.random._generators import GeneratorStates as GeneratorStates
from funcnet.random._generators import PythonGenerators as PythonGenerators
from funcnet.random._generators import RngArgument as RngArgument
from funcnet.random._generators import as_rng as as_rng
from funcnet.random._generators import is_only_drawer as is_only_drawer
from funcnet.random._generators import lend_python_generators as lend_python_generators
from funcnet.random._generators import preserve_torch_state as preserve_torch_state
from funcnet.random._generators import read_torch_state as read_torch_state
from funcnet.random._generators import restore_torch_state as restore_torch_state
from funcnet.random._generators import rng_at_path as rng_at_path
from funcnet.random._interception import FUNCTIONS_THAT_CALL_OTHERS as FUNCTIONS_THAT_CALL_OTHERS
from funcnet.random._interception import DrawInterceptor as DrawInterceptor
from funcnet.random._keys import KeyAtPath as KeyAtPath
