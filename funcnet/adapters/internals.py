"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.adapters._from_module import list_params as list_params
from funcnet.adapters._wrapper_names import rename_unwrapped as rename_unwrapped
