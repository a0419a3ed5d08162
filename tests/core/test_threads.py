"""Calls are re-entrant: threads that share a net do not meet."""

from __future__ import annotations

import threading

import torch
from torch import nn

import funcnet as fn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)
        self.last = None

    def forward(self, x):
        self.last = torch.relu(self.fc(x))
        return self.bn(self.last)


def run_in_threads(net, params, buffers, threads=4, calls=300, **options):
    x = torch.linspace(-1, 1, 20).view(5, 4)
    scaled = [fn.tree.map(lambda t, k=k: t * (1 + k) if t.is_floating_point() else t, params) for k in range(threads)]
    expected = [net.apply(each, buffers, x, **options) for each in scaled]
    wrong: list[int] = []

    def work(k):
        for _ in range(calls):
            y, new = net.apply(scaled[k], buffers, x, **options)
            same = torch.equal(y, expected[k][0]) and all(
                torch.equal(left, right)
                for left, right in zip(
                    fn.tree.flatten(new).values(), fn.tree.flatten(expected[k][1]).values(), strict=True
                )
            )
            if not same:
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


def test_threads_share_a_native_net():
    net = fn.Sequential(fn.Linear(4, 4), fn.BatchNorm1d(4), fn.Dropout(0.5), fn.ReLU())
    assert run_in_threads(net, *net.init(0), train=True, rng=fn.random.key(0)) == []


def test_threads_share_a_wrapped_net_and_the_module_stays_as_it_was():
    module = Odd()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    net, params, buffers = fn.from_module(module)
    assert isinstance(net, fn.Wrapped)
    assert run_in_threads(net, params, buffers) == []
    assert run_in_threads(net, params, buffers, calls=100, train=True) == []
    assert module.last is None
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
