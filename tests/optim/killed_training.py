"""A training run that is killed at random moments and goes on from its file; run as a program, it prints the outcome.

The process forks for each part of the run, so that torch is imported once, and kills the child without warning.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import funcnet as fn

TARGETS: dict[str, dict[str, str]] = {"run.pt": {}, "run.safetensors": {}, "run": {"format": "dcp"}}
NET = fn.Sequential(fn.Linear(8, 32), fn.BatchNorm1d(32), fn.ReLU(), fn.Dropout(0.2), fn.Linear(32, 4))
OPTIMIZER = fn.optim.AdamW(lr=1e-2, weight_decay=0.1, groups={"**.bias": {"weight_decay": 0.0}})
SCHEDULE = fn.optim.CosineAnnealingLR(OPTIMIZER, 200)
EMA = fn.optim.EMA(0.9)


def start_run() -> dict[str, Any]:
    params, buffers = NET.init(0)
    return {
        "params": params,
        "buffers": buffers,
        "optimizer": OPTIMIZER.init(params),
        "ema": EMA.init(params),
        "key": fn.random.key(1),
        "step": 0,
        "name": "killed",
        "best": float("inf"),
    }


def take_step(run: dict[str, Any]) -> dict[str, Any]:
    """The training state one step later; all that the step depends on is in the state."""
    key = fn.random.fold_in(run["key"], run["step"])
    generator = torch.Generator().manual_seed(run["step"])
    x, y = torch.randn(16, 8, generator=generator), torch.randint(4, (16,), generator=generator)

    def loss(params: Any) -> tuple[Tensor, Any]:
        logits, buffers = NET.apply(params, run["buffers"], x, train=True, rng=key)
        return F.cross_entropy(logits, y), buffers

    (value, buffers), grads = fn.value_and_grad(loss, has_aux=True)(run["params"])
    grads, _ = fn.optim.clip_grad_norm(grads, 1.0)
    params, state = OPTIMIZER.step(run["params"], grads, run["optimizer"], lr=SCHEDULE(run["step"]))
    return {
        "params": params,
        "buffers": buffers,
        "optimizer": state,
        "ema": EMA.update(run["ema"], params),
        "key": run["key"],
        "step": run["step"] + 1,
        "name": run["name"],
        "best": min(run["best"], value.item()),
    }


def resume(path: Path) -> dict[str, Any]:
    return fn.checkpoint.load(path).tree() if path.exists() else start_run()


def train(path: Path, steps: int, options: dict[str, str]) -> None:
    run = resume(path)
    while run["step"] < steps:
        run = take_step(run)
        fn.checkpoint.save(path, run, **options)


def fork_training(path: Path, steps: int, options: dict[str, str]) -> int:
    child = os.fork()
    if child == 0:
        train(path, steps, options)
        os._exit(0)
    return child


def list_differences(left: Any, right: Any) -> list[str]:
    """The paths at which two training states do not have the same bits."""
    left, right = fn.tree.flatten(left), fn.tree.flatten(right)
    return [
        path
        for path in left.keys() | right.keys()
        if path not in left or path not in right or not _is_same(left[path], right[path])
    ]


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and left == right


def main() -> None:
    folder, rounds, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(20261129)
    torch.set_num_threads(1)
    take_step(start_run())
    rows = []
    for target, options in TARGETS.items():
        path = folder / target
        began = time.perf_counter()
        os.waitpid(fork_training(folder / f"timed-{target}", 6, options), 0)
        seconds = time.perf_counter() - began
        kills = 0
        for _ in range(rounds):
            child = fork_training(path, (resume(path)["step"] if path.exists() else 0) + 6, options)
            time.sleep(rng.uniform(0.0, seconds))
            os.kill(child, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        steps_at_kill = resume(path)["step"]
        steps = steps_at_kill + 3
        _, status = os.waitpid(fork_training(path, steps, options), 0)
        expected = start_run()
        for _ in range(steps):
            expected = take_step(expected)
        differences = list_differences(resume(path), expected) if status == 0 else [f"exit status {status}"]
        rows.append({"target": target, "kills": kills, "steps": steps_at_kill, "differences": differences})
    print(json.dumps({"rows": rows, "left": [str(path) for path in folder.rglob("*.partial")]}))


if __name__ == "__main__":
    main()
