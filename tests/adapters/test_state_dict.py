"""Trees and state_dicts, in memory and on disk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases import CASES
from tests.helpers import assert_identical, clone, parametrize

NET = fn.Sequential(fn.Linear(3, 4), fn.BatchNorm1d(4), fn.Linear(4, 2))


@parametrize(case=CASES)
def test_a_pth_file_goes_both_ways(case, tmp_path):
    module = case.module()
    torch.save(module.state_dict(), tmp_path / "module.pth")
    net = case.net()
    params, buffers = fn.from_state_dict(net, torch.load(tmp_path / "module.pth", weights_only=True))
    torch.save(fn.to_state_dict(net, params, buffers), tmp_path / "net.pth")
    saved = torch.load(tmp_path / "net.pth", weights_only=True)
    assert_identical(dict(saved), dict(module.state_dict()))
    twin = case.module()
    assert str(twin.load_state_dict(saved)) == "<All keys matched successfully>"
    outputs = []
    for one in (twin, module):
        torch.manual_seed(0)
        outputs.append(one(*case.inputs(), **case.call))
    assert_identical(*outputs)


def test_trees_alone_join_to_the_keys_of_the_module_in_order():
    net = fn.Sequential(
        {
            "a": fn.BatchNorm1d(3, affine=False),
            "b": fn.Linear(3, 3),
            "c": fn.Sequential(*[fn.BatchNorm1d(3, affine=index % 2 == 0) for index in range(12)]),
            "d": fn.BatchNorm1d(3),
        }
    )
    params, buffers = net.init(0)
    keys = list(fn.to_module(net, params, buffers).state_dict())
    assert list(fn.to_state_dict(net, params, buffers)) == keys
    assert list(fn.to_state_dict(params, buffers)) == keys
    assert list(fn.to_state_dict(fn.Linear(2, 2).init(0)[0])) == ["weight", "bias"]


def test_trees_that_do_not_fit_are_not_written():
    params, buffers = NET.init(0)
    with pytest.raises(fn.TreeError, match=r"missing     params\['2'\]"):
        fn.to_state_dict(NET, {key: params[key] for key in ("0", "1")}, buffers)
    with pytest.raises(fn.TreeError, match=r"missing     buffers\['1'\]\['running_mean'\]"):
        fn.to_module(NET, params)


def test_every_wrong_key_is_told_at_once_with_the_nearest_name():
    state = dict(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict())
    state["0.wieght"] = state.pop("0.weight")
    state["1.num_batches_tracked"] = torch.zeros(())
    state["2.weight"] = torch.zeros(4, 2)
    state["2.bias"] = "zeros"
    state["epoch"] = 3
    given = dict(state)
    with pytest.raises(fn.TreeError) as caught:
        fn.from_state_dict(NET, state)
    assert state == given
    text = str(caught.value)
    for line in (
        "6 problems",
        "missing     '0.weight': expected shape (4, 3); nearest given name: '0.wieght'",
        "extra       '0.wieght': tensor of shape (4, 3); nearest expected name: '0.weight'",
        "extra       'epoch': int 3",
        "mis-typed   '1.num_batches_tracked': expected torch.int64, got torch.float32",
        "mis-shaped  '2.weight': expected (2, 4), got (4, 2): the transpose",
        "mis-typed   '2.bias': expected a tensor of shape (2,), got str 'zeros'",
    ):
        assert line in text


def test_interchanged_or_foreign_arguments_are_told():
    for wrong in ((NET, nn.Linear(2, 2)), ({}, NET)):
        with pytest.raises(TypeError, match=r"from_state_dict takes \(net, state_dict\)"):
            fn.from_state_dict(*wrong)
    for wrong in ((nn.Linear(2, 2),), ({}, nn.Linear(2, 2)), ()):
        with pytest.raises(TypeError, match=r"to_state_dict takes .*A module has its own: module\.state_dict\(\)"):
            fn.to_state_dict(*wrong)


def test_trees_are_copies_unless_asked_otherwise():
    module = nn.Linear(3, 2)
    params, _ = fn.from_state_dict(fn.Linear(3, 2), module.state_dict())
    shared, _ = fn.from_state_dict(fn.Linear(3, 2), module.state_dict(), copy=False)
    given = clone(params)
    with torch.no_grad():
        module.weight.add_(1)
    assert_identical(params, given)
    assert_identical(shared["weight"], module.weight.detach())


def test_non_persistent_buffers_get_their_first_value_or_the_one_given():
    net = fn.compose(table=fn.Buffer(3, [1, 2, 3], persistent=False), steps=fn.Buffer(()))(lambda p, x: x + p.table)
    _, buffers = net.init(0)
    state = fn.to_state_dict(net, {}, buffers)
    assert list(state) == ["steps"]
    assert_identical(fn.from_state_dict(net, state)[1]["table"], torch.tensor([1.0, 2.0, 3.0]))
    assert_identical(fn.from_state_dict(net, {**state, "table": torch.zeros(3)})[1]["table"], torch.zeros(3))


def test_dtypes_and_devices_of_the_file_are_kept():
    state = {key: value.to(torch.bfloat16) for key, value in nn.Linear(3, 2).state_dict().items()}
    params, _ = fn.from_state_dict(fn.Linear(3, 2), state)
    assert {leaf.dtype for leaf in params.values()} == {torch.bfloat16}
    assert fn.to_module(fn.Linear(3, 2), params).weight.dtype == torch.bfloat16
