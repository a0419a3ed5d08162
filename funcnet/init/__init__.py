"""Initial values as pure functions: ``scheme(rng, shape) -> tensor``, one for each in-place function of torch.nn.init.

A scheme is a small hashable record, so a net that holds one stays a value. Names, arguments and defaults are those of
``torch.nn.init`` without the trailing underscore; with an int seed the numbers are torch's too.
"""

from funcnet.init._schemes import Draw as Draw
from funcnet.init._schemes import Scheme as Scheme
from funcnet.init._schemes import as_scheme as as_scheme
from funcnet.init._schemes import constant as constant
from funcnet.init._schemes import dirac as dirac
from funcnet.init._schemes import eye as eye
from funcnet.init._schemes import kaiming_normal as kaiming_normal
from funcnet.init._schemes import kaiming_uniform as kaiming_uniform
from funcnet.init._schemes import normal as normal
from funcnet.init._schemes import ones as ones
from funcnet.init._schemes import orthogonal as orthogonal
from funcnet.init._schemes import trunc_normal as trunc_normal
from funcnet.init._schemes import uniform as uniform
from funcnet.init._schemes import values as values
from funcnet.init._schemes import xavier_normal as xavier_normal
from funcnet.init._schemes import xavier_uniform as xavier_uniform
from funcnet.init._schemes import zeros as zeros
