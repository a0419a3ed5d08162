"""Files of trainers hold objects of any class: tensors are read, objects are shown and kept, and nothing is run."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import pathlib
import pickle
import random
import re
import types
import typing
import uuid

import pytest
import torch
from torch import nn

from funcnet.checkpoint import CheckpointError, Opaque, Rename, convert, load, save
from tests.checkpoint.trees import as_comparable, bits_by_name, tensor_bits
from tests.helpers import parametrize


class Colour(enum.Enum):
    RED = "red"


class Mode(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Config:
    width: int = 3
    parent: object = None


@dataclasses.dataclass(unsafe_hash=True)
class Slotted:
    __slots__ = ("x",)
    x: int


class Names(collections.OrderedDict):
    pass


class Numbers(list):
    pass


class Point(typing.NamedTuple):
    x: int
    y: int


class MadeWithKeywords:
    def __new__(cls, *, size):
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs_ex__(self):
        return (), {"size": self.size}

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = object.__hash__


def namespace_that_holds_itself():
    made = argparse.Namespace(lr=0.1)
    made.me, made.all = made, [made]
    return made


OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1, names=["a"]),
    "simple_namespace": types.SimpleNamespace(a=1),
    "defaultdict": collections.defaultdict(list, {1: ["x"]}),
    "path": pathlib.PurePosixPath("runs/1"),
    "date": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    "span": datetime.timedelta(seconds=3),
    "enum": Colour.RED,
    "flag": Mode.A | Mode.B,
    "dataclass": Config(4),
    "slots": Slotted(3),
    "ordered_subclass": Names(a=1),
    "list_subclass": Numbers([1, 2]),
    "named_tuple": Point(1, 2),
    "keywords": MadeWithKeywords(size=3),
    "function": nn.functional.relu,
    "class": Config,
    "builtin_class": dict,
    "partial": functools.partial(int, base=2),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=3),
    "regex": re.compile("a+"),
    "range": range(3),
    "random": random.Random(0).getstate(),
    "dtype": torch.float16,
    "device": torch.device("cuda:0"),
    "size": torch.Size([2, 3]),
    "bytes": b"a\xff",
    "bytearray": bytearray(b"ab"),
    "set": {1, "a"},
    "frozenset": frozenset([1]),
    "counter": collections.Counter("aab"),
    "complex": 1 + 2j,
    "big": 1 << 90,
    "key": {Colour.RED: 1, (1, "a"): 2, Slotted(1): 3},
}


def load_trusted(path):
    return torch.load(path, weights_only=False)


def comparable(value):
    return value.func(*value.args, "101", **value.keywords) if isinstance(value, functools.partial) else value


@parametrize(protocol=[1, 2, 4, 5, "before 1.6"])
def test_objects_of_all_kinds_are_kept_and_tensors_are_read(protocol, tmp_path):
    objects = {name: value for name, value in OBJECTS.items() if protocol != 1 or name not in ("slots", "key")}
    saved = {"model": {"fc.weight": torch.ones(2)}, **objects, "epoch": 3}
    options = {"pickle_protocol": protocol} if protocol != "before 1.6" else {"_use_new_zipfile_serialization": False}
    torch.save(saved, tmp_path / "a.pt", **options)
    assert bits_by_name(load(tmp_path / "a.pt")) == bits_by_name({"model.fc.weight": torch.ones(2)})
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    back = load_trusted(tmp_path / "b.pt")
    assert list(back) == list(saved)
    for name, value in objects.items():
        assert type(back[name]) is type(value), name
        assert comparable(back[name]) == comparable(value), name
    save(tmp_path / "c.pt", load(tmp_path / "a.pt").tree())
    assert load_trusted(tmp_path / "c.pt")["namespace"] == OBJECTS["namespace"]


def test_objects_are_shown_by_type_and_contents(tmp_path):
    torch.save({"w": torch.ones(1), "args": OBJECTS["namespace"], "f": nn.functional.relu}, tmp_path / "a.pt")
    extras = load(tmp_path / "a.pt").extras
    assert repr(extras["args"]) == "<argparse.Namespace lr=0.1, names=list of 1>"
    assert repr(extras["f"]) == "<torch.nn.functional.relu>"
    assert isinstance(extras["args"], Opaque)
    assert (extras["args"].type_name, extras["args"].attributes["lr"]) == ("argparse.Namespace", 0.1)


def test_an_object_that_holds_itself_is_kept(tmp_path):
    torch.save({"w": torch.ones(1), "args": namespace_that_holds_itself()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    args = load_trusted(tmp_path / "b.pt")["args"]
    assert args.me is args.all[0] is args


def test_what_is_asked_for_is_read_though_other_formats_hold_no_objects(tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2)}, "args": OBJECTS["namespace"]}, tmp_path / "a.pt")
    for options in ({"part": "model"}, {"select": "model.**"}, {"select": "!args"}):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", **options)
        assert tensor_bits(next(iter(load(tmp_path / "b.safetensors").values()))) == tensor_bits(torch.ones(2))
    for name in ("c.safetensors", "c.npz"):
        with pytest.raises(CheckpointError, match=r"\n  args: a argparse.Namespace\n.*\.pt file"):
            convert(tmp_path / "a.pt", tmp_path / name)
    convert(tmp_path / "a.pt", tmp_path / "d", format="dcp")
    convert(tmp_path / "d", tmp_path / "e.pt")
    assert load_trusted(tmp_path / "e.pt")["args"] == OBJECTS["namespace"]


def test_numbers_and_arrays_of_numpy(tmp_path):
    np = pytest.importorskip("numpy")
    saved = {
        "best": np.float64(0.1),
        "count": np.int32(-3),
        "flag": np.bool_(True),
        "text": np.str_("aß"),
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "big": np.arange(3, dtype=">f8"),
        "empty": np.zeros((0, 2)),
        "rng": np.random.RandomState(0).get_state(),
        "objects": np.array([None, 1], dtype=object),
        "texts": np.array(["a", "b"]),
        "generator": np.random.RandomState(3),
    }
    for protocol in (2, 4, 5):
        torch.save(saved, tmp_path / "a.pt", pickle_protocol=protocol)
        ckpt = load(tmp_path / "a.pt")
        assert {name: ckpt[name].tolist() for name in ("w", "fortran", "big", "empty")} == {
            name: saved[name].tolist() for name in ("w", "fortran", "big", "empty")
        }
        assert (ckpt["rng.1"].dtype, repr(ckpt.extras["best"])) == (torch.uint32, "<numpy.float64 0.1>")
        convert(tmp_path / "a.pt", tmp_path / "b.pt")
        there, back = load_trusted(tmp_path / "a.pt"), load_trusted(tmp_path / "b.pt")
        for name in saved:
            assert type(back[name]) is type(saved[name])
        for name in ("best", "count", "flag", "text"):
            assert back[name] == saved[name]
        for name in ("w", "fortran", "big", "empty", "objects", "texts"):
            assert (back[name].dtype, back[name].tolist()) == (there[name].dtype, saved[name].tolist())
        assert back["generator"].rand() == np.random.RandomState(3).rand()
    convert(tmp_path / "a.pt", tmp_path / "c.safetensors", select=["best", "count", "flag", "text", "w"])
    assert load(tmp_path / "c.safetensors").extras == {"best": 0.1, "count": -3, "flag": True, "text": "aß"}


def test_parameters_subclasses_and_gradients_come_back_as_they_were(tmp_path):
    weight = torch.ones(2)
    saved = {
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.zeros(2), requires_grad=False),
        "leaf": torch.ones(3, requires_grad=True),
        "same": weight,
        "as_parameter": nn.Parameter(weight),
        "buffer": nn.Buffer(torch.ones(1)),
        "bf16": nn.Parameter(torch.ones(2, dtype=torch.uint16), requires_grad=False),
    }
    saved["parameter"].note = "a note"
    torch.save(saved, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    back = load_trusted(tmp_path / "b.pt")
    for name, tensor in saved.items():
        assert type(back[name]) is type(tensor), name
        assert back[name].requires_grad == tensor.requires_grad, name
        assert tensor_bits(back[name]) == tensor_bits(tensor), name
    assert back["parameter"].note == "a note"
    assert back["same"].data_ptr() == back["as_parameter"].data_ptr()


def test_a_state_dict_keeps_its_class_and_the_versions_of_its_modules(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for saved in (module.state_dict(), {"model": module.state_dict()}):
        torch.save(saved, tmp_path / "a.pt")
        convert(tmp_path / "a.pt", tmp_path / "b.pt")
        back = torch.load(tmp_path / "b.pt", weights_only=True)
        assert type(back) is type(saved)
        state = back.get("model", back)
        assert type(state) is collections.OrderedDict
        assert state._metadata == module.state_dict()._metadata


# --- modules that are pickled whole ---


def test_a_whole_module_is_read_as_its_state_dict_and_kept(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2, bias=False)))
    x = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    for saved, part in ((module, None), ({"model": module, "epoch": 3}, "model")):
        torch.save(saved, tmp_path / "a.pt")
        ckpt = load(tmp_path / "a.pt", part=part)
        assert bits_by_name(ckpt) == bits_by_name(module.state_dict())
        assert load(tmp_path / "a.pt").objects[part or ""].type_name == "torch.nn.modules.container.Sequential"
        convert(tmp_path / "a.pt", tmp_path / "b.pt")
        back = load_trusted(tmp_path / "b.pt")
        assert tensor_bits(back["model"][0](x) if part else back[0](x)) == tensor_bits(module[0](x))
        convert(tmp_path / "a.pt", tmp_path / "c.pt", part=part)
        assert tensor_bits(load_trusted(tmp_path / "c.pt")[0](x)) == tensor_bits(module[0](x))
        convert(tmp_path / "a.pt", tmp_path / "d.safetensors", part=part)
        assert bits_by_name(load(tmp_path / "d.safetensors")) == bits_by_name(module.state_dict())
        convert(tmp_path / "a.pt", tmp_path / "e.pt", [Rename("0.{x}", "conv.{x}")], part=part)
        assert "conv.weight" in load(tmp_path / "e.pt")


def test_objects_that_share_tensors_with_what_is_outside_of_them(tmp_path):
    module = nn.Linear(2, 2)
    torch.save({"state": module.state_dict(), "trainer": argparse.Namespace(net=module, n=1)}, tmp_path / "a.pt")
    ckpt = load(tmp_path / "a.pt")
    assert ckpt.aliases == {"trainer.net.weight": "state.weight", "trainer.net.bias": "state.bias"}
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    back = load_trusted(tmp_path / "b.pt")
    assert back["trainer"].net.weight.data_ptr() == back["state"]["weight"].data_ptr()
    convert(tmp_path / "a.pt", tmp_path / "c.pt", part="trainer")
    assert tensor_bits(load_trusted(tmp_path / "c.pt").net.weight) == tensor_bits(module.weight)


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*beta state", "ignore:.*deprecated")
def test_tensors_of_parts_are_read_part_by_part(tmp_path):
    sparse = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    quantized = torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 3, torch.quint8)
    saved = {"coo": sparse.to_sparse(), "csr": sparse.to_sparse_csr(), "quantized": quantized}
    torch.save(saved, tmp_path / "a.pt")
    ckpt = load(tmp_path / "a.pt")
    assert ckpt["coo.values"].tolist() == ckpt["csr.values"].tolist() == [2.0, 3.0]
    assert ckpt["quantized.int_repr"].tolist() == [5, 7]
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    back = load_trusted(tmp_path / "b.pt")
    assert back["coo"].to_dense().tolist() == back["csr"].to_dense().tolist() == sparse.tolist()
    assert back["quantized"].dequantize().tolist() == [1.0, 2.0]


# --- plain pickles ---


@parametrize(protocol=[2, 3, 4, 5])
def test_a_plain_pickle_of_arrays_or_tensors_is_read(protocol, tmp_path):
    np = pytest.importorskip("numpy")
    saved = {"model": {"w": np.arange(4.0), "t": torch.ones(2, 3).t(), "p": nn.Parameter(torch.ones(1))}, "author": "x"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
    ckpt = load(tmp_path / "a.pkl")
    assert ckpt.format == "pickle"
    assert ckpt["model.w"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert tensor_bits(ckpt["model.t"]) == tensor_bits(saved["model"]["t"])
    convert(tmp_path / "a.pkl", tmp_path / "b.safetensors")
    assert as_comparable(load(tmp_path / "b.safetensors").tree()["author"]) == as_comparable("x")


def test_code_that_runs_when_a_pickle_is_loaded_is_named(tmp_path):
    class Attack:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    torch.save({"w": torch.ones(1), "x": Attack()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"names (builtins|__builtin__)\.exec, which no checkpoint needs"):
        load(tmp_path / "a.pt")


def test_pieces_of_a_pickle_that_is_cut_are_an_error(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3), "args": OBJECTS["namespace"]}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    for end in range(20, len(data), 7):
        (tmp_path / "a.pt").write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            load(tmp_path / "a.pt")["w"]
