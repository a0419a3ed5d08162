"""What other rooms use of this one, besides its public names; it is no part of the public interface."""

from funcnet.init._schemes import TensorRequest as TensorRequest
from funcnet.init._schemes import nested_tuples as nested_tuples
