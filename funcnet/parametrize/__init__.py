"""Nets whose tensors are computed from others: weight_norm, spectral_norm, orthogonal, or any function or net.

The functions have the names and arguments of torch.nn.utils.parametrize and torch.nn.utils.parametrizations. They take
a net and return a new one, whose params have the keys of the parametrized module. Its body is the one of the net given;
it sees the computed tensor wherever it reads it by name, as in the module.

Reading order: ``_parametrized`` (the record), ``_stock`` and ``_maps`` (torch's own parametrizations),
``_first_values`` (initialisation), ``_twins`` (modules), ``_verbs`` (the public functions).
"""

from funcnet.parametrize._verbs import is_parametrized as is_parametrized
from funcnet.parametrize._verbs import orthogonal as orthogonal
from funcnet.parametrize._verbs import register_parametrization as register_parametrization
from funcnet.parametrize._verbs import remove_parametrizations as remove_parametrizations
from funcnet.parametrize._verbs import spectral_norm as spectral_norm
from funcnet.parametrize._verbs import weight_norm as weight_norm
