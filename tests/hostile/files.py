"""Checkpoints made to harm whoever opens them, of all formats: importing the files that make them fills the table."""

from __future__ import annotations

from tests.hostile import dcp_files, index_files, npz_files, safetensors_files, torch_files  # noqa: F401
from tests.hostile.registry import CASES as CASES
from tests.hostile.registry import MARK as MARK
