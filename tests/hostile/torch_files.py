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
def module_pickled_whole(folder):
    path = folder / "a.pt"
    torch.save(torch.nn.Linear(2, 2), path)
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
