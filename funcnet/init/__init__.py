"""Initial values as pure functions: ``scheme(rng, shape) -> tensor``, one for each in-place function of torch.nn.init.

A scheme is a small hashable record, so a net that holds one stays a value. Names, arguments and defaults are those of
``torch.nn.init`` without the trailing underscore. With an int seed the numbers are torch's too.

zeros              zero everywhere.
ones               one everywhere.
constant           one number everywhere.
values             the numbers that nested lists or a tensor spell out.
eye                the identity as a matrix.
dirac              the identity as a convolution.
uniform            draws from a uniform distribution.
normal             draws from a normal distribution.
trunc_normal       draws from a normal distribution that is cut off at both ends.
xavier_uniform     uniform draws with a variance by fan_in and fan_out (Glorot and Bengio).
xavier_normal      normal draws with a variance by fan_in and fan_out.
kaiming_uniform    uniform draws with a variance by one fan (He et al.).
kaiming_normal     normal draws with a variance by one fan.
orthogonal         draws with orthogonal rows or columns.

as_scheme          makes a scheme of a number, nested lists, a function of torch.nn.init, or a function of your own.

``Scheme`` is the class of all schemes.
"""

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

__all__ = [
    "Scheme",
    "as_scheme",
    "constant",
    "dirac",
    "eye",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "trunc_normal",
    "uniform",
    "values",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def __dir__() -> list[str]:
    return [*__all__]
