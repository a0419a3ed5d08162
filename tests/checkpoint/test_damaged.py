"""Files whose bytes are not those that were written, or that change while they are read, are noticed."""

from __future__ import annotations

import os
import zipfile

import pytest
import torch

from funcnet.checkpoint import CheckpointError, Transpose, convert, load, save
from tests.checkpoint.trees import bits_by_name
from tests.helpers import parametrize


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def begin_of(path, member):
    """The first byte of the data of a member of an archive."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    header = path.read_bytes()[info.header_offset : info.header_offset + 30]
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


ARCHIVES = {"a.npz": "w.npy", "a.pt": "archive/data/0", "theirs.pt": "theirs/data/0", "packed.npz": "w.npy"}


def write_archive(path):
    tree = {"w": torch.arange(64.0).view(8, 8), "v": torch.arange(64.0).view(8, 8).t()}
    if path.name == "theirs.pt":
        torch.save(tree, path)
    elif path.name == "packed.npz":
        np = pytest.importorskip("numpy")
        np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in tree.items()})
    else:
        save(path, tree)


@parametrize(name=list(ARCHIVES))
def test_a_flipped_bit_is_not_converted(name, tmp_path):
    write_archive(tmp_path / name)
    convert(tmp_path / name, tmp_path / "sound.safetensors")
    flip_bit(tmp_path / name, begin_of(tmp_path / name, ARCHIVES[name]) + (150 if name != "packed.npz" else 60))
    for rules, options in (((), {}), ([Transpose("w")], {}), ((), {"certificate": tmp_path / "c.json"})):
        with pytest.raises(Exception, match=r"damaged|CRC|invalid"):
            convert(tmp_path / name, tmp_path / "out.safetensors", rules, **options)
    with pytest.raises(CheckpointError, match=r"damaged|CRC|invalid"):
        load(tmp_path / name)["w"]
    assert not (tmp_path / "out.safetensors").exists()


def test_archives_of_torch_without_checksums_are_read(tmp_path):
    has_checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(has_checksums)
    assert load(tmp_path / "a.pt")["w"].tolist() == [1.0, 1.0, 1.0]


@parametrize(field=[("name", 30), ("method", 8), ("checksum", 14), ("size", 22)], name=["a.npz", "a.pt"])
def test_headers_that_do_not_agree_with_the_directory(field, name, tmp_path):
    what, offset = field
    save(tmp_path / name, {"w": torch.ones(3), "v": torch.ones(3)})
    with zipfile.ZipFile(tmp_path / name) as archive:
        begin = archive.infolist()[-1].header_offset
    flip_bit(tmp_path / name, begin + offset)
    with pytest.raises(CheckpointError, match="is not a sound archive") as caught:
        load(tmp_path / name)
    texts = {"name": "is called", "method": "packed in another way", "checksum": "checksum", "size": "sizes"}
    assert texts[what] in str(caught.value)


@parametrize(name=["a.safetensors", "a.pt", "a.npz"])
def test_a_file_that_is_written_to_after_it_was_opened_is_noticed(name, tmp_path):
    path = tmp_path / name
    save(path, {"w": torch.ones(100)})
    data = path.read_bytes()
    for change in (lambda: path.write_bytes(data[::-1]), lambda: os.truncate(path, 200), lambda: path.write_bytes(b"")):
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))
        ckpt = load(path)
        change()
        with pytest.raises(CheckpointError, match="was written to, or replaced, since it was opened"):
            ckpt["w"]
        with pytest.raises(CheckpointError, match="was written to, or replaced, since it was opened"):
            save(tmp_path / "out.pt", ckpt)
        assert not (tmp_path / "out.pt").exists()


def test_a_file_whose_name_another_one_took_is_read_as_it_was(tmp_path):
    save(tmp_path / "a.safetensors", {"w": torch.ones(3)})
    ckpt = load(tmp_path / "a.safetensors")
    save(tmp_path / "a.safetensors", {"w": torch.zeros(3)})
    assert ckpt["w"].tolist() == [1.0, 1.0, 1.0]


def test_more_shards_than_a_process_may_have_files_open(tmp_path):
    import resource

    tree = {f"x{number}": torch.full((2,), float(number)) for number in range(400)}
    save(tmp_path / "m", tree, shard_size=8)
    assert len(load(tmp_path / "m").files) == 401
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        ckpt = load(tmp_path / "m")
        other = load(tmp_path / "m")
        assert bits_by_name(ckpt) == bits_by_name(other) == bits_by_name(tree)
        convert(tmp_path / "m", tmp_path / "out.safetensors", certificate=tmp_path / "c.json")
        assert len(os.listdir("/proc/self/fd")) < 256
        save(tmp_path / "m", {"y": torch.ones(1)})
        with pytest.raises((CheckpointError, OSError)):
            list(ckpt.values())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert bits_by_name(load(tmp_path / "out.safetensors")) == bits_by_name(tree)
