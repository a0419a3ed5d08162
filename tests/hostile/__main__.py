"""Open every hostile file in a process of its own, and print what came of each as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from funcnet.checkpoint import convert, load
from tests.hostile.files import CASES, MARK


def peak_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def error_of(action):
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def read_all(path):
    ckpt = load(path)
    for name in ckpt:
        ckpt[name]


def list_files(folder):
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
        before = list_files(folder)
        Path("/proc/self/clear_refs").write_text("5")
        base, start = peak_memory(), time.perf_counter()
        reading = error_of(lambda path=path: read_all(path))
        converting = [
            error_of(lambda path=path, dst=dst: convert(path, folder / dst))  # noqa: B023
            for dst in ("out.safetensors", "out.pt", "out")
        ]
        rows[name] = {
            "reading": reading,
            "converting": converting,
            "seconds": time.perf_counter() - start,
            "memory": peak_memory() - base,
            "left": sorted(set(list_files(folder)) ^ set(before)),
            "called": mark.exists(),
        }
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
