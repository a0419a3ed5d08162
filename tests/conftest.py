"""Fixtures that hold for every test: the global generator does not move, and threads stay few."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    state = torch.get_rng_state()
    torch.manual_seed(20240229)
    yield
    torch.set_rng_state(state)


def pytest_collection_modifyitems(items):
    """Slow sweeps run last; GPU tests are skipped where there is no GPU."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
    items.sort(key=lambda item: "slow" in item.keywords)
