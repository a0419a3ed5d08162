"""What other rooms use of this one, besides its public names; it is no part of the public interface."""

from funcnet.core._check import check_trees as check_trees
from funcnet.core._check import misfits as misfits
from funcnet.core._check import refuse as refuse
from funcnet.core._edits import Edits as Edits
from funcnet.core._entries import exact_dtype as exact_dtype
from funcnet.core._explain import described as described
from funcnet.core._kinds import ForeignNet as ForeignNet
from funcnet.core._kinds import StockNet as StockNet
from funcnet.core._parts import check_part as check_part
from funcnet.core._start import Start as Start
from funcnet.core._ties import filled_in as filled_in
from funcnet.core._view import NOTHING as NOTHING
from funcnet.core._view import Call as Call
from funcnet.core._view import draws_at as draws_at
from funcnet.core._view import has as has
from funcnet.core._view import origin as origin
from funcnet.core._view import where as where
