"""Functions run on several ranks of one machine, in processes that end by themselves."""

from __future__ import annotations

import datetime
import socket
import traceback
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh


def run_on_ranks(count: int, function: Callable[..., Any], *args: Any, seconds: float = 120.0) -> list[Any]:
    """What ``function(mesh, *args)`` returns on each of ``count`` ranks; plain values, tensors made into lists.

    A rank that fails ends the others, and its traceback is the error.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results: Any = context.SimpleQueue()
    processes = [
        context.Process(target=_run_rank, args=(rank, count, port, results, function, args), daemon=True)
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    by_rank: dict[int, Any] = {}
    failures: dict[int, str] = {}
    try:
        while len(by_rank) + len(failures) < count and not failures:
            while not results.empty():
                rank, is_right, value = results.get()
                (by_rank if is_right else failures)[rank] = value
            for rank, process in enumerate(processes):
                if process.exitcode not in (None, 0) and rank not in by_rank and results.empty():
                    failures.setdefault(rank, f"the process ended with exit code {process.exitcode}")
            if datetime.datetime.now() > deadline:
                failures[-1] = f"ranks {sorted(set(range(count)) - set(by_rank))} took longer than {seconds} seconds"
            processes[0].join(0.02)
        if not failures:
            for process in processes:
                process.join(20)
    finally:
        for process in processes:
            process.kill()
    if failures:
        raise AssertionError("\n".join(f"rank {rank}: {text}" for rank, text in failures.items()))
    return [by_rank[rank] for rank in range(count)]


def _run_rank(rank: int, count: int, port: int, results: Any, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=count,
            timeout=datetime.timedelta(seconds=60),
        )
        value = function(init_device_mesh("cpu", (count,)), *args)
        dist.barrier()
        dist.destroy_process_group()
        results.put((rank, True, value))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
