"""A save that fails leaves what was there, and nothing else."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from funcnet.checkpoint import CheckpointError, load, save
from funcnet.checkpoint import _atomic as atomic
from tests.checkpoint.trees import bits_by_name
from tests.helpers import parametrize

OLD = {"a": torch.arange(10.0), "b": torch.ones(3)}
NEW = {"a": torch.zeros(10), "c": torch.arange(40.0), "d": torch.ones(2)}
TARGETS = {
    "m.safetensors": {},
    "m.pt": {},
    "m.npz": {},
    "shards": {"shard_size": 50},
    "dcp": {"format": "dcp"},
    "folder": {},
}


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@parametrize(target=list(TARGETS), target_exists=[False, True])
def test_a_failure_at_any_system_call_leaves_the_old_state(target, target_exists, tmp_path, monkeypatch):
    """The n-th fsync or rename fails, for every n there is. Only a folder's own fsync may fail without harm."""
    failures = 0
    for count in range(1, 60):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "other").write_text("stays")
        path, options = folder / target, TARGETS[target]
        if target_exists:
            save(path, OLD, **options)
        before = list_files(folder)
        calls_left = [count]

        def failing(function, calls_left=calls_left):
            def call(*args, **kwargs):
                calls_left[0] -= 1
                if calls_left[0] == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename"):
                patch.setattr(atomic.os, name, failing(getattr(os, name)))
            try:
                save(path, NEW, **options)
                failed = False
            except OSError as error:
                failed = error.errno == errno.ENOSPC
        if failed:
            failures += 1
            assert list_files(folder) == before
        if path.exists():
            assert bits_by_name(load(path)) == bits_by_name(OLD if failed else NEW)
        if calls_left[0] > 0:
            break
    assert failures >= 2
    assert calls_left[0] > 0


@parametrize(target=list(TARGETS))
def test_a_disk_that_fills_up_while_bytes_are_written(target, tmp_path, monkeypatch):
    path, options = tmp_path / target, TARGETS[target]
    save(path, OLD, **options)
    before = list_files(tmp_path)

    def full(view):
        yield view[:4]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("funcnet.checkpoint._save.iter_chunks", full)
        with pytest.raises(OSError, match="No space left"):
            save(path, NEW, **options)
    assert list_files(tmp_path) == before
    assert bits_by_name(load(path)) == bits_by_name(OLD)


def test_new_shards_replace_the_old_ones_and_only_them(tmp_path):
    save(tmp_path / "m", {f"x{i}": torch.full((10,), float(i)) for i in range(4)}, shard_size=50)
    (tmp_path / "m/config.json").write_text("{}")
    for size in (100, 50, 50):
        save(tmp_path / "m", OLD | NEW, shard_size=size)
        assert bits_by_name(load(tmp_path / "m")) == bits_by_name(OLD | NEW)
        names = list_files(tmp_path / "m")
        assert len([name for name in names if name.endswith(".safetensors")]) == len(load(tmp_path / "m").files) - 1
    assert "config.json" in names


def test_a_folder_with_another_checkpoint_is_left_alone(tmp_path):
    save(tmp_path / "m", OLD, format="pt")
    with pytest.raises(CheckpointError, match=r"holds another checkpoint, 'pytorch_model\.bin'"):
        save(tmp_path / "m", NEW)
    assert bits_by_name(load(tmp_path / "m")) == bits_by_name(OLD)


def test_what_a_dead_writer_left_is_removed_and_a_living_one_is_not(tmp_path):
    dead = tmp_path / f".m.pt.0123{atomic._PARTIAL_SUFFIX}"
    dead.write_bytes(b"half")
    living = tmp_path / f".m.pt.4567{atomic._PARTIAL_SUFFIX}"
    with open(living, "wb") as living_file:
        atomic._try_to_lock(living_file.fileno())
        save(tmp_path / "m.pt", NEW)
    assert not dead.exists()
    assert living.exists()


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    save(tmp_path / "store/blob.pt", OLD)
    (tmp_path / "m.pt").symlink_to("store/blob.pt")
    save(tmp_path / "m.pt", NEW)
    assert (tmp_path / "m.pt").is_symlink()
    assert bits_by_name(load(tmp_path / "store/blob.pt")) == bits_by_name(load(tmp_path / "m.pt")) == bits_by_name(NEW)
    (tmp_path / "folder").symlink_to("store/folder")
    for tree in (OLD, NEW):
        save(tmp_path / "folder", tree, shard_size=50)
        assert bits_by_name(load(tmp_path / "store/folder")) == bits_by_name(tree)
    assert (tmp_path / "folder").is_symlink()
    assert list_files(tmp_path / "store")[0] == "blob.pt"


