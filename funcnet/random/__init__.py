"""Randomness as an argument: keys, and the draws made from them.

The global generator of torch is never read and never moved. Wherever funcnet takes ``rng=``, that is either

* a **Key** (:func:`key`, :func:`split`, :func:`fold_in`): a 0-d int64 tensor. A draw depends on the key, on the path of
  the net that draws and on how often it drew before, and on nothing else: adding a layer reshuffles no other layer.
  Keys work under grad, vmap, ``torch.compile(fullgraph=True)`` and export.
* or a plain **int** seed: the draws that ``torch.manual_seed(seed)`` followed by the module would make, bit for bit.
  This is torch's own sequential generator, so it is for eager calls outside vmap.
"""

from funcnet.random._attention import scaled_dot_product_attention as scaled_dot_product_attention
from funcnet.random._by_path import ByPath as ByPath
from funcnet.random._draws import At as At
from funcnet.random._draws import Rng as Rng
from funcnet.random._draws import Stream as Stream
from funcnet.random._draws import as_rng as as_rng
from funcnet.random._draws import at_path as at_path
from funcnet.random._draws import bernoulli as bernoulli
from funcnet.random._draws import normal as normal
from funcnet.random._draws import uniform as uniform
from funcnet.random._dropout import alpha_dropout as alpha_dropout
from funcnet.random._dropout import dropout as dropout
from funcnet.random._dropout import feature_alpha_dropout as feature_alpha_dropout
from funcnet.random._dropout import feature_dropout as feature_dropout
from funcnet.random._intercept import LENDING as LENDING
from funcnet.random._intercept import OF_MODULES as OF_MODULES
from funcnet.random._intercept import Intercept as Intercept
from funcnet.random._intercept import drawn as drawn
from funcnet.random._keys import fold_in as fold_in
from funcnet.random._keys import key as key
from funcnet.random._keys import split as split
from funcnet.random._others import names_in as names_in
from funcnet.random._others import others_lent as others_lent
from funcnet.random._rrelu import rrelu as rrelu
