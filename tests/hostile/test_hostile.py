"""Hostile files give a clear error in bounded memory and time, run nothing, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import funcnet
from funcnet.checkpoint import CheckpointError, load, save
from tests.checkpoint.trees import bits_by_name
from tests.hostile.files import CASES

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux to measure memory")
MEMORY = 96 << 20
ENDURANCE = 300  # seconds for all of them together; each takes a fraction of one


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    root = Path(funcnet.__file__).parents[1]
    command = [sys.executable, "-m", "tests.hostile", str(tmp_path_factory.mktemp("hostile"))]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=ENDURANCE
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file(name, outcomes):
    outcome = outcomes[name]
    for error in (outcome["reading"], *outcome["converting"]):
        assert error is not None, "it was read as if it were sound"
        kind, text = error
        assert kind == "CheckpointError"
        assert name in text, "the message does not say which file"
        assert len(text) < 3000
    assert outcome["left"] == []
    assert not outcome["called"]
    assert outcome["memory"] < MEMORY


def write_sound_files(folder):
    """One small sound checkpoint of each format."""
    tree = {"a": {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, "epoch": 1}
    for name in ("a.safetensors", "a.pt", "a.npz"):
        save(folder / name, tree)
    torch.save(tree, folder / "theirs.pt")
    torch.save(tree, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [folder / name for name in ("a.safetensors", "a.pt", "a.npz", "theirs.pt", "old.pt")]


def read_everything(path):
    ckpt = load(path)
    return bits_by_name(ckpt), ckpt.extras


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    for path in write_sound_files(tmp_path):
        data = path.read_bytes()
        cut = tmp_path / f"cut{path.suffix}"
        step = 1 if path.suffix == ".safetensors" else 13
        for count in range(0, len(data), step):
            cut.write_bytes(data[:count])
            with pytest.raises(CheckpointError):
                read_everything(cut)


def test_a_distributed_checkpoint_cut_off_anywhere_is_refused(tmp_path):
    save(tmp_path / "m", {"w": torch.arange(6.0), "epoch": 1}, format="dcp")
    for path in (tmp_path / "m/.metadata", tmp_path / "m/__0_0.distcp"):
        data = path.read_bytes()
        for count in range(0, len(data), 17):
            path.write_bytes(data[:count])
            with pytest.raises(CheckpointError):
                read_everything(tmp_path / "m")
        path.write_bytes(data)


def test_a_byte_changed_anywhere_is_refused_or_only_changes_values(tmp_path):
    for path in write_sound_files(tmp_path):
        data = bytearray(path.read_bytes())
        changed = tmp_path / f"changed{path.suffix}"
        for place in range(0, len(data), 1 if path.suffix == ".safetensors" else 7):
            for flip in (0x01, 0x80, 0xFF):
                data[place] ^= flip
                changed.write_bytes(data)
                data[place] ^= flip
                try:
                    read_everything(changed)
                except CheckpointError:
                    continue
