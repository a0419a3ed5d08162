"""Programs of TorchScript and torch.export give their weights; formats that are not read are told by name."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from torch import nn

from funcnet.checkpoint import CheckpointError, convert, load
from tests.checkpoint.trees import bits_by_name, tensor_bits
from tests.helpers import parametrize


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.norm(self.conv(x)) * self.scale + torch.tensor([1.0])


def example():
    return torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore")
@parametrize(how=["script", "trace"])
def test_the_tensors_of_a_torchscript_program(how, tmp_path):
    module = Small().eval()
    program = torch.jit.script(module) if how == "script" else torch.jit.trace(module, example())
    program.save(str(tmp_path / "a.pt"))
    ckpt = load(tmp_path / "a.pt")
    assert {name: tensor_bits(ckpt[name]) for name in ckpt} == bits_by_name(module.state_dict())
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    module.load_state_dict(dict(load(tmp_path / "b.safetensors")))
    convert(tmp_path / "a.pt", tmp_path / "c.pt")
    module.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True))


@pytest.mark.filterwarnings("ignore")
def test_the_constants_of_a_frozen_program(tmp_path):
    module = Small().eval()
    torch.jit.freeze(torch.jit.script(module), optimize_numerics=False).save(str(tmp_path / "a.pt"))
    ckpt = load(tmp_path / "a.pt")
    assert all(name.startswith("constants.") for name in ckpt)
    assert any(tensor_bits(tensor) == tensor_bits(module.conv.weight) for tensor in ckpt.values())


def test_the_weights_of_an_exported_program(tmp_path):
    module = Small().eval()
    module.tied = module.conv
    torch.export.save(torch.export.export(module, (example(),)), tmp_path / "a.pt2")
    ckpt = load(tmp_path / "a.pt2")
    assert ckpt.format == "pt2"
    assert {name: tensor_bits(ckpt[name]) for name in sorted(ckpt)} == {
        name: tensor_bits(tensor) for name, tensor in sorted(module.state_dict().items())
    }
    convert(tmp_path / "a.pt2", tmp_path / "b.pt")
    assert type(torch.load(tmp_path / "b.pt", weights_only=True)["conv.weight"]) is nn.Parameter


def test_the_weights_of_a_program_exported_by_an_older_torch(tmp_path):
    state = io.BytesIO()
    torch.save(Small().state_dict(), state)
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", state.getvalue())
    assert list(load(tmp_path / "a.pt2")) == list(Small().state_dict())


FILES = {
    "model.gguf": (b"GGUF\x03\0\0\0" + bytes(20), "a GGUF file of llama.cpp"),
    "model.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "pytorch_model.bin": (b"\n<!DOCTYPE html><html>", "an HTML page"),
    "weights.h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
    "flax_model.msgpack": (b"\x81\xa6params\x82", "a msgpack file"),
    "no_suffix": (b"\xde\x00\x11\xa5model\x82", "a msgpack file"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch", "an ONNX model"),
    "model.tflite": (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
    "a.npy": (b"\x93NUMPY\x01\0", "one array of numpy"),
    "a.tar.gz": (b"\x1f\x8b\x08", "compressed with gzip"),
    "model.ckpt.index": (b"\0\0\x01\x02", "a checkpoint of TensorFlow"),
    "model.ckpt.data-00000-of-00001": (bytes(30), "a checkpoint of TensorFlow"),
    "a.joblib": (b"\x80\x04\x95\0\0\0\0\0\0\0\0\x8c\x13joblib.numpy_pickle", "a pickle of joblib"),
    "config.json": (b'{"a": 1}', "a text of JSON"),
}


@parametrize(name=list(FILES))
def test_a_format_that_is_not_read_is_told_by_name(name, tmp_path):
    content, text = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text) as caught:
        load(tmp_path / name)
    assert "which funcnet does not read. " in str(caught.value)


def test_archives_that_are_not_read_are_told_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CheckpointError, match="is a Keras model"):
        load(tmp_path / "a.keras")
    for name, text in (("old.pth", "is a tar archive. *"), ("a.nemo", "is a model archive of NeMo")):
        with tarfile.open(tmp_path / name, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
        with pytest.raises(CheckpointError, match=text):
            load(tmp_path / name)


@parametrize(
    files=[
        ("saved_model.pb", "a SavedModel of TensorFlow"),
        ("_METADATA", "a checkpoint of Orbax"),
        ("default/manifest.ocdbt", "a checkpoint of Orbax"),
        ("checkpoint", "a checkpoint of TensorFlow"),
        ("flax_model.msgpack", "a msgpack file"),
        ("model-q4.gguf", "a GGUF file"),
    ]
)
def test_a_folder_that_is_not_read_is_told_by_name(files, tmp_path):
    name, text = files
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=text):
        load(tmp_path)


def test_a_pickle_is_found_by_its_content_whatever_its_name(tmp_path):
    (tmp_path / "a.onnx").write_bytes(pickle.dumps({"w": torch.ones(2)}))
    assert list(load(tmp_path / "a.onnx")) == ["w"]
