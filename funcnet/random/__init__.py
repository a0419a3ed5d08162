"""Randomness as an argument: keys, and the draws made from them.

key                           makes a Key from an int.
split                         makes independent Keys from one.
fold_in                       makes the Key for a number under a Key.
uniform                       draws a tensor of uniform numbers.
normal                        draws a tensor of normal numbers.
normal_like                   draws normal numbers for every leaf of a tree.
bernoulli                     draws a tensor of zeros and ones.
dropout                       zeroes elements at random, and scales the others.
feature_dropout               zeroes whole channels.
alpha_dropout                 replaces elements by SELU's limit, keeping mean and variance.
feature_alpha_dropout         does so with whole channels.
rrelu                         is the leaky ReLU with random slopes.
scaled_dot_product_attention  is attention with dropout of its weights.
drawn                         calls any other function of torch that draws.

``ByPath`` lets plain code draw by path, as a net does. ``Rng`` is the type of what all of these draw from: a Key, or
what a body has as ``p.rng``, which for an int seed is a ``Stream``.

No call leaves the global generator of torch moved. Wherever funcnet takes ``rng=``, that is either

* a **Key** (:func:`key`, :func:`split`, :func:`fold_in`): a 0-d int64 tensor. A draw depends on the key, on the path of
  the net that draws and on how often it drew before, and on nothing else: adding a layer reshuffles no other layer.
  Keys work under grad, vmap, ``torch.compile(fullgraph=True)`` and export.
* or a plain **int** seed: the draws that ``torch.manual_seed(seed)`` followed by the module would make, bit for bit.
  This is torch's own sequential generator, so it is for eager calls outside vmap.
"""

from funcnet.random._attention_function import scaled_dot_product_attention as scaled_dot_product_attention
from funcnet.random._distributions import bernoulli as bernoulli
from funcnet.random._distributions import normal as normal
from funcnet.random._distributions import normal_like as normal_like
from funcnet.random._distributions import uniform as uniform
from funcnet.random._dropout_functions import alpha_dropout as alpha_dropout
from funcnet.random._dropout_functions import dropout as dropout
from funcnet.random._dropout_functions import feature_alpha_dropout as feature_alpha_dropout
from funcnet.random._dropout_functions import feature_dropout as feature_dropout
from funcnet.random._generators import Rng as Rng
from funcnet.random._generators import Stream as Stream
from funcnet.random._interception import drawn as drawn
from funcnet.random._keys import fold_in as fold_in
from funcnet.random._keys import key as key
from funcnet.random._keys import split as split
from funcnet.random._program_draws import ByPath as ByPath
from funcnet.random._rrelu_function import rrelu as rrelu

__all__ = [
    # keys
    "key",
    "split",
    "fold_in",
    # new tensors
    "uniform",
    "normal",
    "normal_like",
    "bernoulli",
    # torch's functions, with their randomness as an argument
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "rrelu",
    "scaled_dot_product_attention",
    "drawn",
    # what draws come from
    "ByPath",
    "Rng",
    "Stream",
]


def __dir__() -> list[str]:
    return [*__all__]
