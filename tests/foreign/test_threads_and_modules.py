"""Foreign nets in threads, and the modules that are made of them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import funcnet as fn
from tests.foreign.helpers import X
from tests.helpers import assert_identical


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(20))
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        for layer in self.layers:
            x = torch.tanh(layer(x)) + self.calls
        return self.drop(self.norm(x))


def test_threads_with_different_params_do_not_meet():
    net, params, buffers = fn.from_module(Deep())
    given = [fn.tree.map(lambda leaf, by=by: leaf * (1 + by / 10), params) for by in range(8)]
    expected = [net.apply(one, buffers, X, train=True, rng=index) for index, one in enumerate(given)]

    def work(index):
        wrong = 0
        for _ in range(200):
            y, new = net.apply(given[index], buffers, X, train=True, rng=index)
            same = torch.equal(y, expected[index][0])
            wrong += not (same and torch.equal(new["norm"]["running_mean"], expected[index][1]["norm"]["running_mean"]))
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8


def test_a_module_made_of_a_foreign_net_is_its_class_in_full(tmp_path):
    module = Deep()
    net, params, buffers = fn.from_module(module)
    made = fn.to_module(net, params, buffers)
    assert type(made) is Deep and made.load_state_dict(module.state_dict()).missing_keys == []
    torch.save(made, tmp_path / "made.pt")
    copies = [copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.to(torch.float64).float()]
    copies.append(torch.load(tmp_path / "made.pt", weights_only=False))
    for one in copies:
        assert_identical(dict(one.state_dict()), dict(module.state_dict()))
        assert_identical(one.eval()(X), copy.deepcopy(module).eval()(X))
    assert made.half().norm.weight.dtype == torch.float16
    assert next(nn.DataParallel(made).parameters()) is next(made.parameters())


def test_training_the_module_or_the_net_gives_equal_weights():
    module = Deep().train()
    net, params, buffers = fn.from_module(module)
    made = fn.to_module(net, params, buffers)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (module, made)]
    for step in range(3):
        for one, optimizer in zip((module, made), optimizers, strict=True):
            torch.manual_seed(step)
            one.calls = 0
            optimizer.zero_grad()
            one(X).pow(2).sum().backward()
            optimizer.step()

        def loss(params, buffers=buffers, step=step):
            y, new = net.apply(params, buffers, X, train=True, rng=step)
            return y.pow(2).sum(), new

        (_, buffers), grads = fn.value_and_grad(loss, has_aux=True)(params)
        params = fn.tree.map(lambda leaf, grad: leaf.add(grad, alpha=-0.1), params, grads)
    assert_identical(fn.tree.flatten(params), {name: param.detach() for name, param in module.named_parameters()})
    assert_identical(fn.to_state_dict(net, params, buffers), dict(module.state_dict()))
    assert_identical(dict(made.state_dict()), dict(module.state_dict()))
