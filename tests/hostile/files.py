"""Checkpoints made to harm whoever opens them. Each function writes one below a folder and returns its path."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import torch

from funcnet.checkpoint import save
from funcnet.checkpoint._zip import write_member

CASES = {}
MARK = "FUNCNET_HOSTILE_MARK"
HUGE = 2**60
EIGHT_BYTES = b'{"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}'


def case(function):
    CASES[function.__name__] = function
    return function


class Calls:
    """Unpickled carelessly, it leaves a file."""

    def __reduce__(self):
        return os.system, (f"touch ${MARK}",)


# --- safetensors ---


def raw_safetensors(folder, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def one(**changes):
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def byte_at(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def _safetensors_cases():
    eight = b"\0" * 8
    many = {name: byte_at(*span) for name, span in {"x": (0, 10), "y": (1, 2), "z": (3, 4)}.items()}
    headers = {
        "header_is_no_json": b"{oops",
        "header_is_a_list": b"[1, 2]          ",
        "name_is_half_a_character": b'{"w\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}',
        "header_is_not_utf8": b'{"\xff\xfe": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        "header_of_deep_lists": b'{"w": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "header_of_deep_objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        "header_with_nan": b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
        "metadata_of_nans": b'{"__metadata__": {"a": NaN, "b": Infinity}}',
        "header_with_an_endless_number": b'{"w": {"dtype": "F32", "shape": ['
        + b"9" * 100_000
        + b'], "data_offsets": [0, 8]}}',
        "a_name_twice": b'{"w": ' + EIGHT_BYTES + b', "w": ' + EIGHT_BYTES + b"}",
        "a_key_twice": b'{"w": {"dtype": "U8", "dtype": "F64", "shape": [8], "data_offsets": [0, 8]}}',
        "metadata_is_a_number": {"__metadata__": {"a": 1}},
        "metadata_is_null": {"__metadata__": None},
        "remark_of_ours_is_wrong": {"__metadata__": {"funcnet": '{"complex128": ["nothing"]}'}, **one()},
        "remark_of_ours_is_deep": {"__metadata__": {"funcnet": "[" * 100_000}, **one()},
        "remark_of_ours_has_deep_values": {"__metadata__": {"funcnet": '{"values": 7}'}, **one()},
        "shape_of_2_to_60": one(shape=[HUGE], data_offsets=[0, 4 * HUGE]),
        "shape_of_2_to_60_in_8_bytes": one(shape=[HUGE]),
        "shape_that_overflows": one(shape=[2**32, 2**32, 2**32]),
        "shape_of_a_million_axes": one(shape=[1] * 1_000_000, data_offsets=[0, 4]),
        "shape_negative": one(shape=[-2]),
        "shape_of_floats": one(shape=[2.0]),
        "shape_of_booleans": one(shape=[True, True], dtype="F64"),
        "shape_is_a_string": one(shape="22"),
        "dtype_unknown": one(dtype="F31"),
        "dtype_is_a_list": one(dtype=["F32"]),
        "offsets_beyond_the_file": one(shape=[4], data_offsets=[0, 16]),
        "offsets_reversed": one(data_offsets=[8, 0]),
        "offsets_negative": one(data_offsets=[-8, 0]),
        "offsets_of_three": one(data_offsets=[0, 4, 8]),
        "offsets_of_floats": one(data_offsets=[0.0, 8.0]),
        "bytes_too_few": one(shape=[3]),
        "bytes_too_many": one(shape=[1]),
        "bytes_nobody_owns": one(shape=[1], data_offsets=[0, 4]),
        "hole_between": {
            **one(shape=[1], data_offsets=[0, 4]),
            "x": {"dtype": "U8", "shape": [2], "data_offsets": [6, 8]},
        },
        "overlap": {**one(), "x": byte_at(4, 8)},
        "overlap_nested": many,
        "entry_lacks_a_key": {"w": {"dtype": "F32", "shape": [2]}},
        "entry_has_another_key": one(more=1),
        "entry_is_null": {"w": None},
    }
    for name, header in headers.items():
        data = b"\0" * 10 if name == "overlap_nested" else eight
        CASES[name] = lambda folder, header=header, data=data: raw_safetensors(folder, header, data)


_safetensors_cases()


@case
def header_longer_than_the_file(folder):
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 20) + b'{"w": 1}')
    return path


@case
def header_of_2_to_63(folder):
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", (1 << 63) + 5) + b'{"w": 1}')
    return path


# --- torch.save ---


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def torch_file(folder, obj, storages=(b"\0" * 8,), pickler=pickle.Pickler, name="a.pt"):
    pickled = io.BytesIO()
    pickler(pickled, 2).dump(obj)
    members = {"a/data.pkl": pickled.getvalue(), "a/version": b"3\n", "a/byteorder": b"little"}
    return archive(folder / name, members | {f"a/data/{i}": data for i, data in enumerate(storages)})


class Storage:
    def __init__(self, key="0", count=2):
        self.key, self.count = key, count


class View:
    def __init__(self, storage, offset=0, shape=(2,), stride=(1,)):
        self.args = (storage, offset, shape, stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, value.key, "cpu", value.count) if isinstance(value, Storage) else None

    def reducer_override(self, value):
        return (torch._utils._rebuild_tensor_v2, value.args) if isinstance(value, View) else NotImplemented


def _torch_cases():
    views = {
        "view_beyond_its_storage": View(Storage(), 1),
        "view_of_a_large_offset": View(Storage(), HUGE),
        "view_with_a_negative_offset": View(Storage(), -1),
        "view_with_a_negative_stride": View(Storage(), 1, (2,), (-1,)),
        "view_repeated_2_to_60_times": View(Storage(), 0, (HUGE,), (0,)),
        "view_of_2_to_60": View(Storage(), 0, (HUGE,), (1,)),
        "storage_of_2_to_60": View(Storage("0", HUGE), 0, (HUGE,), (1,)),
        "storage_larger_than_its_bytes": View(Storage("0", 16), 0, (16,), (1,)),
        "storage_that_is_not_there": View(Storage("7")),
        "storage_outside_the_archive": View(Storage("../../../etc/passwd")),
    }
    for name, view in views.items():
        CASES[name] = lambda folder, view=view: torch_file(folder, {"w": view}, pickler=Pickler)


_torch_cases()


@case
def pickle_that_calls_code(folder):
    return torch_file(folder, {"w": Calls()})


@case
def pickle_that_calls_code_named_safetensors(folder):
    return torch_file(folder, {"w": Calls()}, name="a.safetensors")


@case
def pickle_that_calls_code_legacy(folder):
    path = folder / "a.bin"
    with open(path, "wb") as out:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": Calls()}):
            pickle.dump(part, out, protocol=2)
    return path


@case
def pickle_of_lists_that_name_each_other(folder):
    """Two names in each of forty lists: some hundred bytes that unfold into 2^40 values."""
    lists = ["x"]
    for _ in range(40):
        lists = [lists, lists]
    return torch_file(folder, {"w": lists})


@case
def pickle_of_dicts_that_name_each_other(folder):
    tree = {"w": View(Storage())}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    return torch_file(folder, tree, pickler=Pickler)


def _key_that_is_hashed_forever():
    """A dict whose key is a tuple that holds twice the one before, and so on."""
    nested = b"".join(b"h%c\x86q%c" % (number, number + 1) for number in range(40))
    return b"}X\x01\x00\x00\x00xq\x00" + nested + b"K\x01s."


@case
def pickle_of_a_key_that_is_hashed_forever(folder):
    return archive(folder / "a.pt", {"a/data.pkl": b"\x80\x02" + _key_that_is_hashed_forever(), "a/version": b"3\n"})


@case
def pickle_of_a_key_that_is_hashed_forever_legacy(folder):
    before = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path = folder / "a.bin"
    path.write_bytes(b"".join(before) + b"\x80\x02" + _key_that_is_hashed_forever() + pickle.dumps([], 2))
    return path


@case
def pickle_of_a_list_that_holds_itself(folder):
    circle = []
    circle.append(circle)
    return torch_file(folder, {"w": circle})


@case
def pickle_that_is_deep(folder):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return archive(folder / "a.pt", {"a/data.pkl": deep, "a/version": b"3\n"})


@case
def storages_of_another_byte_order(folder):
    """Torch swaps the bytes of storages that were never read, and dies of it."""
    path = torch_file(folder, {"w": View(Storage())}, pickler=Pickler)
    with zipfile.ZipFile(path) as given:
        members = {name: given.read(name) for name in given.namelist()}
    return archive(path, members | {"a/byteorder": b"big"})


@case
def plain_pickle(folder):
    path = folder / "a.pt"
    path.write_bytes(pickle.dumps({"w": Calls()}))
    return path


@case
def module_pickled_whole(folder):
    path = folder / "a.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    return path


@case
def zip_bomb_in_the_pickle(folder):
    return archive(folder / "a.pt", {"a/data.pkl": b"\0" * (200 << 20), "a/version": b"3"}, zipfile.ZIP_DEFLATED)


@case
def compressed_storages(folder):
    save(folder / "b.pt", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(folder / "b.pt") as given:
        members = {name: given.read(name) for name in given.namelist()}
    (folder / "b.pt").unlink()
    return archive(folder / "a.pt", members, zipfile.ZIP_DEFLATED)


@case
def members_that_overlap(folder):
    """A bomb of another kind: many entries of the directory that share one member."""
    path = archive(folder / "a.npz", {"w.npy": b"\x93NUMPY" + b"\0" * 1000})
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = bytes(data[start:end])
    names = [entry.replace(b"w.npy", b"%05d" % number) for number in range(100)]
    directory = b"".join(names)
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(names), len(names), len(directory), start, 0)
    path.write_bytes(bytes(data[:start]) + directory + tail)
    return path


@case
def member_twice(folder):
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w") as out:
        for data in (b"one", b"two"):
            write_member(out, "w.npy", 3, iter([memoryview(data)]))
    return path


# --- npz ---


def npy(header, data=b"", version=b"\x01\x00"):
    header = header if isinstance(header, bytes) else repr(header).encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def _npz_cases():
    def described(**changes):
        return {"descr": "<f4", "fortran_order": False, "shape": (2,), **changes}

    members = {
        "array_of_objects": npy(described(descr="|O"), pickle.dumps([Calls()])),
        "array_of_records": npy(described(descr=[("a", "<f4")]), b"\0" * 8),
        "array_of_2_to_60": npy(described(shape=(HUGE,)), b"\0" * 8),
        "array_too_short": npy(described(), b"\0" * 7),
        "array_too_long": npy(described(), b"\0" * 9),
        "array_negative": npy(described(shape=(-2,)), b"\0" * 8),
        "array_header_calls": npy(b"__import__('os').system('touch $FUNCNET_HOSTILE_MARK')"),
        "array_header_deep": npy(b"[" * 9_000),
        "array_header_long": npy(b" " * 60_000),
        "array_header_not_text": npy(b"\xff\xfe\xfd", version=b"\x03\x00"),
        "array_header_short": b"\x93NUMPY\x01\x00",
        "array_of_unknown_bytes": npy(described(descr="|V1"), b"\0" * 2),
        "array_of_nothing": b"",
    }
    for name, data in members.items():
        CASES[name] = lambda folder, data=data: archive(folder / "a.npz", {"w.npy": data})
    CASES["member_that_is_no_array"] = lambda folder: archive(folder / "a.npz", {"readme.txt": b"hello"})
    CASES["our_note_is_wrong"] = lambda folder: archive(folder / "a.npz", {"funcnet.json": b'{"aliases": {"a": "b"}}'})
    CASES["our_note_is_no_json"] = lambda folder: archive(folder / "a.npz", {"funcnet.json": b"\xff"})


_npz_cases()


@case
def zip_bomb_of_arrays(folder):
    count = 200 << 20
    data = npy({"descr": "|u1", "fortran_order": False, "shape": (count - 70,)})
    return archive(folder / "a.npz", {"w.npy": data + b"\0" * (count - 70)}, zipfile.ZIP_DEFLATED)


# --- indexes ---


def index(folder, weight_map, name="model.safetensors.index.json"):
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    content = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
    (inside / name).write_bytes(content)
    return inside


def _index_cases():
    def outside(folder):
        (folder / "inside").mkdir()
        save(folder / "secret.safetensors", {"w": torch.ones(1)})

    def climbs(folder):
        outside(folder)
        return index(folder, {"w": "../secret.safetensors"})

    def absolute(folder):
        outside(folder)
        return index(folder, {"w": str(folder / "secret.safetensors")})

    def link(folder):
        outside(folder)
        (folder / "inside/model-1.safetensors").symlink_to(folder / "secret.safetensors")
        return index(folder, {"w": "model-1.safetensors"})

    def link_to_folder(folder):
        outside(folder)
        (folder / "inside/sub").symlink_to(folder)
        return index(folder, {"w": "sub/secret.safetensors"})

    def link_to_itself(folder):
        (folder / "inside").mkdir()
        (folder / "inside/model-1.safetensors").symlink_to("model-1.safetensors")
        return index(folder, {"w": "model-1.safetensors"})

    def disagrees(folder):
        (folder / "inside").mkdir()
        save(folder / "inside/model-1.safetensors", {"x": torch.ones(1), "y": torch.ones(1)})
        return index(folder, {"w": "model-1.safetensors"})

    def twice(folder):
        (folder / "inside").mkdir()
        for number in "12":
            save(folder / f"inside/model-{number}.safetensors", {"x": torch.ones(1), number: torch.ones(1)})
        names = {"x": "model-1.safetensors", "1": "model-1.safetensors", "2": "model-2.safetensors"}
        return index(folder, names)

    CASES.update(
        {
            "index_climbs": climbs,
            "index_absolute": absolute,
            "index_link": link,
            "index_link_to_a_folder": link_to_folder,
            "index_link_to_itself": link_to_itself,
            "index_of_a_long_name": lambda folder: index(folder, {"w": "a" * 5000}),
            "index_disagrees": disagrees,
            "index_with_a_tensor_in_two_shards": twice,
            "index_of_a_missing_file": lambda folder: index(folder, {"w": "model-1.safetensors"}),
            "index_of_itself": lambda folder: index(folder, {"w": "model.safetensors.index.json"}),
            "index_of_a_folder": lambda folder: index(folder, {"w": "."}),
            "index_of_numbers": lambda folder: index(folder, {"w": 1}),
            "index_of_lists": lambda folder: index(folder, ["w"]),
            "index_not_json": lambda folder: index(folder, b"\xff\xfe"),
            "index_deep": lambda folder: index(folder, b'{"weight_map":' + b"[" * 200_000),
            "index_name_twice": lambda folder: index(folder, b'{"weight_map": {"w": "a", "w": "b"}}'),
            "index_null_byte": lambda folder: index(folder, {"w": "a\0b"}),
        }
    )


_index_cases()


# --- what is no file ---


@case
def pipe(folder):
    path = folder / "a.safetensors"
    os.mkfifo(path)
    return path


@case
def pipe_for_an_index(folder):
    path = folder / "a" / "model.safetensors.index.json"
    path.parent.mkdir()
    os.mkfifo(path)
    return path.parent


@case
def half_a_character_in_a_torch_file(folder):
    torch.save({"w\ud800": torch.ones(2)}, folder / "a.pt")
    return folder / "a.pt"


# --- distributed checkpoints ---


def distributed(folder, change):
    """A sound distributed checkpoint whose metadata ``change`` has altered."""
    path = folder / "dcp"
    save(path, {"w": torch.arange(6.0).view(2, 3), "epoch": 3}, format="dcp")
    metadata = pickle.loads((path / ".metadata").read_bytes())
    changed = change(path, metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata if changed is None else changed))
    return path


def info_of(metadata):
    return next(info for index, info in metadata.storage_data.items() if index.fqn == "w")


def _distributed_cases():
    def set_info(**changes):
        return lambda path, metadata: vars(info_of(metadata)).update(changes)

    def set_chunk(**changes):
        return lambda path, metadata: vars(metadata.state_dict_metadata["w"].chunks[0]).update(changes)

    def link(path, metadata):
        (path / "__0_0.distcp").rename(path.parent / "secret")
        (path / "__0_0.distcp").symlink_to(path.parent / "secret")

    def overlap(path, metadata):
        metadata.state_dict_metadata["w"].chunks *= 2

    changes = {
        "dcp_climbs": set_info(relative_path="../dcp/__0_0.distcp"),
        "dcp_absolute": set_info(relative_path="/etc/passwd"),
        "dcp_link": link,
        "dcp_missing_file": set_info(relative_path="__1_0.distcp"),
        "dcp_beyond_the_file": set_info(offset=HUGE),
        "dcp_negative": set_info(offset=-8),
        "dcp_elsewhere": set_info(offset=5),
        "dcp_transformed": set_info(transform_descriptors=["zstd"]),
        "dcp_of_2_to_60": lambda path, metadata: setattr(metadata.state_dict_metadata["w"], "size", torch.Size([HUGE])),
        "dcp_another_shape": lambda path, m: setattr(m.state_dict_metadata["w"], "size", torch.Size([3, 2])),
        "dcp_chunk_of_2_to_60": set_chunk(sizes=torch.Size([HUGE, HUGE])),
        "dcp_chunk_outside": set_chunk(offsets=torch.Size([1, 0])),
        "dcp_chunks_overlap": overlap,
        "dcp_calls_code": lambda path, metadata: Calls(),
        "dcp_calls_code_within": lambda path, metadata: setattr(metadata, "planner_data", Calls()),
        "dcp_of_something_else": lambda path, metadata: {"a": 1},
        "dcp_of_a_bytearray": lambda path, metadata: bytearray(10),
    }
    for name, change in changes.items():
        CASES[name] = lambda folder, change=change: distributed(folder, change)


_distributed_cases()


@case
def dcp_metadata_that_reserves_memory(folder):
    path = distributed(folder, lambda path, metadata: None)
    (path / ".metadata").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".")
    return path


@case
def dcp_memo_of_2_to_31(folder):
    path = distributed(folder, lambda path, metadata: None)
    (path / ".metadata").write_bytes(b"\x80\x02K\x01r" + struct.pack("<I", (1 << 31) - 1) + b".")
    return path
