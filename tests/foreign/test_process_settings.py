"""A foreign forward that changes a setting of the process: the call puts it back, and effects names the line."""

from __future__ import annotations

import decimal
import os
import sys
import warnings

import pytest
import torch
from torch import nn

import funcnet as fn
from funcnet._global_settings import SETTINGS

X = torch.ones(2, 3)
torch.use_deterministic_algorithms(False)  # the first call imports the compiler, which sets the environment


@pytest.fixture(autouse=True)
def backend_flags_can_be_set(monkeypatch):
    # torch.testing._internal, which other tests import, forbids it for the whole process
    monkeypatch.setitem(torch.backends.flags_frozen.__globals__, "__allow_nonbracketed_mutation_flag", True)


def change_precision():
    decimal.getcontext().prec = 9


def change_environment():
    os.environ["FUNCNET_TEST_SETTING"] = "1"


def change_mkldnn():
    torch.backends.mkldnn.enabled = False


def change_path():
    sys.path.append("/nowhere")


CHANGES = {
    "torch.is_grad_enabled()": lambda: torch.set_grad_enabled(False),
    "torch.is_autocast_enabled(...)": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.get_default_dtype()": lambda: torch.set_default_dtype(torch.float64),
    "torch.get_num_threads()": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch.are_deterministic_algorithms_enabled()": lambda: torch.use_deterministic_algorithms(True),
    "torch.get_float32_matmul_precision()": lambda: torch.set_float32_matmul_precision("high"),
    "torch.backends.mha.get_fastpath_enabled()": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "torch.backends.mkldnn.enabled": change_mkldnn,
    "warnings.filters": lambda: warnings.simplefilter("ignore", DeprecationWarning),
    "os.environ": change_environment,
    "sys.path": change_path,
    "decimal.getcontext()": change_precision,
}


def changing(change, fails=False):
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x):
            change()
            if fails:
                raise ValueError("after the change")
            return self.lin(x)

    return Changes()


def read_settings():
    return {setting.name: setting.read() for setting in SETTINGS}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_a_call_puts_the_setting_back(name, fails):
    net, params, buffers = fn.from_module(changing(CHANGES[name], fails))
    before = read_settings()
    for _ in range(2):
        if fails:
            with pytest.raises(ValueError, match="after the change"):
                net.apply(params, buffers, X)
        else:
            net.apply(params, buffers, X)
        assert read_settings() == before


@pytest.mark.parametrize("name", CHANGES)
def test_effects_names_the_setting_and_the_line_and_puts_it_back(name):
    before = read_settings()
    [effect] = fn.effects(changing(CHANGES[name]), X).of("changes setting")
    assert effect.detail.startswith(f"changes {name}")
    assert effect.file == __file__
    assert effect.line > 0
    assert read_settings() == before


@pytest.mark.parametrize("block", [torch.no_grad, lambda: torch.autocast("cpu"), warnings.catch_warnings])
def test_a_block_that_ends_changes_no_setting(block):
    class Blocks(nn.Module):
        def forward(self, x):
            with block():
                return x * 2

    assert not fn.effects(Blocks(), X).of("changes setting")
