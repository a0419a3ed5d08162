"""Conversions that are killed at random moments; run as a program, it prints what each left as JSON.

The process forks for each conversion, so that torch is imported once, and kills the child without warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from funcnet.checkpoint import Transpose, convert, load, save
from tests.checkpoint.trees import bits_by_name

TARGETS = {"m.safetensors": {}, "m.pt": {}, "m.npz": {}, "shards": {"shard_size": "4MB"}, "dcp": {"format": "dcp"}}


def checkpoint_digest(path):
    """A hash of all that a checkpoint holds; an error if it is not whole."""
    return hashlib.sha256(repr(sorted(bits_by_name(load(path)).items())).encode()).hexdigest()


def fork_conversion(src, dst, options):
    child = os.fork()
    if child == 0:
        convert(src, dst, [Transpose("layers.{i}.w")], **options)
        os._exit(0)
    return child


def main():
    folder, rounds, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(20240229)
    tree = {"layers": {str(i): {"w": torch.randn(512, 700)} for i in range(12)}}
    save(folder / "src.safetensors", tree)
    rows = []
    for number in range(rounds):
        target, options = list(TARGETS.items())[number % len(TARGETS)]
        dst = folder / target
        if number < len(TARGETS) or rng.random() < 0.3:
            began = time.perf_counter()
            os.waitpid(fork_conversion(folder / "src.safetensors", folder / f"timed-{target}", options), 0)
            seconds = time.perf_counter() - began
            new = checkpoint_digest(folder / f"timed-{target}")
        target_exists = rng.random() < 0.7
        if target_exists:
            save(dst, {"old": torch.ones(3)}, **options)
        old = checkpoint_digest(dst) if dst.exists() else None
        child = fork_conversion(folder / "src.safetensors", dst, options)
        if rng.random() < 0.9:
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # where nothing killed it, the conversion comes to its end, however busy the machine is
        digest_after = checkpoint_digest(dst) if dst.exists() else None
        rows.append(
            {"target": target, "old": digest_after == old, "new": digest_after == new, "absent": digest_after is None}
        )
    for target, options in TARGETS.items():
        convert(folder / "src.safetensors", folder / target, [Transpose("layers.{i}.w")], **options)
    leftovers = [str(path) for path in folder.rglob("*.partial")]
    print(json.dumps({"rows": rows, "left": leftovers}))


if __name__ == "__main__":
    main()
