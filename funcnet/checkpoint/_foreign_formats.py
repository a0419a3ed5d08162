"""What a file or folder is that is none of the formats funcnet reads, and what to do with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class ForeignFormat(NamedTuple):
    """A format that is told by name, and what to do with it."""

    name: str
    advice: str


_GGUF = ForeignFormat(
    "a GGUF file of llama.cpp",
    "Take the safetensors that it was made of, or read it with the package gguf and save its dequantized arrays.",
)
_GGML = ForeignFormat("a file of an old llama.cpp", "Take the file that it was made of.")
_HDF5 = ForeignFormat(
    "an HDF5 file, as Keras and h5py write them",
    "Read it with h5py or Keras, and save its arrays with numpy.savez or safetensors.numpy.save_file.",
)
_LFS = ForeignFormat("a pointer of git-lfs in place of the file", "Fetch the file: git lfs pull.")
_XET = ForeignFormat("a pointer of git-xet in place of the file", "Fetch the file with huggingface_hub.")
_HTML = ForeignFormat("an HTML page, not what it is called", "The download asked for a login or failed: get it again.")
_MSGPACK = ForeignFormat(
    "a msgpack file, as Flax writes them",
    "Restore it with flax.serialization.msgpack_restore, and save its arrays with numpy.savez or "
    "safetensors.flax.save_file.",
)
_ONNX = ForeignFormat(
    "an ONNX model",
    "Its weights are initializers: read them with onnx.numpy_helper.to_array, and save them with numpy.savez.",
)
_TFLITE = ForeignFormat("a TensorFlow Lite model", "Take the model that it was made of.")
_TENSORFLOW = ForeignFormat(
    "a checkpoint of TensorFlow",
    "Read it with tf.train.load_checkpoint, and save its arrays with numpy.savez.",
)
_SAVED_MODEL = ForeignFormat(
    "a SavedModel of TensorFlow", "Load it with tf.saved_model.load, and save its variables with numpy.savez."
)
_KERAS = ForeignFormat("a Keras model", "Load it with keras.saving.load_model, and save its weights with numpy.savez.")
_JOBLIB = ForeignFormat(
    "a pickle of joblib or scikit-learn",
    "Load it with joblib.load, if you trust it, and save its arrays with numpy.savez.",
)
_ORBAX = ForeignFormat(
    "a checkpoint of Orbax",
    "Restore it with orbax.checkpoint.PyTreeCheckpointer().restore(path), and save its arrays with numpy.savez.",
)
_ZARR = ForeignFormat("a Zarr store", "Open it with zarr, and save its arrays with numpy.savez.")
_NPY = ForeignFormat("one array of numpy", "Save arrays by name: numpy.savez(path, name=array).")
_TAR = ForeignFormat(
    "a tar archive", "If torch before 0.4 wrote it, torch.load and torch.save make it a file of today; else unpack it."
)
_MODEL_ARCHIVE = ForeignFormat("a model archive of NeMo", "Unpack it with tar: the weights in it are a .ckpt file.")
_GZIP = ForeignFormat("compressed with gzip", "Unpack it first: gunzip, or tar -xzf.")
_COREML = ForeignFormat("a Core ML model", "Take the model that it was made of.")
_JSON = ForeignFormat("a text of JSON", "If it is an index of shards, its name has to end with .index.json.")
_PADDLE = ForeignFormat("a file of Paddle", "Load it with paddle.load, and save its arrays with numpy.savez.")

_STARTS: Sequence[tuple[bytes, ForeignFormat]] = (
    (b"GGUF", _GGUF),
    *((magic, _GGML) for magic in (b"lmgg", b"tjgg", b"fmgg")),
    (b"\x89HDF\r\n\x1a\n", _HDF5),
    (b"version https://git-lfs", _LFS),
    (b"# xet version", _XET),
    (b"\x93NUMPY", _NPY),
    (b"\x1f\x8b", _GZIP),
    (b"BZh", ForeignFormat("compressed with bzip2", "Unpack it first: bunzip2.")),
    (b"\xfd7zXZ", ForeignFormat("compressed with xz", "Unpack it first: unxz.")),
    (b"\x28\xb5\x2f\xfd", ForeignFormat("compressed with zstd", "Unpack it first: unzstd.")),
    (b"7z\xbc\xaf\x27\x1c", ForeignFormat("a 7z archive", "Unpack it first.")),
    (b"Rar!", ForeignFormat("a RAR archive", "Unpack it first.")),
)
_FORMAT_OF_SUFFIX = {
    ".onnx": _ONNX,
    ".msgpack": _MSGPACK,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".tflite": _TFLITE,
    ".mlmodel": _COREML,
    ".gguf": _GGUF,
    ".joblib": _JOBLIB,
    ".pdparams": _PADDLE,
    ".nemo": _MODEL_ARCHIVE,
}


def describe_start(path: Path, start: bytes) -> ForeignFormat | None:
    """The format of a file, by its first bytes and then by its name; None for one that nobody here knows."""
    for magic, found in _STARTS:
        if start.startswith(magic):
            return found
    if start[257:262] == b"ustar":
        return _FORMAT_OF_SUFFIX.get(path.suffix.lower(), _TAR)
    if start[4:8] == b"TFL3":
        return _TFLITE
    if start[:1] == b"\x80" and b"joblib" in start:
        return _JOBLIB
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _HTML
    if _reads_as_onnx(start):
        return _ONNX
    if path.suffix.lower() in _FORMAT_OF_SUFFIX:
        return _FORMAT_OF_SUFFIX[path.suffix.lower()]
    if path.name.endswith(".index") or ".data-0" in path.name:
        return _TENSORFLOW
    if text.startswith((b"{", b"[")):
        return _JSON
    return _MSGPACK if _reads_as_msgpack(start) else None


def _reads_as_onnx(start: bytes) -> bool:
    """Whether it begins as a ModelProto does: a version, and the name of the producer or of the domain of operators."""
    return len(start) > 3 and start[0] == 8 and 1 <= start[1] <= 20 and start[2] in (0x12, 0x3A, 0x42)


def _reads_as_msgpack(start: bytes) -> bool:
    """Whether it begins with a map whose first key is a text."""
    if not start or not (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return False
    key = start[{0xDE: 3, 0xDF: 5}.get(start[0], 1) :]
    if not key:
        return False
    length = key[0] & 0x1F if 0xA1 <= key[0] <= 0xBF else key[1] if key[0] == 0xD9 and len(key) > 1 else 0
    text = key[1 if key[0] != 0xD9 else 2 :][:length]
    return 0 < length == len(text) and text.isascii() and text.decode().isprintable()


def describe_archive(names: Iterable[str]) -> ForeignFormat | None:
    """The format of a zip archive, by the names of its members."""
    members = set(names)
    if "config.json" in members and any(name.endswith(".weights.h5") for name in members):
        return _KERAS
    if any(name.endswith(".mlmodel") for name in members):
        return _COREML
    if any(name.endswith((".zarray", "zarr.json")) for name in members):
        return _ZARR
    return None


_FOLDERS: Sequence[tuple[Callable[[set[str]], bool], ForeignFormat]] = (
    (lambda names: "saved_model.pb" in names, _SAVED_MODEL),
    (lambda names: bool(names & {"_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt"}), _ORBAX),
    (lambda names: bool(names & {".zgroup", ".zarray", "zarr.json"}), _ZARR),
    (lambda names: "checkpoint" in names or any(".data-0" in name for name in names), _TENSORFLOW),
    (lambda names: any(name.endswith(".msgpack") for name in names), _MSGPACK),
    (lambda names: any(name.endswith(".gguf") for name in names), _GGUF),
    (lambda names: any(name.endswith(".onnx") for name in names), _ONNX),
    (lambda names: any(name.endswith((".h5", ".hdf5", ".keras")) for name in names), _HDF5),
)


def describe_folder(path: Path) -> ForeignFormat | None:
    """The format of a folder without a checkpoint that funcnet reads, by the names in it."""
    names = set(os.listdir(path))
    for is_one, found in _FOLDERS:
        if is_one(names):
            return found
    inner = path / "default"  # where Orbax puts a checkpoint of one item
    return describe_folder(inner) if "default" in names and inner.is_dir() else None
