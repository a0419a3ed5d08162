"""Files of torch.save made to harm whoever opens them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import torch

from funcnet.checkpoint import save
from tests.hostile.registry import CASES, HUGE, CallsOnUnpickling, case, write_archive


def write_torch_file(folder, obj, storages=(b"\0" * 8,), pickler=pickle.Pickler, name="a.pt"):
    pickled = io.BytesIO()
    pickler(pickled, 2).dump(obj)
    members = {"a/data.pkl": pickled.getvalue(), "a/version": b"3\n", "a/byteorder": b"little"}
    return write_archive(folder / name, members | {f"a/data/{i}": data for i, data in enumerate(storages)})


class StoredStorage:
    def __init__(self, key="0", count=2):
        self.key, self.count = key, count


class StoredView:
    def __init__(self, storage, offset=0, shape=(2,), stride=(1,)):
        self.args = (storage, offset, shape, stride, False, OrderedDict())


class ViewPickler(pickle.Pickler):
    def persistent_id(self, value):
        return (
            ("storage", torch.FloatStorage, value.key, "cpu", value.count) if isinstance(value, StoredStorage) else None
        )

    def reducer_override(self, value):
        return (torch._utils._rebuild_tensor_v2, value.args) if isinstance(value, StoredView) else NotImplemented


def _torch_cases():
    views = {
        "view_beyond_its_storage": StoredView(StoredStorage(), 1),
        "view_of_a_large_offset": StoredView(StoredStorage(), HUGE),
        "view_with_a_negative_offset": StoredView(StoredStorage(), -1),
        "view_with_a_negative_stride": StoredView(StoredStorage(), 1, (2,), (-1,)),
        "view_repeated_2_to_60_times": StoredView(StoredStorage(), 0, (HUGE,), (0,)),
        "view_of_2_to_60": StoredView(StoredStorage(), 0, (HUGE,), (1,)),
        "storage_of_2_to_60": StoredView(StoredStorage("0", HUGE), 0, (HUGE,), (1,)),
        "storage_larger_than_its_bytes": StoredView(StoredStorage("0", 16), 0, (16,), (1,)),
        "storage_that_is_not_there": StoredView(StoredStorage("7")),
        "storage_outside_the_archive": StoredView(StoredStorage("../../../etc/passwd")),
    }
    for name, view in views.items():
        CASES[name] = lambda folder, view=view: write_torch_file(folder, {"w": view}, pickler=ViewPickler)


_torch_cases()


@case
def pickle_that_calls_code(folder):
    return write_torch_file(folder, {"w": CallsOnUnpickling()})


@case
def pickle_that_calls_code_named_safetensors(folder):
    return write_torch_file(folder, {"w": CallsOnUnpickling()}, name="a.safetensors")


@case
def pickle_that_calls_code_legacy(folder):
    path = folder / "a.bin"
    with open(path, "wb") as out:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": CallsOnUnpickling()}):
            pickle.dump(part, out, protocol=2)
    return path


@case
def pickle_of_lists_that_name_each_other(folder):
    """Two names in each of forty lists: some hundred bytes that unfold into 2^40 values."""
    lists = ["x"]
    for _ in range(40):
        lists = [lists, lists]
    return write_torch_file(folder, {"w": lists})


@case
def pickle_of_dicts_that_name_each_other(folder):
    tree = {"w": StoredView(StoredStorage())}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    return write_torch_file(folder, tree, pickler=ViewPickler)


def _pickled_dict_with_a_key_that_is_hashed_forever():
    """A dict whose key is a tuple that holds twice the one before, and so on."""
    nested = b"".join(b"h%c\x86q%c" % (number, number + 1) for number in range(40))
    return b"}X\x01\x00\x00\x00xq\x00" + nested + b"K\x01s."


@case
def pickle_of_a_key_that_is_hashed_forever(folder):
    return write_archive(
        folder / "a.pt",
        {"a/data.pkl": b"\x80\x02" + _pickled_dict_with_a_key_that_is_hashed_forever(), "a/version": b"3\n"},
    )


@case
def pickle_of_a_key_that_is_hashed_forever_legacy(folder):
    before = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path = folder / "a.bin"
    path.write_bytes(
        b"".join(before) + b"\x80\x02" + _pickled_dict_with_a_key_that_is_hashed_forever() + pickle.dumps([], 2)
    )
    return path


@case
def pickle_of_a_list_that_holds_itself(folder):
    circle = []
    circle.append(circle)
    return write_torch_file(folder, {"w": circle})


@case
def pickle_that_is_deep(folder):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return write_archive(folder / "a.pt", {"a/data.pkl": deep, "a/version": b"3\n"})


@case
def storages_of_another_byte_order(folder):
    """Torch swaps the bytes of storages that it never read, and the process dies."""
    path = write_torch_file(folder, {"w": StoredView(StoredStorage())}, pickler=ViewPickler)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    return write_archive(path, members | {"a/byteorder": b"big"})


@case
def plain_pickle(folder):
    path = folder / "a.pt"
    path.write_bytes(pickle.dumps({"w": CallsOnUnpickling()}))
    return path


@case
def zip_bomb_in_the_pickle(folder):
    return write_archive(folder / "a.pt", {"a/data.pkl": b"\0" * (200 << 20), "a/version": b"3"}, zipfile.ZIP_DEFLATED)


@case
def compressed_storages(folder):
    save(folder / "b.pt", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(folder / "b.pt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    (folder / "b.pt").unlink()
    return write_archive(folder / "a.pt", members, zipfile.ZIP_DEFLATED)


@case
def half_a_character_in_a_torch_file(folder):
    torch.save({"w\ud800": torch.ones(2)}, folder / "a.pt")
    return folder / "a.pt"


def write_raw_pickle(folder, data, name="a.pt"):
    return write_archive(folder / name, {"a/data.pkl": data, "a/version": b"3\n", "a/data/0": b"\0" * 8})


def _raw_cases():
    def name(text):
        return b"c" + text.encode() + b"\n"

    huge = (HUGE).to_bytes(8, "little")
    nested_tuples = b"(" * 50_000 + b"t" * 50_000
    raw = {
        "pickle_of_getattr_of_os": b"\x80\x02" + name("builtins\ngetattr") + name("os\nsystem") + b"X\1\0\0\0x\x86R.",
        "pickle_of_eval": b"\x80\x02" + name("builtins\neval") + b"X\1\0\0\0x\x85R.",
        "pickle_of_a_dotted_name": b"\x80\x04\x8c\x07logging\x8c\x09os.system\x93X\1\0\0\0x\x85R.",
        "pickle_of_subprocess": b"\x80\x02(isubprocess\nPopen\n.",
        "pickle_of_an_extension": b"\x80\x02\x82\x01.",
        "pickle_with_a_huge_bytearray": b"\x80\x05\x96" + huge + b".",
        "pickle_with_a_huge_text": b"\x80\x05\x8d" + huge + b".",
        "pickle_with_huge_bytes": b"\x80\x05\x8e" + huge + b".",
        "pickle_with_a_huge_frame": b"\x80\x05\x95" + huge + b".",
        "pickle_with_a_huge_long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "pickle_of_a_key_of_deep_tuples": b"\x80\x02}" + nested_tuples + b"K\1s.",
        "pickle_of_a_key_of_deep_frozensets": b"\x80\x04}" + b"(" * 50_000 + b"\x91" * 50_000 + b"K\1s.",
        "pickle_of_an_unhashable_key": b"\x80\x02}]K\1s.",
        "pickle_that_calls_a_number": b"\x80\x02K\1)R.",
        "pickle_that_calls_a_text": b"\x80\x02X\1\0\0\0x)R.",
        "pickle_that_builds_a_number": b"\x80\x02K\1}b.",
        "pickle_that_appends_to_a_tuple": b"\x80\x02)K\1a.",
        "pickle_with_an_empty_stack": b"\x80\x02R.",
        "pickle_without_an_end": b"\x80\x02}",
        "pickle_with_a_buffer_outside": b"\x80\x05\x97.",
        "pickle_of_a_tensor_without_a_storage": b"\x80\x02" + name("torch._utils\n_rebuild_tensor_v2") + b")R.",
        "pickle_of_a_storage_of_another_kind": b"\x80\x02(X\7\0\0\0storageK\1K\1K\1K\1tQ.",
    }
    for case_name, data in raw.items():
        CASES[case_name] = lambda folder, data=data: write_raw_pickle(folder, data)
        CASES[f"{case_name}_alone"] = lambda folder, data=data: _write_alone(folder, data)


def _write_alone(folder, data):
    path = folder / "a.pkl"
    path.write_bytes(data)
    return path


_raw_cases()


@case
def legacy_storages_of_2_to_60(folder):
    path = folder / "a.bin"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    data = bytearray(path.read_bytes())
    data[-16:-8] = HUGE.to_bytes(8, "little")
    path.write_bytes(data[:-8])
    return path
