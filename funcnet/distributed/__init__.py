"""Training and all derivatives on many ranks: params as trees of DTensors, losses as on one machine.

world_mesh            is a mesh of the processes that torchrun started, for a block.
shard                 puts a tree in pieces on the ranks of a mesh, by a plan.
gather                returns the tree with whole plain tensors, on every rank.
rows                  returns this rank's part of a batch.
describe              says which rank holds what of a tree, in bytes.
value_and_grad        returns the value of a loss for the whole batch, and its gradient, placed as the params are.
global_loss           returns the loss itself as a function of placed params, for derivatives of any kind.
tensor_parallel_plan  returns the plan by which ranks share every layer of a model of ``fn.models``.
save                  writes a tree to a new folder, complete or not to be seen.
save_async            does so while the program goes on.
load                  reads the newest complete checkpoint on any number of ranks.

The engine is torch.distributed: DeviceMesh, DTensor, its collectives and torchrun. Within a loss all tensors are plain
ones of this rank.
"""

from funcnet.distributed._checkpoints import PendingSave as PendingSave
from funcnet.distributed._checkpoints import load as load
from funcnet.distributed._checkpoints import save as save
from funcnet.distributed._checkpoints import save_async as save_async
from funcnet.distributed._describe import describe as describe
from funcnet.distributed._global_loss import global_loss as global_loss
from funcnet.distributed._global_loss import value_and_grad as value_and_grad
from funcnet.distributed._shard import gather as gather
from funcnet.distributed._shard import rows as rows
from funcnet.distributed._shard import shard as shard
from funcnet.distributed._tensor_parallel import tensor_parallel_plan as tensor_parallel_plan
from funcnet.distributed._world_mesh import world_mesh as world_mesh

__all__ = [
    "PendingSave",
    "describe",
    "gather",
    "global_loss",
    "load",
    "rows",
    "save",
    "save_async",
    "shard",
    "tensor_parallel_plan",
    "value_and_grad",
    "world_mesh",
]


def __dir__() -> list[str]:
    return [*__all__]
