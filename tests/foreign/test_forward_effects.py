"""What a foreign forward may do besides computing its output: each test is one thing, and what must hold."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import funcnet as fn
from tests.foreign.helpers import X, assert_same_as_module
from tests.helpers import assert_identical, clone, parametrize


@dataclasses.dataclass
class Result:
    out: torch.Tensor
    count: int


class Writes(nn.Module):
    """Writes in every way to itself, its parts and its inputs."""

    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(6))
        self.register_buffer("maybe", None)
        self.total = 0.0

    def forward(self, x, *, cache):
        x += 1
        cache["x"].mul_(2)
        cache.setdefault("more", []).append(x)
        self.seen += x.sum(0)
        self.maybe = self.seen if self.maybe is None else self.maybe + 1
        self.total = self.total + x.new_zeros(())
        self.drop.p = 0.9
        self.fc.register_forward_hook(lambda layer, args, output: output * 2)
        for child in self.children():
            child.last = x
            x = child(x)
        return Result(x * cache["x"], len(cache["more"]))


def test_a_forward_that_writes_everywhere_leaves_no_trace():
    module = Writes()
    net, params, buffers = fn.from_module(module)
    cache = {"x": torch.ones(6)}
    given = clone((params, buffers, X, cache))
    results = [net.apply(params, buffers, X, cache=cache, train=True, rng=3) for _ in range(3)]
    torch.manual_seed(3)
    expected = module.train()(X.clone(), cache=clone(cache))
    for result, new in results:
        assert isinstance(result, Result) and result.count == 1
        assert_identical(result.out, expected.out.detach())
        assert_identical(new["seen"], module.seen)
    assert_identical((params, buffers, X, cache), given)


class WritesWeights(nn.Module):
    """Scales its weights once, when it first runs in eval mode; in training mode it moves one towards another."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow, self.scaled = nn.Linear(6, 6), nn.Linear(6, 6), False

    @torch.no_grad()
    def write(self):
        if self.training:
            self.slow.weight.lerp_(self.fast.weight, 0.1)
        elif not self.scaled:
            self.fast.weight.div_(2)
            self.scaled = True

    def forward(self, x):
        self.write()
        return self.fast(x) - self.slow(x)


@parametrize(around=[False, True], named=[True, False])
def test_a_forward_that_writes_to_its_weights_has_copies_in_eval_and_is_refused_in_training(around, named):
    module = nn.Sequential(WritesWeights()) if around else WritesWeights()
    net, params, buffers = fn.from_module(module)
    given = clone(params)
    expected = copy.deepcopy(module).eval()(X)
    for _ in range(3):
        assert_identical(net(params, X), expected.detach())
        assert_identical(net.apply(params, buffers, X, rng=0)[0], expected.detach())
        with pytest.raises(fn.PurityError, match=r"params '(0\.)?slow.weight'.*none is changed"):
            net.apply(params, buffers, X, train="**" if named else True, rng=0)
        assert_identical(params, given)
    loss = lambda params: net(params, X).sum()  # noqa: E731
    assert_identical(fn.value_and_grad(loss)(params)[1], torch.func.grad(loss)(params))
    assert_identical(params, given)


def test_objects_given_as_inputs_are_not_written_to():
    class Store:
        def __init__(self):
            self.keys = [torch.zeros(6)]

    class Appends(nn.Module):
        def forward(self, x, store):
            store.keys[0].add_(1)
            store.keys.append(x)
            return x * len(store.keys) + store.keys[0]

    store = Store()
    net, _, _ = fn.from_module(Appends())
    for _ in range(2):
        assert_identical(net({}, X, store), X * 2 + 1)
    assert len(store.keys) == 1 and not store.keys[0].any()


def test_checkpointed_parts_give_the_gradients_of_their_own_call():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.reentrant = reentrant
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
            return x

    for reentrant in (False, True):
        module = Checkpointed(reentrant).train()
        net, params, buffers = fn.from_module(module)
        leaves = [fn.tree.map(lambda leaf, by=by: (by * leaf).requires_grad_(), params) for by in (1.0, 2.0)]
        x = X.clone().requires_grad_()
        outputs = [net.apply(one, buffers, x, train=True)[0] for one in leaves]  # both calls before either backward
        for one, output in zip(leaves, outputs, strict=True):
            module.load_state_dict(fn.to_state_dict(net, fn.tree.map(torch.Tensor.detach, one), buffers))
            flat = fn.tree.flatten(one)
            output.sum().backward()
            module.zero_grad()
            module(X.clone().requires_grad_()).sum().backward()
            assert_identical(
                {path: flat[path].grad for path in flat}, {n: p.grad for n, p in module.named_parameters()}
            )


def test_checkpoints_under_transforms_are_refused_with_the_way_out():
    class Saves(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return checkpoint(self.fc, x, use_reentrant=False)

    net, params, _ = fn.from_module(Saves())
    with pytest.raises(fn.TransformError, match=r"Saves uses torch\.utils\.checkpoint.*value_and_grad"):
        torch.func.grad(lambda params: net(params, X).sum())(params)
    assert fn.value_and_grad(lambda params: net(params, X).sum())(params)[1]["fc"]["bias"].eq(4).all()


def test_draws_within_a_checkpoint_are_refused():
    class Drops(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.reentrant = reentrant
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return checkpoint(self.drop, x, use_reentrant=self.reentrant)

    for reentrant in (False, True):
        net, params, buffers = fn.from_module(Drops(reentrant))
        x = X.clone().requires_grad_()
        with pytest.raises(fn.RandomnessError, match=r"drop draws within torch\.utils\.checkpoint"):
            net.apply(params, buffers, x, train=True, rng=fn.random.key(0))
        assert_identical(net(params, x), X)


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        return x * module.scale

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.module.scale, None


def test_an_autograd_function_that_keeps_the_module_finds_its_weights_in_backward():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((6,), 3.0))

        def forward(self, x):
            return Squares.apply(x, self)

    net, params, _ = fn.from_module(Custom())
    xs = [X.clone().requires_grad_() for _ in range(2)]
    outputs = [net({"scale": by * params["scale"]}, x) for by, x in enumerate(xs, 1)]
    for by, (x, output) in enumerate(zip(xs, outputs, strict=True), 1):
        output.sum().backward()
        assert_identical(x.grad, torch.full_like(X, 3.0 * by))


def test_autocast_grad_modes_and_loops_over_modules_are_as_in_the_module():
    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.layers["a"](x)
            with torch.no_grad():
                y = self.layers["b"](x.float())
            return {"x": x, "y": y, "norm": sum(p.float().pow(2).sum() for p in self.parameters())}

    net, params, _ = assert_same_as_module(Modes(), X)
    grads = fn.value_and_grad(lambda params: net(params, X)["norm"])(params)[1]
    assert_identical(grads["layers"]["b"]["weight"], 2 * params["layers"]["b"]["weight"])
