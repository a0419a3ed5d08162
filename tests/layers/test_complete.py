"""Every layer of torch.nn has a counterpart, including layers that a future torch adds."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

import funcnet as fn
from funcnet.core import Lazy
from funcnet.layers import COUNTERPARTS
from tests.cases import CASES

NOT_LAYERS = {"Module", "Container", "DataParallel"}  # the base class, its old name, and a way to run on several GPUs
CLASSES = [
    name
    for name, value in vars(nn).items()
    if inspect.isclass(value) and issubclass(value, nn.Module) and name not in NOT_LAYERS
]


@pytest.mark.parametrize("name", CASES and CLASSES)
def test_a_class_of_torch_has_a_net_of_its_name(name):
    assert hasattr(fn, name), f"torch.nn.{name} has no counterpart funcnet.{name}"
    net = getattr(fn, name)
    assert issubclass(net, fn.Net)
    assert net.__name__ == name
    assert net.__doc__


def test_every_layer_has_a_case():
    covered = {type(module) for case in CASES for module in case.module().modules()}
    base = {twin for twin in COUNTERPARTS if twin.forward is nn.Module.forward}  # they compute nothing
    lazy = {twin for twin, net in COUNTERPARTS.items() if issubclass(net, Lazy)}
    missing = [twin.__name__ for twin in COUNTERPARTS if twin not in covered | base | lazy]
    assert not missing
