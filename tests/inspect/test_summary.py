"""The table of a net says what is there."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases import MODEL_CASES
from tests.helpers import global_generator_untouched, parametrize


@parametrize(case=MODEL_CASES)
def test_rows_are_the_modules_with_their_outputs_and_sizes(case):
    module = case.module().eval()
    net, params, buffers = fn.from_module(module)
    shapes = {}
    for path, part in module.named_modules():
        part.register_forward_hook(lambda part, inputs, y, path=path: shapes.setdefault(path, y))
    module(*case.inputs())
    with global_generator_untouched():
        table = fn.summary(net, params, *case.inputs(), buffers=buffers)
    assert [row.path for row in table.rows] == [path for path, _ in module.named_modules()]
    for row in table.rows:
        part = module.get_submodule(row.path)
        assert row.type == type(part).__name__
        assert row.parameters == sum(param.numel() for param in part.parameters(recurse=False))
        if isinstance(shapes.get(row.path), torch.Tensor):
            assert row.output == str(tuple(shapes[row.path].shape))
    tensors = [*module.parameters(), *module.buffers()]
    assert table.parameters == sum(param.numel() for param in module.parameters())
    assert table.bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_tied_tensors_count_once_and_dtypes_count():
    net = fn.Sequential(fn.Linear(3, 3, bias=False), fn.Linear(3, 3, bias=False)).tie({"1.weight": "0.weight"})
    params, _ = net.init(0, dtype=torch.float64)
    table = fn.summary(net, params, torch.ones(2, 3, dtype=torch.float64))
    assert (table.parameters, table.bytes) == (9, 72)


def test_a_foreign_module_shows_its_tree():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return {"hidden": self.fc(x), "mean": x.mean()}

    net, params, _ = fn.from_module(Foreign())
    table = fn.summary(net, params, torch.ones(2, 3))
    assert [(row.type, row.output) for row in table.rows] == [
        ("Foreign", "{hidden: (2, 4), mean: ()}"),
        ("Linear", "(2, 4)"),
    ]


class NeedsNumbers(nn.Module):
    """A branch on a number, a choice of rows, a draw, and a tensor in no tree: shapes do not tell the output."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.shift = nn.Linear(3, 4), nn.BatchNorm1d(4), torch.ones(4)
        self.register_buffer("keep", torch.tensor([1, 0]), persistent=False)
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, x):
        x += 1
        x = self.norm(self.fc(x)) + self.shift
        return x[self.keep.bool()] if x.sum() > self.threshold else torch.rand(9)


def test_what_shapes_do_not_tell_is_told_by_the_numbers_of_params():
    module = NeedsNumbers()
    nn.init.constant_(module.fc.bias, 10.0)
    net, params, buffers = fn.from_module(module)
    x = torch.zeros(2, 3)
    with global_generator_untouched():
        with_buffers = fn.summary(net, params, x, buffers=buffers)
        without_buffers = fn.summary(net, params, x)
    assert [row.output for row in with_buffers.rows] == ["(1, 4)", "(2, 4)", "(2, 4)"]
    assert [row.output for row in without_buffers.rows] == ["(1, 4)", "(2, 4)", "(2, 4)"]
    assert not x.any()
    assert buffers["norm"]["num_batches_tracked"] == 0
    with pytest.raises(RuntimeError):
        fn.summary(net, None, x)
    with pytest.raises(RuntimeError):
        fn.summary(net, params, torch.zeros(2, 5))


def test_it_needs_neither_params_nor_inputs():
    net = fn.Linear(3, 4)
    assert [(row.output, row.parameters) for row in fn.summary(net).rows] == [("", 16)]
    assert fn.summary(net, None, torch.ones(2, 3)).rows[0].output == "(2, 4)"


def test_inputs_that_do_not_fit_are_refused_with_the_path():
    net = fn.Sequential(fn.ReLU(), fn.Linear(3, 4))
    with pytest.raises(fn.ShapeError, match="Linear at '1'"):
        fn.summary(net, net.init(0)[0], torch.ones(2, 5))


def test_it_prints_with_rich_and_without(monkeypatch):
    net = fn.Sequential(fn.Linear(40, 50), fn.ReLU())
    table = fn.summary(net, None, torch.ones(2, 40))
    assert "┃ path" in str(table)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert str(table).splitlines() == [
        "path   type        output   parameters  bytes",
        "       Sequential  (2, 50)           0      0",
        "0      Linear      (2, 50)       2,050  8,200",
        "1      ReLU        (2, 50)           0      0",
        "total                            2,050  8,200",
    ]


def test_a_module_has_the_table_of_its_net():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net, params, buffers = fn.from_module(module)
    x = torch.ones(2, 3)
    assert fn.summary(module, x) == fn.summary(net, params, x, buffers=buffers)
    assert fn.summary(module).parameters == 24
    assert fn.summary(nn.LazyLinear(8), x).rows[0].output == "(2, 8)"
    with pytest.raises(TypeError, match="leave buffers out"):
        fn.summary(module, x, buffers={})
    with pytest.raises(TypeError, match=r"a net or an nn\.Module, not 3"):
        fn.summary(3)
