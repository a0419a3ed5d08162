"""The mesh of the processes that torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@contextlib.contextmanager
def world_mesh(
    shape: Sequence[int] | None = None, *, names: Sequence[str] | None = None, device: str | None = None
) -> Iterator[DeviceMesh]:
    """A mesh of all processes, for a block: those that torchrun started, or this one alone where there are no others.

    So one program runs on one process, on many, and without torchrun. A process group that exists already is taken, and
    left as it is; else one is made, and ended after the block.

    Args:
        shape: how many ranks each axis has; by default one axis with all of them.
        names: a name for each axis.
        device: the type of device that tensors are on; by default "cuda" where there is one for each process of the
            machine, else "cpu".

    >>> with world_mesh() as mesh:
    ...     mesh.size()
    1
    """
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = device or ("cuda" if torch.cuda.device_count() >= processes_here else "cpu")
    starts_group = not dist.is_initialized()
    if starts_group:
        backend = "nccl" if device == "cuda" else "gloo"
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]  # it is there, and not in its list of names
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        sizes = (dist.get_world_size(),) if shape is None else tuple(shape)
        yield init_device_mesh(device, sizes, mesh_dim_names=None if names is None else tuple(names))
    finally:
        if starts_group:
            dist.destroy_process_group()
