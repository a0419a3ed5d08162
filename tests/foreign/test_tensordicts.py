"""TensorDicts as inputs: a mapping whose length and items are those of its batch, not of its entries."""

from __future__ import annotations

import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorData, TensorDict, TensorDictParams, tensorclass
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.linspace(-1, 1, 12).view(4, 3)


@tensorclass
class Data:
    obs: torch.Tensor
    name: str


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, batch):
        return self.fc(batch["obs"] if isinstance(batch, TensorDict) else batch.obs if hasattr(batch, "obs") else X)


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, batch, more=None):
        batch["obs"].add_(1)
        batch["out"] = self.fc(batch["obs"])
        batch["next", "obs"] = batch["obs"] * 2
        return batch


def make_policy():
    """A policy in the manner of torchrl: modules that read and write entries of one TensorDict."""
    hidden = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    return TensorDictSequential(
        TensorDictModule(hidden, in_keys=["obs"], out_keys=["hidden"]),
        TensorDictModule(nn.Linear(8, 2), in_keys=["hidden"], out_keys=[("agent", "action")]),
    )


@pytest.mark.parametrize("train", [False, True])
def test_modules_over_tensordicts_have_the_bits_of_the_module_and_write_to_nothing(train):
    torch.manual_seed(0)
    module = make_policy()
    net, params, buffers = fn.from_module(module)
    batch = TensorDict({"obs": X}, batch_size=[4])
    for _ in range(2):
        output, new_buffers = net.apply(params, buffers, batch, train=train, rng=5)
        assert list(batch.keys()) == ["obs"]
        torch.manual_seed(5)
        expected = fn.to_module(net, params, buffers).train(train)
        assert_identical(output["agent", "action"].detach(), expected(batch.clone())["agent", "action"].detach())
        assert_identical(fn.tree.flatten(new_buffers), dict(expected.named_buffers()))
    drawn, _ = net.apply(params, buffers, batch, train=True, rng=fn.random.key(0))
    again, _ = net.apply(params, buffers, batch, train=True, rng=fn.random.key(0))
    assert_identical(drawn["hidden"], again["hidden"])


def test_transforms_map_over_tensordicts():
    net, params, _ = fn.from_module(TensorDictModule(nn.Linear(3, 2), in_keys=["obs"], out_keys=["act"]))
    batch = TensorDict({"obs": X}, batch_size=[4])
    expected = fn.Linear(3, 2)(params["module"], X)
    mapped = torch.vmap(lambda batch: net(params, batch)["act"])(batch)
    torch.testing.assert_close(mapped, expected)

    def loss(params, x):
        return net(params, TensorDict({"obs": x}))["act"].square().sum()

    value, grads = fn.value_and_grad(loss)(params, X)
    torch.testing.assert_close(value, expected.square().sum())
    assert_identical(torch.func.grad(loss)(params, X), grads)
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, X)
    torch.testing.assert_close(fn.tree.map(lambda leaf: leaf.sum(0), each), grads)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert_identical(compiled(params, X), loss(params, X))


@pytest.mark.parametrize(
    "batch",
    [
        TensorDict({"obs": X}, batch_size=[4]),
        TensorDict({"obs": X}),
        TensorDict({"obs": X}, batch_size=[4, 3]),
        TensorDict({"obs": X, "note": NonTensorData("text")}),
        TensorDict({"obs": X, "deep": {"a": X}}, batch_size=[4]).lock_(),
        Data(obs=X, name="one", batch_size=[4]),
    ],
    ids=["batch", "no batch", "two axes", "text", "locked", "tensorclass"],
)
def test_every_kind_of_tensordict_goes_in(batch):
    net, params, _ = fn.from_module(Reads())
    assert_identical(net(params, batch), fn.Linear(3, 2)(params["fc"], X))
    own = fn.compose(fc=fn.Linear(3, 2))(lambda p, batch: p.fc(batch.get("obs")))
    assert_identical(own(params, batch), fn.Linear(3, 2)(params["fc"], X))


def test_tensordicts_in_containers_and_objects_go_in():
    class Holder:
        def __init__(self, batch):
            self.batch = batch

    class Looks(nn.Module):
        def forward(self, batches, holder):
            holder.batch["obs"].mul_(2)
            batches[0]["obs"].add_(1)
            return batches[0]["obs"] + holder.batch["obs"]

    net, params, _ = fn.from_module(Looks())
    batch = TensorDict({"obs": X}, batch_size=[4])
    for _ in range(2):
        assert_identical(net(params, [batch.clone()], Holder(batch)), X + 1 + X * 2)
    assert_identical(batch["obs"], X)
    lazy = LazyStackedTensorDict(*[TensorDict({"obs": row}) for row in X], stack_dim=0)
    first = fn.compose()(lambda p, batch: batch["obs"] * 2)
    assert_identical(first({}, lazy), X * 2)


def test_writes_to_a_tensordict_stay_in_a_foreign_call_and_are_refused_in_a_body():
    net, params, _ = fn.from_module(Writes())
    batch = TensorDict({"obs": X.clone()}, batch_size=[4])
    for _ in range(2):
        output = net(params, batch)
        assert sorted(output.keys()) == ["next", "obs", "out"]
        assert_identical(batch.to_dict(), {"obs": X})

    @fn.compose(fc=fn.Linear(3, 2))
    def own(p, batch):
        batch["out"] = p.fc(batch["obs"])
        return batch

    with pytest.raises(fn.PurityError, match=r"input 0\['out'\] \(new\)"):
        own(params, batch)
    assert_identical(batch.to_dict(), {"obs": X})
    torch.compiler.reset()
    with pytest.raises(fn.PurityError, match="input 0"):
        torch.compile(own, backend="eager")(params, batch)
    assert_identical(batch.to_dict(), {"obs": X})


def test_tensordicts_for_params_are_told_what_to_do():
    net = fn.Sequential(fn.Linear(3, 2))
    params, _ = net.init(0)
    held = TensorDict(params)
    with pytest.raises(fn.TreeError, match=r"params: expected .* got TensorDict; params\.to_dict\(\) is such a dict"):
        net(held, X)
    with pytest.raises(fn.TreeError, match=r"buffers\.to_dict\(\)"):
        net.apply(params, TensorDict(), X)
    assert_identical(net(held.to_dict(), X), net(params, X))
    for value in (held, held.flatten_keys(".")):
        assert_identical(fn.from_state_dict(net, value)[0], params)


def test_a_module_that_holds_a_tensordict_is_converted():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = TensorDictParams(TensorDict({"a": X.clone()}))
            self.constants = TensorDict({"b": X.clone()})

        def forward(self, x):
            return x + self.constants["b"]

    net, params, buffers = fn.from_module(Holds())
    assert_identical(net.apply(params, buffers, X)[0], X + X)