@parametrize(target=["shards", "dcp", "folder"])
def test_two_writers_to_one_folder_leave_what_the_last_one_wrote_and_nothing_else(target, tmp_path):
    path, options = tmp_path / target, TARGETS[target]
    save(path, OLD, **options)
    trees = [{f"{writer}.{number}": torch.full((20,), writer + 0.0) for number in range(6)} for writer in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tree: save(path, tree, **options), trees * 2))
    ckpt = load(path)
    assert bits_by_name(ckpt) in [bits_by_name(tree) for tree in trees]
    assert list_files(path) == sorted(file.name for file in ckpt.files)


def test_a_folder_that_another_writer_made_meanwhile_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "m"
    rename = os.rename

    def late(source, target):
        monkeypatch.setattr(atomic.os, "rename", rename)
        save(path, NEW)
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", late)
    with pytest.raises(OSError, match="another process has written to it meanwhile; save again"):
        save(path, OLD)
    assert bits_by_name(load(path)) == bits_by_name(NEW)
    assert list_files(tmp_path) == ["m", "m/model.safetensors"]


@parametrize(target=["shards", "dcp", "folder"])
def test_an_interruption_at_any_system_call_leaves_the_old_checkpoint_or_the_new(target, tmp_path, monkeypatch):
    """Also after the entry has its name: what it lists must stay."""
    interruptions = 0
    for count in range(1, 60):
        path, options = tmp_path / str(count), TARGETS[target]
        save(path, OLD, **options)
        calls_left = [count]

        def interrupted(function, calls_left=calls_left):
            def call(*args, **kwargs):
                result = function(*args, **kwargs)
                calls_left[0] -= 1
                if calls_left[0] == 0:
                    raise KeyboardInterrupt
                return result

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(atomic.os, name, interrupted(getattr(os, name)))
            try:
                save(path, NEW, **options)
            except KeyboardInterrupt:
                interruptions += 1
        assert bits_by_name(load(path)) in (bits_by_name(OLD), bits_by_name(NEW))
        assert not list(path.glob("*.partial")) + list(path.glob(".*.partial"))
        if calls_left[0] > 0:
            break
    assert interruptions >= 3
    assert bits_by_name(load(path)) == bits_by_name(NEW)


@parametrize(target=list(TARGETS), target_exists=[False, True])
def test_an_interruption_as_soon_as_a_file_is_there_leaves_nothing(target, target_exists, tmp_path, monkeypatch):
    """A signal handler may raise between the call that makes a file and the statement after it."""
    path, options = tmp_path / target, TARGETS[target]
    if target_exists:
        save(path, OLD, **options)
    before = list_files(tmp_path)
    is_interrupted = []

    def interrupted(function):
        def call(made, *args, **kwargs):
            result = function(made, *args, **kwargs)
            if str(made).endswith(".partial") and not is_interrupted:
                is_interrupted.append(True)
                raise KeyboardInterrupt
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "mkdir"):
            patch.setattr(atomic.os, name, interrupted(getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            save(path, NEW, **options)
    assert list_files(tmp_path) == before


def test_one_shard_of_several_is_not_written_over(tmp_path):
    save(tmp_path / "m", {f"x{i}": torch.full((10,), float(i)) for i in range(4)}, shard_size=50)
    before = list_files(tmp_path)
    shard = load(tmp_path / "m").files[1]
    with pytest.raises(CheckpointError, match=r"is a shard of 'model\.safetensors\.index\.json'"):
        save(shard, NEW)
    assert len(load(tmp_path / "m")) == 4
    assert list_files(tmp_path) == before


def test_a_full_disk_is_said_to_be_one_by_every_writer(tmp_path):
    """A real file that may not grow: what torch makes of the failure is another error."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        for target, options in TARGETS.items():
            with pytest.raises(OSError, match="File too large"):
                save(tmp_path / target, {"w": torch.ones(1 << 20)}, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list_files(tmp_path) == []
