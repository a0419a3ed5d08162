"""Nested dicts of tensors: paths, selectors and maps.

Params and buffers are plain nested dicts whose keys and order are the module's own. optree, torch's pytrees and JAX's
each read such dicts, but they disagree about key order (optree sorts) and about ``None``; so everything here goes by
path, and this folder is the one place that says what a path is: keys joined with dots, as in a ``state_dict``.
"""

from funcnet.tree._absent import ABSENT as ABSENT
from funcnet.tree._absent import Absent as Absent
from funcnet.tree._partition import combine as combine
from funcnet.tree._partition import partition as partition
from funcnet.tree._partition import replace as replace
from funcnet.tree._paths import flatten as flatten
from funcnet.tree._paths import get as get
from funcnet.tree._paths import join as join
from funcnet.tree._paths import map as map
from funcnet.tree._paths import paths as paths
from funcnet.tree._paths import to as to
from funcnet.tree._paths import unflatten as unflatten
from funcnet.tree._select import select as select
