"""Nets whose tensors are computed from others: weight_norm, spectral_norm, orthogonal, or any function or net.

The functions have the names and arguments of torch.nn.utils.parametrize and torch.nn.utils.parametrizations. They take
a net and return a new one, whose params have the keys of the parametrized module. Its body is that of the given net,
which sees the computed tensor wherever it reads it by name, as in the module.

- ``weight_norm(net, name)``: compute a tensor from its lengths and its direction.
- ``spectral_norm(net, name)``: divide a tensor by its largest singular value.
- ``orthogonal(net, name)``: make the columns or rows of a matrix orthonormal.
- ``register_parametrization(net, tensor_name, parametrization)``: compute a tensor by any function or net.
- ``is_parametrized(net, tensor_name)``: whether a net computes a tensor.
- ``remove_parametrizations(net, params, buffers, tensor_name)``: the net without them, and its trees.
"""

# Reading order: _parametrized (the record), _stock_parametrizations and _orthogonal_maps (those that torch has),
# _first_values (initialisation), _parametrized_modules (the twins), _registration (the public functions).

from funcnet.parametrize._registration import is_parametrized as is_parametrized
from funcnet.parametrize._registration import orthogonal as orthogonal
from funcnet.parametrize._registration import register_parametrization as register_parametrization
from funcnet.parametrize._registration import remove_parametrizations as remove_parametrizations
from funcnet.parametrize._registration import spectral_norm as spectral_norm
from funcnet.parametrize._registration import weight_norm as weight_norm

__all__ = [
    "is_parametrized",
    "orthogonal",
    "register_parametrization",
    "remove_parametrizations",
    "spectral_norm",
    "weight_norm",
]


def __dir__() -> list[str]:
    return [*__all__]
