"""Steps on several ranks of this machine: fn.distributed beside DDP and FSDP2, interleaved in one run.

``python -m tests.benchmarks.distributed [ranks]`` prints, for a row of 12 blocks: the seconds of a step (the median of
the slowest rank), the most memory above what a rank holds anyway, as a part of the bytes of all params, and the number
of collectives.
"""

from __future__ import annotations

import contextlib
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import funcnet as fn
from funcnet import distributed as fd
from tests.distributed.ranks import run_on_ranks

SIZE, BLOCKS, TOKENS, REPEATS = 384, 12, 64, 9


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(SIZE), nn.Linear(SIZE, 4 * SIZE), nn.Linear(4 * SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def make_steps(mesh: Any) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(BLOCKS)])
    x = torch.randn(TOKENS, SIZE)

    def step_of_module(module: nn.Module) -> Callable[[], None]:
        def step() -> None:
            module.zero_grad(set_to_none=True)
            module(x).square().mean().backward()

        return step

    sharded = copy.deepcopy(model)
    for block in sharded:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    net, params, _ = fn.from_module(model)

    def loss(params: Any, x: Tensor) -> Tensor:
        return net(params, x).square().mean()

    whole, pieces = fd.shard(params, mesh, {"**": None}), fd.shard(params, mesh)
    parallel = fd.value_and_grad(loss, mesh)
    by_units = fd.value_and_grad(loss, mesh, units="*")
    return {
        "DDP": step_of_module(DistributedDataParallel(copy.deepcopy(model))),
        "fn.distributed, whole": lambda: parallel(whole, x),
        "FSDP2": step_of_module(sharded),
        "fn.distributed, units": lambda: by_units(pieces, x),
        "fn.distributed, all at once": lambda: parallel(pieces, x),
    }


def measure_rank(mesh: Any) -> dict[str, tuple[list[float], float, int]]:
    steps = make_steps(mesh)
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            result = step()
            dist.barrier()
            seconds[name].append(time.perf_counter() - start)
            del result
    whole_bytes = BLOCKS * 4 * (8 * SIZE * SIZE + 7 * SIZE)
    return {
        name: (seconds[name], measure_peak(step) / whole_bytes, count_collectives(step)) for name, step in steps.items()
    }


def measure_peak(step: Callable[[], Any]) -> int:
    """The most bytes that a step has allocated at a time, beyond those from before it."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    del result
    events.sort(key=lambda event: event["ts"])
    peak, bytes_by_address = 0, {}
    for event in events:  # by address, because not every release is told
        bytes_by_address[event["args"]["Addr"]] = max(int(event["args"]["Bytes"]), 0)
        peak = max(peak, sum(bytes_by_address.values()))
    return peak


def count_collectives(step: Callable[[], Any]) -> int:
    with CommDebugMode() as mode, contextlib.redirect_stdout(sys.stderr):
        step()
    return mode.get_total_counts()


def main() -> None:
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    by_rank = run_on_ranks(ranks, measure_rank, seconds=500.0)
    print(f"{ranks} ranks: {'':21} seconds (median, least)  memory / params  collectives")
    for name in by_rank[0]:
        slowest = [max(one) for one in zip(*[results[name][0] for results in by_rank], strict=True)]
        peak = max(results[name][1] for results in by_rank)
        print(f"{name:30}  {statistics.median(slowest):8.4f} {min(slowest):8.4f}  {peak:8.2f}  {by_rank[0][name][2]:8}")


if __name__ == "__main__":
    main()
