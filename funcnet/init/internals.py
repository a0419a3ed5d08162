"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.init._schemes import TensorRequest as TensorRequest
from funcnet.init._schemes import nested_tuples as nested_tuples
