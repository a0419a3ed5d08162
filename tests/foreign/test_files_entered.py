"""How many files of funcnet a reader of one call has to open: those that a call enters once everything is warm."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn

ROOT = str(Path(fn.__file__).parent)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.drop = nn.Linear(8, 24), nn.Linear(8, 8), nn.Dropout(0.1)
        self.norm, self.batch_norm = nn.LayerNorm(8), nn.BatchNorm1d(8)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.drop(self.out(F.scaled_dot_product_attention(q, k, v)))
        return self.batch_norm(x.transpose(1, 2)).transpose(1, 2)


def files_entered(call):
    """The files in which a Python function of funcnet is called, the third time that a call is made."""
    call()
    call()
    files = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            files.add(frame.f_code.co_filename.removeprefix(ROOT))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def test_a_second_call_of_a_foreign_net_enters_at_most_15_files():  # two of them only ask whether ranks share the call
    net, params, buffers = fn.from_module(Block())
    x = torch.ones(4, 5, 8)
    for train, rng in ((True, fn.random.key(0)), (True, 0), (False, None)):
        files = files_entered(lambda train=train, rng=rng: net.apply(params, buffers, x, train=train, rng=rng))
        assert len(files) <= 15, sorted(files)


def test_a_second_call_of_a_stock_net_enters_at_most_6_files():
    net = fn.Sequential(fn.Linear(8, 8), fn.ReLU(), fn.Linear(8, 8))
    params, _ = net.init(0)
    files = files_entered(lambda: net(params, torch.ones(4, 8)))
    assert len(files) <= 6, sorted(files)
