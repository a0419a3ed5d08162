"""Machinery of this package that needs DTensors, whose import takes a second: other packages import it when they do."""

from funcnet.ranks._collectives import ShardedAxis as ShardedAxis
from funcnet.ranks._placed_tensors import TensorPlacement as TensorPlacement
from funcnet.ranks._placed_tensors import find_piece as find_piece
from funcnet.ranks._placed_tensors import gather_whole_values as gather_whole_values
from funcnet.ranks._placed_tensors import gather_wholes as gather_wholes
from funcnet.ranks._placed_tensors import mesh_groups as mesh_groups
from funcnet.ranks._placed_tensors import place_local as place_local
from funcnet.ranks._placed_tensors import placement_of as placement_of
from funcnet.ranks._placed_tensors import read_placement as read_placement
from funcnet.ranks._placed_tensors import take_local as take_local
from funcnet.ranks._unit_gathering import Units as Units
from funcnet.ranks._unit_gathering import whole_params as whole_params
