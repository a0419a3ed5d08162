"""Ranks killed at several moments of a save: a restart has the bits of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

import funcnet as fn
from funcnet import distributed as fd
from tests.distributed.ranks import run_on_ranks

NET = fn.Sequential(fn.Linear(6, 32), fn.Tanh(), fn.Dropout(0.2), fn.Linear(32, 1))
STEPS = 20


def loss(params: Any, x: torch.Tensor, rng: torch.Tensor) -> torch.Tensor:
    return NET.apply(params, {}, x, train=True, rng=rng)[0].square().mean()


def train(mesh: DeviceMesh, folder: str, killed_rank: int = -1, step: int = 0, seconds: float = 0.0) -> Any:
    """The params and the state after all steps, from the newest checkpoint of a folder on.

    Args:
        mesh, folder: where the training runs, and where it saves after each step.
        killed_rank: the rank that dies; -1 for none.
        step, seconds: it dies so long after it began to save this step.
    """
    optimizer = fn.optim.AdamW(lr=1e-2)
    try:
        run = fd.load(folder, mesh)
    except fn.checkpoint.CheckpointError:
        params = fd.shard(NET.init(0)[0], mesh)
        run = {"params": params, "state": optimizer.init(params), "step": 0}
    compute = fd.value_and_grad(loss, mesh, batch=1)
    x = fd.rows(torch.arange(48.0).view(8, 6) / 48, mesh)
    while run["step"] < STEPS:
        _, grads = compute(run["params"], x, rng=fn.random.fold_in(fn.random.key(0), run["step"]))
        params, state = optimizer.step(run["params"], grads, run["state"])
        run = {"params": params, "state": state, "step": run["step"] + 1}
        if mesh.get_rank() == killed_rank and run["step"] == step:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        fd.save(folder, run)
    whole = fn.tree.flatten(fd.gather({"params": run["params"], "state": run["state"]}))
    return {path: value.tolist() for path, value in whole.items() if isinstance(value, torch.Tensor)}


KILLS = ((0, 2, 0.0), (1, 3, 0.002), (0, 5, 0.01), (1, 7, 0.03))
"""A rank, and when it dies. A run goes on from what the one before it left, so the steps grow."""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    expected, _ = run_on_ranks(2, train, str(tmp_path / "undisturbed"))
    folder = str(tmp_path / "disturbed")
    for kill in KILLS:
        with pytest.raises(AssertionError, match=r"^rank \d: "):  # the rank that was killed, or one that misses it
            run_on_ranks(2, train, folder, *kill)
    assert run_on_ranks(2, train, folder) == [expected, expected]
