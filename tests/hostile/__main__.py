"""Open every hostile file in a process of its own, and print what came of each as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from funcnet.checkpoint import convert, load
from tests.hostile.files import CASES, MARK


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def attempt(action):
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def read_all(path):
    ckpt = load(path)
    for name in ckpt:
        ckpt[name]


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def main():
    root = Path(sys.argv[1])
    rows = {}
    for name, build in CASES.items():
        folder = root / name
        folder.mkdir()
        path = build(folder)
        mark = root / f"{name}.mark"
        os.environ[MARK] = str(mark)
        before = listing(folder)
        Path("/proc/self/clear_refs").write_text("5")
        base, start = peak(), time.perf_counter()
        reading = attempt(lambda path=path: read_all(path))
        converting = [
            attempt(lambda path=path, dst=dst: convert(path, folder / dst))  # noqa: B023
            for dst in ("out.safetensors", "out.pt", "out")
        ]
        rows[name] = {
            "reading": reading,
            "converting": converting,
            "seconds": time.perf_counter() - start,
            "memory": peak() - base,
            "left": sorted(set(listing(folder)) ^ set(before)),
            "called": mark.exists(),
        }
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
