"""Nested dicts of tensors: paths, selectors and maps.

paths            lists the joined paths of all leaves.
flatten          returns the leaves by joined path, as in a state_dict.
unflatten        makes nested dicts of such leaves again.
get              returns the leaf or subtree at a path.
join             joins keys to a path.
map              applies a function to every leaf of one or more trees.
map_with_path    applies a function of the path and the leaf.
to               moves or casts every tensor, as ``nn.Module.to`` does.
select           returns a test of paths: by exact path, by pattern, by function, or by any of several.
partition        divides a tree into the leaves that are selected and the others.
combine          puts the two trees of a partition together again.
replace          returns a tree with other leaves at some paths.
add              returns the sum of two trees, leaf by leaf.
sub              returns the difference of two trees, leaf by leaf.
scale            returns the multiple of a tree.
norm             returns the norm of a tree, as if it were one vector.
dot              returns the inner product of two trees, as if each were one vector.
zeros_like       returns zeros of a tree's shapes.
ravel            returns the vector of all numbers of a tree, and a function that makes a tree of a vector.
stack            makes one tree of the members of an ensemble.
unstack          makes the members of an ensemble of one tree.

Params and buffers are plain nested dicts whose keys and order are the module's own. optree, torch's pytrees and JAX's
each read such dicts, but they disagree about the order of keys (optree sorts) and about ``None``. So all functions here
go by path, and this folder alone says what a path is: keys joined with dots, as in a ``state_dict``. ``ABSENT`` stands
in a tree where a leaf was taken out.
"""

from funcnet.tree._absent import ABSENT as ABSENT
from funcnet.tree._absent import Absent as Absent
from funcnet.tree._arithmetic import add as add
from funcnet.tree._arithmetic import dot as dot
from funcnet.tree._arithmetic import norm as norm
from funcnet.tree._arithmetic import scale as scale
from funcnet.tree._arithmetic import sub as sub
from funcnet.tree._arithmetic import zeros_like as zeros_like
from funcnet.tree._partition import combine as combine
from funcnet.tree._partition import partition as partition
from funcnet.tree._partition import replace as replace
from funcnet.tree._paths import flatten as flatten
from funcnet.tree._paths import get as get
from funcnet.tree._paths import join as join
from funcnet.tree._paths import map as map
from funcnet.tree._paths import map_with_path as map_with_path
from funcnet.tree._paths import paths as paths
from funcnet.tree._paths import to as to
from funcnet.tree._paths import unflatten as unflatten
from funcnet.tree._ravel import ravel as ravel
from funcnet.tree._select import select as select
from funcnet.tree._stack import stack as stack
from funcnet.tree._stack import unstack as unstack

__all__ = [
    "ABSENT",
    "Absent",
    "add",
    "combine",
    "dot",
    "flatten",
    "get",
    "join",
    "map",
    "map_with_path",
    "norm",
    "partition",
    "paths",
    "ravel",
    "replace",
    "scale",
    "select",
    "stack",
    "sub",
    "to",
    "unflatten",
    "unstack",
    "zeros_like",
]


def __dir__() -> list[str]:
    return [*__all__]
