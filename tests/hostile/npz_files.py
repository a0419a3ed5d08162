"""Archives of arrays made to harm whoever opens them."""

from __future__ import annotations

import pickle
import struct
import zipfile

from funcnet.checkpoint._zip import write_member, write_note
from tests.hostile.registry import CASES, HUGE, CallsOnUnpickling, case, write_archive


def npy_bytes(header, data=b"", version=b"\x01\x00"):
    header = header if isinstance(header, bytes) else repr(header).encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def _npz_cases():
    def npy_header(**changes):
        return {"descr": "<f4", "fortran_order": False, "shape": (2,), **changes}

    members = {
        "array_of_objects": npy_bytes(npy_header(descr="|O"), pickle.dumps([CallsOnUnpickling()])),
        "array_of_records": npy_bytes(npy_header(descr=[("a", "<f4")]), b"\0" * 8),
        "array_of_2_to_60": npy_bytes(npy_header(shape=(HUGE,)), b"\0" * 8),
        "array_too_short": npy_bytes(npy_header(), b"\0" * 7),
        "array_too_long": npy_bytes(npy_header(), b"\0" * 9),
        "array_negative": npy_bytes(npy_header(shape=(-2,)), b"\0" * 8),
        "array_header_calls": npy_bytes(b"__import__('os').system('touch $FUNCNET_HOSTILE_MARK')"),
        "array_header_deep": npy_bytes(b"[" * 9_000),
        "array_header_long": npy_bytes(b" " * 60_000),
        "array_header_not_text": npy_bytes(b"\xff\xfe\xfd", version=b"\x03\x00"),
        "array_header_short": b"\x93NUMPY\x01\x00",
        "array_of_unknown_bytes": npy_bytes(npy_header(descr="|V1"), b"\0" * 2),
        "array_of_nothing": b"",
    }
    for name, data in members.items():
        CASES[name] = lambda folder, data=data: write_archive(folder / "a.npz", {"w.npy": data})
    CASES["member_that_is_no_array"] = lambda folder: write_archive(folder / "a.npz", {"readme.txt": b"hello"})
    notes = {
        "our_note_is_wrong": b'{"aliases": {"a": "b"}}',
        "our_note_is_no_json": b"\xff",
        "our_note_is_a_list": b"[]",
        "our_note_is_deep": b"[" * 100_000,
        "our_note_has_a_deep_structure": b'{"structure": ' + b"[" * 900 + b"]" * 900 + b"}",
    }
    for name, note in notes.items():
        CASES[name] = lambda folder, note=note: write_noted_archive(folder / "a.npz", note)
    comments = {
        "our_note_is_outside": "notes of funcnet: 99999 10 0",
        "our_note_is_huge": f"notes of funcnet: 0 {HUGE} 0",
        "our_note_is_negative": "notes of funcnet: -5 5 0",
        "our_note_is_no_place": "notes of funcnet: here",
        "our_note_is_damaged": "notes of funcnet: 0 5 7",
    }
    for name, comment in comments.items():
        CASES[name] = lambda folder, comment=comment: write_noted_archive(folder / "a.npz", b"{}", comment)


def write_noted_archive(path, note, comment=None):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("w.npy", npy_bytes({"descr": "<f4", "fortran_order": False, "shape": (2,)}, b"\0" * 8))
        write_note(out, note)
        if comment is not None:
            out.comment = comment.encode()
    return path


_npz_cases()


@case
def zip_bomb_of_arrays(folder):
    count = 200 << 20
    data = npy_bytes({"descr": "|u1", "fortran_order": False, "shape": (count - 70,)})
    return write_archive(folder / "a.npz", {"w.npy": data + b"\0" * (count - 70)}, zipfile.ZIP_DEFLATED)


@case
def members_that_overlap(folder):
    """A bomb of another kind: many entries of the directory that share one member."""
    path = write_archive(folder / "a.npz", {"w.npy": b"\x93NUMPY" + b"\0" * 1000})
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
