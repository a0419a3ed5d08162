"""Distributed checkpoints made to harm whoever opens them."""

from __future__ import annotations

import pickle
import struct

import torch

from funcnet.checkpoint import save
from tests.hostile.registry import CASES, HUGE, CallsOnUnpickling, case


def write_distributed(folder, change):
    """A sound distributed checkpoint whose metadata ``change`` has altered."""
    path = folder / "dcp"
    save(path, {"w": torch.arange(6.0).view(2, 3), "epoch": 3}, format="dcp")
    metadata = pickle.loads((path / ".metadata").read_bytes())
    replacement = change(path, metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata if replacement is None else replacement))
    return path


def storage_info_of_w(metadata):
    return next(info for index, info in metadata.storage_data.items() if index.fqn == "w")


def _distributed_cases():
    def set_info(**changes):
        return lambda path, metadata: vars(storage_info_of_w(metadata)).update(changes)

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
        "dcp_calls_code": lambda path, metadata: CallsOnUnpickling(),
        "dcp_calls_code_within": lambda path, metadata: setattr(metadata, "planner_data", CallsOnUnpickling()),
        "dcp_of_something_else": lambda path, metadata: {"a": 1},
        "dcp_of_a_bytearray": lambda path, metadata: bytearray(10),
    }
    for name, change in changes.items():
        CASES[name] = lambda folder, change=change: write_distributed(folder, change)


_distributed_cases()


@case
def dcp_metadata_that_reserves_memory(folder):
    path = write_distributed(folder, lambda path, metadata: None)
    (path / ".metadata").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".")
    return path


@case
def dcp_memo_of_2_to_31(folder):
    path = write_distributed(folder, lambda path, metadata: None)
    (path / ".metadata").write_bytes(b"\x80\x02K\x01r" + struct.pack("<I", (1 << 31) - 1) + b".")
    return path
