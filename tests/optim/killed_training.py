"""A training run that is killed at random moments and goes on from its file; run as a program, it prints the outcome.

The process forks for each part of the run, so that torch is imported once, and kills the child without warning: a
random number of saved steps after it began, and a random part of a step later. The child says by a pipe when a step is
saved, and would never end by itself, so that every kill meets a run, however busy the machine is.
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


def train(path: Path, steps: float, options: dict[str, str], progress: int | None = None) -> None:
    """Train until this many steps are done, and write a byte to the pipe ``progress`` after each one that is saved."""
    run = resume(path)
    while run["step"] < steps:
        run = take_step(run)
        fn.checkpoint.save(path, run, **options)
        if progress is not None:
            os.write(progress, b".")


def fork_training(path: Path, steps: float, options: dict[str, str], progress: int | None = None) -> int:
    child = os.fork()
    if child == 0:
        train(path, steps, options, progress)
        os._exit(0)
    return child


def kill_training(path: Path, options: dict[str, str], rng: random.Random) -> bool:
    """Whether a run that had saved some steps more was ended by a kill, as opposed to an error of its own."""
    reader, writer = os.pipe()
    child = fork_training(path, float("inf"), options, writer)
    os.close(writer)
    began = time.perf_counter()
    saved = 0
    for _ in range(rng.randrange(4)):
        saved += len(os.read(reader, 1))  # none where the child has ended
    time.sleep(rng.random() * (time.perf_counter() - began) / saved if saved else rng.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


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
        kills = sum(kill_training(path, options, rng) for _ in range(rounds))
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
