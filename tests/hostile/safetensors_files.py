"""Safetensors files made to harm whoever opens them."""

from __future__ import annotations

import json
import struct

from tests.hostile.registry import CASES, HUGE, case

EIGHT_BYTES = b'{"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}'


def write_safetensors_file(folder, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def tensor_header(**changes):
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
        "remark_of_ours_is_wrong": {"__metadata__": {"funcnet": '{"complex128": ["nothing"]}'}, **tensor_header()},
        "remark_of_ours_is_deep": {"__metadata__": {"funcnet": "[" * 100_000}, **tensor_header()},
        "remark_of_ours_has_deep_values": {"__metadata__": {"funcnet": '{"values": 7}'}, **tensor_header()},
        "shape_of_2_to_60": tensor_header(shape=[HUGE], data_offsets=[0, 4 * HUGE]),
        "shape_of_2_to_60_in_8_bytes": tensor_header(shape=[HUGE]),
        "shape_that_overflows": tensor_header(shape=[2**32, 2**32, 2**32]),
        "shape_of_a_million_axes": tensor_header(shape=[1] * 1_000_000, data_offsets=[0, 4]),
        "shape_negative": tensor_header(shape=[-2]),
        "shape_of_floats": tensor_header(shape=[2.0]),
        "shape_of_booleans": tensor_header(shape=[True, True], dtype="F64"),
        "shape_is_a_string": tensor_header(shape="22"),
        "dtype_unknown": tensor_header(dtype="F31"),
        "dtype_is_a_list": tensor_header(dtype=["F32"]),
        "offsets_beyond_the_file": tensor_header(shape=[4], data_offsets=[0, 16]),
        "offsets_reversed": tensor_header(data_offsets=[8, 0]),
        "offsets_negative": tensor_header(data_offsets=[-8, 0]),
        "offsets_of_three": tensor_header(data_offsets=[0, 4, 8]),
        "offsets_of_floats": tensor_header(data_offsets=[0.0, 8.0]),
        "bytes_too_few": tensor_header(shape=[3]),
        "bytes_too_many": tensor_header(shape=[1]),
        "bytes_nobody_owns": tensor_header(shape=[1], data_offsets=[0, 4]),
        "hole_between": {
            **tensor_header(shape=[1], data_offsets=[0, 4]),
            "x": {"dtype": "U8", "shape": [2], "data_offsets": [6, 8]},
        },
        "overlap": {**tensor_header(), "x": byte_at(4, 8)},
        "overlap_nested": many,
        "entry_lacks_a_key": {"w": {"dtype": "F32", "shape": [2]}},
        "entry_has_another_key": tensor_header(more=1),
        "entry_is_null": {"w": None},
    }
    for name, header in headers.items():
        data = b"\0" * 10 if name == "overlap_nested" else eight
        CASES[name] = lambda folder, header=header, data=data: write_safetensors_file(folder, header, data)


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
