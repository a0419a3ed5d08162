"""Machinery of initialisation that other packages of funcnet use. It is not for users and may change at any time."""

from funcnet.init._schemes import TensorRequest as TensorRequest
from funcnet.init._schemes import nested_tuples as nested_tuples
