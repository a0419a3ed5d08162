"""Tensors that keep their data elsewhere, or have none, are saved as what they are, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from funcnet.checkpoint import CheckpointError, load, save
from tests.checkpoint.trees import as_comparable, bits_by_name, tensor_bits
from tests.helpers import parametrize

TARGETS = {
    "safetensors": ("m.safetensors", {}),
    "pt": ("m.pt", {}),
    "npz": ("m.npz", {}),
    "dcp": ("m", {"format": "dcp"}),
}


class Quantized(torch.Tensor):
    """As those of torchao and quanto: it has a shape, and holds tensors that make up its values."""

    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)

    def __init__(self, data, scale):
        self.data_part, self._scale = data, scale

    def __tensor_flatten__(self):
        return ["data_part", "_scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].data_part, args[0]._scale)
        raise NotImplementedError(function)


class Hidden(Quantized):
    """One that does not say what it holds."""

    __tensor_flatten__ = property()


class Logged(torch.Tensor):
    """One with memory of its own whose operators fail."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(function)


class Image(torch.Tensor):
    pass


def quantized(value):
    return Quantized(torch.full((2, 3), value, dtype=torch.int8), torch.full((2,), float(value)))


@parametrize(target=list(TARGETS))
def test_a_subclass_is_saved_as_its_parts(target, tmp_path):
    name, options = TARGETS[target]
    first, second = quantized(1), quantized(2)
    save(tmp_path / name, {"fc.weight": first, "other.weight": second, "tied.weight": first}, **options)
    ckpt = load(tmp_path / name)
    assert bits_by_name(ckpt.tree()["other"]["weight"]) == bits_by_name(
        {"data_part": second.data_part, "_scale": second._scale}
    )
    assert ckpt.aliases == {"tied.weight.data_part": "fc.weight.data_part", "tied.weight._scale": "fc.weight._scale"}
    assert set(ckpt) == {f"{at}.weight.{part}" for at in ("fc", "other", "tied") for part in ("data_part", "_scale")}


def test_parts_of_parts_and_parameters(tmp_path):
    nested = Quantized(quantized(3), torch.ones(2))
    save(tmp_path / "a.pt", {"net": {"w": nested, "p": nn.Parameter(quantized(4), requires_grad=False)}, "epoch": 3})
    tree = load(tmp_path / "a.pt").tree()
    assert tree["net"]["w"]["data_part"]["data_part"].tolist() == [[3] * 3] * 2
    assert tree["net"]["p"]["_scale"].tolist() == [4.0, 4.0]
    assert tree["epoch"] == 3


def test_subclasses_with_memory_of_their_own_are_saved_without_their_code(tmp_path):
    data = torch.arange(6.0).view(2, 3)
    tree = {
        "image": data.clone().as_subclass(Image),
        "logged": torch.Tensor._make_subclass(Logged, data.clone().t()),
        "conjugate": torch.tensor([1 + 2j]).conj().as_subclass(Image),
        "negative": torch.tensor([1 + 2j]).conj().imag.as_subclass(Image),
    }
    save(tmp_path / "a.safetensors", tree)
    ckpt = load(tmp_path / "a.safetensors")
    assert tensor_bits(ckpt["image"]) == tensor_bits(data)
    assert tensor_bits(ckpt["logged"]) == tensor_bits(data.t())
    assert (ckpt["conjugate"].item(), ckpt["negative"].item()) == (1 - 2j, -2.0)


def test_every_tensor_without_data_is_named_with_what_to_do(tmp_path):
    with FakeTensorMode():
        fake = torch.ones(2)
    freed = torch.ones(3)
    freed.untyped_storage().resize_(0)
    tree = {
        "fake": (fake, "FakeTensor without data of its own: save real tensors"),
        "hidden": (Hidden(torch.ones(2), torch.ones(1)), "Hidden without data of its own: save the plain tensors"),
        "masked": (_masked(), "MaskedTensor without data of its own: save its get_data"),
        "freed": (freed, "torch.Tensor without data of its own"),
        "meta": (torch.ones(2, device="meta"), "is on the meta device"),
        "coo": (torch.eye(2).to_sparse(), "save its coalesce"),
        "nested": (_nested(), "is nested: save the tensors of unbind"),
        "quantized": (_torch_quantized(), "is quantized: save its int_repr"),
        "mkldnn": (torch.ones(2).to_mkldnn(), "only plain dense tensors"),
    }
    for name in ("a.safetensors", "a.pt", "folder"):
        with pytest.raises(CheckpointError) as caught:
            save(tmp_path / name, {"net": {key: tensor for key, (tensor, _) in tree.items()}, "ok": torch.ones(1)})
        for key, (_, text) in tree.items():
            assert any(f"'net.{key}': " in line and text in line for line in str(caught.value).splitlines()), key
    assert not list(tmp_path.iterdir())


def _masked():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))


def _nested():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def _torch_quantized():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.quint8)


def test_a_tensor_inside_vmap_is_refused(tmp_path):
    def body(x):
        with pytest.raises(
            CheckpointError, match=r"'w': is a torch\.Tensor without data of its own: save outside of vmap"
        ):
            save(tmp_path / "a.pt", {"w": x})
        return x

    torch.func.vmap(body)(torch.ones(2, 3))


@pytest.mark.parametrize("value", ["not a tree", None, 3.5, b"x", ["not", "a", "tree"], (), torch.ones(1), {1, 2}])
def test_what_is_no_tree_is_refused(value, tmp_path):
    for name in ("a.pt", "a.safetensors", "a"):
        with pytest.raises(CheckpointError, match="a tree is nested dicts, and this is"):
            save(tmp_path / name, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.pt", "dcp"])
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_bare_storage_is_refused_and_one_in_a_file_is_read_as_a_tensor(name, tmp_path):
    options = {"format": "dcp"} if name == "dcp" else {}
    with pytest.raises(CheckpointError, match=r"\n  s: a UntypedStorage, of which a tensor can be saved"):
        save(tmp_path / name, {"w": torch.ones(1), "s": torch.ones(2).untyped_storage()}, **options)
    torch.save({"s": torch.ones(2).untyped_storage(), "t": torch.ones(2).storage()}, tmp_path / "b.pt")
    ckpt = load(tmp_path / "b.pt")
    assert ckpt["s"].tolist() == list(bytes.fromhex("0000803f") * 2)
    assert ckpt["t"].tolist() == [1.0, 1.0]
    save(tmp_path / f"c-{name}", ckpt, **options)
    assert as_comparable(load(tmp_path / f"c-{name}").tree()) == as_comparable(ckpt.tree())
    save(tmp_path / "d.pt", ckpt)
    there, back = (torch.load(tmp_path / file, weights_only=False) for file in ("b.pt", "d.pt"))
    assert [type(back[key]) for key in "st"] == [type(there[key]) for key in "st"]
