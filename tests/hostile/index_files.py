"""Indexes of shards, and pipes in the place of files, made to harm whoever opens them."""

from __future__ import annotations

import json
import os

import torch

from funcnet.checkpoint import save
from tests.hostile.registry import CASES, case


def write_index(folder, weight_map, name="model.safetensors.index.json"):
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
        return write_index(folder, {"w": "../secret.safetensors"})

    def absolute(folder):
        outside(folder)
        return write_index(folder, {"w": str(folder / "secret.safetensors")})

    def link(folder):
        outside(folder)
        (folder / "inside/model-1.safetensors").symlink_to(folder / "secret.safetensors")
        return write_index(folder, {"w": "model-1.safetensors"})

    def link_to_folder(folder):
        outside(folder)
        (folder / "inside/sub").symlink_to(folder)
        return write_index(folder, {"w": "sub/secret.safetensors"})

    def link_to_itself(folder):
        (folder / "inside").mkdir()
        (folder / "inside/model-1.safetensors").symlink_to("model-1.safetensors")
        return write_index(folder, {"w": "model-1.safetensors"})

    def disagrees(folder):
        (folder / "inside").mkdir()
        save(folder / "inside/model-1.safetensors", {"x": torch.ones(1), "y": torch.ones(1)})
        return write_index(folder, {"w": "model-1.safetensors"})

    def twice(folder):
        (folder / "inside").mkdir()
        for number in "12":
            save(folder / f"inside/model-{number}.safetensors", {"x": torch.ones(1), number: torch.ones(1)})
        names = {"x": "model-1.safetensors", "1": "model-1.safetensors", "2": "model-2.safetensors"}
        return write_index(folder, names)

    CASES.update(
        {
            "index_climbs": climbs,
            "index_absolute": absolute,
            "index_link": link,
            "index_link_to_a_folder": link_to_folder,
            "index_link_to_itself": link_to_itself,
            "index_of_a_long_name": lambda folder: write_index(folder, {"w": "a" * 5000}),
            "index_disagrees": disagrees,
            "index_with_a_tensor_in_two_shards": twice,
            "index_of_a_missing_file": lambda folder: write_index(folder, {"w": "model-1.safetensors"}),
            "index_of_itself": lambda folder: write_index(folder, {"w": "model.safetensors.index.json"}),
            "index_of_a_folder": lambda folder: write_index(folder, {"w": "."}),
            "index_of_numbers": lambda folder: write_index(folder, {"w": 1}),
            "index_of_lists": lambda folder: write_index(folder, ["w"]),
            "index_not_json": lambda folder: write_index(folder, b"\xff\xfe"),
            "index_deep": lambda folder: write_index(folder, b'{"weight_map":' + b"[" * 200_000),
            "index_name_twice": lambda folder: write_index(folder, b'{"weight_map": {"w": "a", "w": "b"}}'),
            "index_null_byte": lambda folder: write_index(folder, {"w": "a\0b"}),
        }
    )


_index_cases()


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
