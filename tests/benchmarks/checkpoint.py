"""Time and memory of converting a large checkpoint, beside ``cp`` of the same file in the same run.

``python -m tests.benchmarks.checkpoint [GB] [FOLDER]`` writes a synthetic file (4 GB unless told), converts it each way
in a process of its own, takes turns with ``cp``, and prints medians as ratios. Memory is the peak of the process above
what it held before the conversion, in units of the largest group of tensors.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._save import write_content

ROUNDS = 3
ROWS = 4096
CONVERSIONS = {
    "same layout": [],
    "safetensors -> pt": [],
    "rename all": [{"op": "prefix", "add": "model."}],
    "transpose all": [
        {"op": "transpose", "names": "embed.weight"},
        *({"op": "transpose", "names": f"layers.{{i}}.{key}.weight"} for key in ("q", "k", "v", "up")),
    ],
    "fuse q k v": [
        {
            "op": "fuse",
            "sources": ["layers.{i}.q.weight", "layers.{i}.k.weight", "layers.{i}.v.weight"],
            "target": "layers.{i}.qkv.weight",
            "sizes": [ROWS, 1024, 1024],
        }
    ],
    "stack layers": [{"op": "stack", "source": "layers.{i}.{name**}", "target": "layers.{name**}"}],
}

CHILD = """
import json, os, resource, sys, time
import funcnet.checkpoint as ck
from funcnet.checkpoint.rules._toml import from_plain
src, dst, rules = sys.argv[1], sys.argv[2], from_plain(json.loads(sys.argv[3]))
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
start = time.perf_counter()
record = ck.convert(src, dst, rules)
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak() - before}))
"""


def synthetic(path: Path, size: int) -> dict[str, Spec]:
    """A checkpoint of layers with grouped-query attention, about ``size`` bytes of random numbers."""
    kinds = {"q": (ROWS, 4096), "k": (1024, 4096), "v": (1024, 4096), "up": (11008, 4096), "norm": (4096,)}
    layer = sum(Spec(shape, torch.bfloat16).nbytes for shape in kinds.values())
    specs = {"embed.weight": Spec((32000, 4096), torch.bfloat16)}
    for number in range(max(1, (size - specs["embed.weight"].nbytes) // layer)):
        specs |= {f"layers.{number}.{key}.weight": Spec(shape, torch.bfloat16) for key, shape in kinds.items()}
    block = os.urandom(32 << 20)

    def chunks(name):
        left = specs[name].nbytes
        while left:
            yield memoryview(block)[: min(left, len(block))]
            left -= min(left, len(block))

    write_content(path, Content(specs, chunks))
    return specs


def largest_group(specs: dict[str, Spec], what: str) -> int:
    """Bytes of the largest tensor, or of those that become one."""
    groups: dict[str, int] = {}
    for name, spec in specs.items():
        parts = name.split(".")
        layered = parts[0] == "layers"
        key = ".".join([parts[0], *parts[2:]]) if what == "stack layers" and layered else name
        if what == "fuse q k v" and layered and parts[2] in "qkv":
            key = f"{parts[1]}.qkv"
        groups[key] = groups.get(key, 0) + spec.nbytes
    return max(groups.values())


def main() -> None:
    """Print one line for each conversion."""
    size = int(float(sys.argv[1]) * 1e9) if len(sys.argv) > 1 else 4 * 10**9
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        src = Path(folder, "src.safetensors")
        specs = synthetic(src, size)
        total = src.stat().st_size
        print(f"{total / 1e9:.2f} GB, {len(specs)} tensors, medians of {ROUNDS}; cp does not sync, conversions do")
        print(f"{'':20}{'cp, GB/s':>10}{'cp+sync':>10}{'GB/s':>8}{'/ cp':>8}{'/ cp+sync':>11}{'peak / group':>14}")
        for what, rules in CONVERSIONS.items():
            suffix = ".pt" if what.endswith("pt") else ".safetensors"
            copied, synced, converted, peaks = [], [], [], []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                subprocess.run(["cp", src, f"{folder}/copy"], check=True)
                copied.append(time.perf_counter() - start)
                subprocess.run(["sync", f"{folder}/copy"], check=True)
                synced.append(time.perf_counter() - start)
                os.unlink(f"{folder}/copy")
                dst = Path(folder, f"dst{suffix}")
                arguments = [sys.executable, "-c", CHILD, src, dst, json.dumps(rules)]
                done = subprocess.run(arguments, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                converted.append(found["seconds"])
                peaks.append(found["peak"])
                dst.unlink()
            cp, both, ours = (statistics.median(times) for times in (copied, synced, converted))
            peak = max(peaks) / largest_group(specs, what)
            rates = f"{total / cp / 1e9:10.2f}{total / both / 1e9:10.2f}{total / ours / 1e9:8.2f}"
            print(f"{what:20}{rates}{cp / ours:8.2f}{both / ours:11.2f}{peak:14.2f}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
