"""Fixtures that hold for every test: the global generator does not move, and threads stay few."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

LONGEST_FIRST = (
    "test_types.py",
    "test_killed.py",
    "test_source_architectures.py",
    "test_trace_architectures.py",
    "test_lab.py",
    "test_site.py",
    "test_browser.py",
    "test_page.py",
    "test_training.py",
    "test_examples.py",
    "test_cookbook.py",
    "test_readme.py",
    "test_models.py",
    "test_published.py",
    "test_source.py",
    "test_trace.py",
    "test_module_db.py",
    "test_doors.py",
    "test_architectures.py",
)
"""Files with tests that take seconds. They run first, so that no worker is left with such a test at the end."""


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    state = torch.get_rng_state()
    torch.manual_seed(20240229)
    yield
    torch.set_rng_state(state)


def pytest_collection_modifyitems(items):
    """The longest tests run first; GPU tests are skipped where there is no GPU."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
    rank = {name: index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
