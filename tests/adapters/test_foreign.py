"""Modules that do what modules should not: each test is one thing a foreign module may do, and what must hold."""

from __future__ import annotations

import collections
import copy
import dataclasses
import math
import pickle
import random
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize

X = torch.linspace(-1, 1, 24).view(4, 6)


def plain(output):
    return {key: value.detach() for key, value in output.items()} if isinstance(output, dict) else output.detach()


def same_as_module(module, *inputs, train=False, rng=None, **kwargs):
    """Three calls of the net, each with the module's bits; nothing given is changed."""
    net, params, buffers = fn.from_module(module)
    given = clone((params, buffers, inputs))
    fresh = copy.deepcopy(module).train(train)
    torch.manual_seed(rng or 0)
    expected = fresh(*clone(inputs), **clone(kwargs))
    leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), params)  # as they do in the module: see README
    for _ in range(3):
        with global_generator_untouched():
            output, new = net.apply(leaves, buffers, *inputs, train=train, rng=rng, **kwargs)
        assert_identical(plain(output), plain(expected))
        assert_identical(fn.tree.map(torch.Tensor.detach, new), buffers_of(fresh))
    assert_identical((params, buffers, inputs), given)
    return net, params, buffers


# --- what a module holds ---


class ClosesOver(nn.Module):
    """A function in an attribute that has closed over the module, a list outside and a weight."""

    def __init__(self, outside):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        weight = self.fc.weight

        def scaled(x):
            outside.append(len(outside))
            return F.linear(self.fc(x), weight) * len(outside)

        self.scaled = scaled

    def forward(self, x):
        return self.scaled(x)


def test_a_closure_over_the_module_uses_the_params_given_and_writes_nowhere():
    outside = []
    net, params, _ = fn.from_module(ClosesOver(outside))
    expected = F.linear(F.linear(X, **params["fc"]), params["fc"]["weight"])
    for _ in range(2):
        assert_identical(net(params, X), expected)
    assert outside == []
    doubled = fn.tree.map(lambda leaf: 2 * leaf, params)
    assert_identical(net(doubled, X), F.linear(F.linear(X, **doubled["fc"]), doubled["fc"]["weight"]))
    grads = fn.value_and_grad(lambda params: net(params, X).sum())(params)[1]
    assert grads["fc"]["weight"].abs().sum() > 0


def test_hooks_run_and_what_they_collect_stays_inside():
    seen = []
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    module[0].register_forward_hook(lambda layer, args, output: seen.append(output) or output * 2)
    module[1].register_forward_pre_hook(lambda layer, args: (args[0] + 1,))
    module.register_forward_hook(lambda layer, args, kwargs, output: output + len(kwargs), with_kwargs=True)
    expected = module(X).detach()
    count = len(seen)
    seen.clear()
    net, params, _ = fn.from_module(module)
    for _ in range(2):
        assert_identical(net(params, X), expected)
    assert (count, seen) == (1, [])


def test_weak_references_point_into_the_copy():
    class Child(nn.Module):
        def __init__(self, parent):
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x):
            return x * self.parent().scale

    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))
            self.child = Child(self)

        def forward(self, x):
            return self.child(x)

    module = Parent()
    net, params, _ = fn.from_module(module)
    assert_identical(net({"scale": 3 * params["scale"]}, X), X * 3)


def test_weights_in_lists_and_plain_attributes_are_those_given():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(6)), nn.Parameter(torch.full((6,), 2.0))
            self.both = [self.a, self.b]
            self.named = {"last": self.b}
            self.__dict__["again"] = self.a

        def forward(self, x):
            return sum(x * weight for weight in self.both) * self.named["last"] + self.again

    net, params, _ = same_as_module(Lists(), X)
    given = fn.tree.map(lambda leaf: leaf * 3, params)
    assert_identical(net(given, X), (sum(x * 1 for x in (X * given["a"], X * given["b"]))) * given["b"] + given["a"])


def test_locks_executors_and_random_sources_are_the_copy_s_own():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock, self.condition = threading.RLock(), threading.Condition()
            self.local = threading.Event()
            self.dice = random.Random(3)
            self.generator = torch.Generator().manual_seed(5)
            self.names = {str(index): index for index in range(5000)}
            self.queue = collections.deque(maxlen=3)

        def forward(self, x):
            with self.lock, self.condition:
                self.names["3"] += 1
                self.queue.append(x)
                noise = torch.rand(6, generator=self.generator)
                return x * self.dice.random() + self.names["3"] + len(self.queue) + noise

    module = Holds()
    net, _, _ = fn.from_module(module)
    first = net({}, X)
    for _ in range(3):
        assert_identical(net({}, X), first)
    assert module.names["3"] == 3 and not module.queue
    assert_identical(first, module(X))


def test_what_cannot_be_copied_is_named():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.fc.numbers = (number for number in range(3))
            self.file = open(__file__)  # noqa: SIM115

        def forward(self, x):
            return x

    module = Holds()
    with pytest.raises(fn.ConversionError) as caught:
        fn.from_module(module)
    module.file.close()
    assert "file: TextIOWrapper" in str(caught.value) and "fc.numbers: generator" in str(caught.value)


def test_scripted_parts_are_named():
    module = nn.Sequential(nn.Linear(6, 6), nn.Sequential(torch.jit.script(nn.Linear(6, 6))))
    with pytest.raises(fn.ConversionError, match=r"a ScriptModule has none\n  1\.0\n"):
        fn.from_module(module)


class Tells(nn.Module):
    """Its numbers are in its repr."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("scale", torch.full((), 2.0))

    def extra_repr(self):
        return f"scale={self.scale.item():.2f}"

    def forward(self, x):
        return self.fc(x) * self.scale


@parametrize(make=[Tells, lambda: nn.Sequential(nn.ReLU(), Tells())])
def test_numbers_in_a_repr_are_shown(make):
    net, params, buffers = fn.from_module(make())
    assert "scale=2.00" in repr(net) and repr(net) == repr(make())
    assert repr(pickle.loads(pickle.dumps(net))) == repr(net)
    assert repr(fn.to_module(net, params, fn.tree.map(lambda leaf: leaf + 1, buffers))).count("scale=3.00") == 1


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@parametrize(layout=["to_sparse", "to_sparse_csr"])
def test_sparse_buffers_are_buffers(layout):
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.register_buffer("edges", getattr(torch.eye(4), layout)())

        def forward(self, x):
            return self.edges @ self.fc(x)

    module = Graph()
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
    assert_identical(fn.to_module(net, params, buffers)(X).detach(), module(X).detach())


# --- what a forward does ---


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

    net, params, _ = same_as_module(Modes(), X)
    grads = fn.value_and_grad(lambda params: net(params, X)["norm"])(params)[1]
    assert_identical(grads["layers"]["b"]["weight"], 2 * params["layers"]["b"]["weight"])


# --- what it is called with, and gives back ---


def test_packed_sequences_go_in_and_out():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 5, 2, dropout=0.5, bidirectional=True)

        def forward(self, x):
            return self.lstm(x)[0]

    module = Packs().train()
    packed = pack_padded_sequence(X.view(4, 1, 6).repeat(1, 3, 1), [4, 2, 1])
    net, params, buffers = fn.from_module(module)
    for _ in range(2):
        with global_generator_untouched():
            output, _ = net.apply(params, buffers, packed, train=True, rng=2)
        torch.manual_seed(2)
        assert isinstance(output, PackedSequence)
        assert_identical(output.data, module(packed).data.detach())


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up, self.drop = nn.Linear(6, 3), nn.Linear(3, 6), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def encode(self, x, *, gain=1.0):
        self.calls += 1
        return self.drop(self.down(x)) * gain

    def forward(self, x):
        return self.up(self.encode(x))


def test_another_method_than_forward():
    module = Coder().train()
    net, params, buffers = fn.from_module(module)
    y, new = net.apply(params, buffers, X, method="encode", train=True, rng=5, gain=2.0)
    torch.manual_seed(5)
    assert_identical(y, module.encode(X, gain=2.0).detach())
    assert_identical(new, {"calls": torch.ones(())})
    with pytest.raises(AttributeError, match="Coder has no method 'decode'"):
        net.apply(params, buffers, X, method="decode")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: net.apply(params, buffers, x, method="encode")[0], fullgraph=True, backend="eager"
    )
    assert_identical(compiled(X), net.apply(params, buffers, X, method="encode")[0])
    softmax = fn.AdaptiveLogSoftmaxWithLoss(24, 10, [2, 5])
    params, _ = softmax.init(0)
    x = X.view(1, 24)
    assert_identical(softmax(params, x, method="log_prob"), softmax.log_prob(params, x))


def test_a_method_of_a_net_of_one_s_own():
    class Doubles(fn.Net):
        def parts(self):
            return {"fc": fn.Linear(6, 6)}

        @staticmethod
        def forward(p, x):
            return Doubles.half(p, x) * 2

        @staticmethod
        def half(p, x):
            return p.fc(x) / 2

    net = Doubles()
    params, _ = net.init(0)
    assert_identical(net(params, X, method="half"), net(params, X) / 2)
    assert_identical(net(params, X, method="fc"), fn.Linear(6, 6)(params["fc"], X))
    for name in ("init", "quarter"):
        with pytest.raises(AttributeError, match=f"Doubles has no method '{name}'"):
            net(params, X, method=name)


# --- what is not in the tensors ---


def test_frozen_parameters_are_a_selector():
    module = nn.Sequential(nn.Linear(6, 6), Coder())
    for param in (module[0].weight, *module[1].up.parameters()):
        param.requires_grad_(False)
    net, params, buffers = fn.from_module(module)
    assert net.frozen == ("0.weight", "1.up.weight", "1.up.bias")
    frozen, trainable = fn.tree.partition(params, net.frozen)
    assert list(fn.tree.flatten(frozen)) == list(net.frozen)
    _, grads = fn.value_and_grad(lambda trainable: net.apply(fn.tree.combine(frozen, trainable), buffers, X)[0].sum())(
        trainable
    )
    assert list(fn.tree.flatten(grads)) == [name for name, param in module.named_parameters() if param.requires_grad]
    back = fn.to_module(net, params, buffers)
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]
    again = fn.from_module(back)[0]
    assert again.frozen == net.frozen == pickle.loads(pickle.dumps(net)).frozen
    assert net[0].freeze(True) == fn.Linear(6, 6)  # what is frozen is no part of what is computed
    assert fn.compose(body=net)(lambda p, x: p.body(x)).frozen == tuple(f"body.{path}" for path in net.frozen)


def test_train_flags_of_each_part_are_a_selector():
    module = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)), nn.BatchNorm1d(6))
    assert fn.train_flags(module) is True and fn.train_flags(module.eval()) is False
    module[1][1].train()
    module[2].train()
    net, params, buffers = fn.from_module(module)
    assert fn.train_flags(module) == ("1.1", "2")
    y, new = net.apply(params, buffers, X, train=fn.train_flags(module), rng=1)
    torch.manual_seed(1)
    assert_identical(y, module(X).detach())
    assert_identical(new, buffers_of(module))


class Extra(nn.Module):
    def __init__(self, version):
        super().__init__()
        self.fc, self.version = nn.Linear(6, 6), version

    def get_extra_state(self):
        return {"version": self.version, "range": torch.ones(2)}

    def set_extra_state(self, state):
        self.version = state["version"]

    def forward(self, x):
        return self.fc(x) * self.version


def test_extra_state_goes_both_ways():
    module = nn.Sequential(Extra(2), nn.Linear(6, 6))
    net, params, buffers = fn.from_module(module)
    state = fn.to_state_dict(net, params, buffers)
    assert_identical(dict(state), dict(module.state_dict()))
    assert_identical(fn.from_state_dict(net, state), (params, buffers))
    assert_identical(dict(fn.to_module(net, params, buffers).state_dict()), dict(state))
    assert fn.to_module(net, params, buffers)[0].version == 2
    other = dict(nn.Sequential(Extra(3), nn.Linear(6, 6)).state_dict())
    with pytest.raises(fn.TreeError, match=r"other +'0\._extra_state'"):
        fn.from_state_dict(net, other)


@parametrize(kind=["module", "module_pre", "tensor", "accumulate"])
def test_backward_hooks_are_refused_by_name(kind):
    module = nn.Sequential(nn.Linear(6, 6), Coder())
    hook = {
        "module": lambda: module[1].down.register_full_backward_hook(print),
        "module_pre": lambda: module[1].down.register_full_backward_pre_hook(print),
        "tensor": lambda: module[1].down.weight.register_hook(print),
        "accumulate": lambda: module[1].down.weight.register_post_accumulate_grad_hook(print),
    }[kind]()
    with pytest.raises(fn.ConversionError, match=r"has backward hooks(?s:.*)1\.down.*: print"):
        fn.from_module(module)
    hook.remove()
    fn.from_module(module)


class Lazies(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.conv, self.norm, self.fc = nn.LazyConv1d(4, 1), nn.LazyBatchNorm1d(), nn.LazyLinear(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        return self.fc(self.norm(self.conv(x[..., None])).flatten(1))


def test_lazy_modules_get_their_shapes_from_example_inputs():
    module = Lazies()
    with pytest.raises(fn.ConversionError, match=r"conv\.weight, .*fc\.bias.* have no shape yet"):
        fn.from_module(module)
    torch.manual_seed(4)
    with global_generator_untouched():
        net, params, buffers = fn.from_module(module, example_inputs=X)
    assert isinstance(module.fc, nn.LazyLinear) and module.calls == 0 and module.fc.has_uninitialized_params()
    assert dict(net.named_nets())["fc"] == fn.Linear(4, 3) and not buffers["seen"]
    torch.manual_seed(4)
    module.eval()(X)
    assert_identical(params, fn.from_module(module)[1])
    assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
    with pytest.raises(fn.ConversionError, match="cannot call Lazies on example_inputs"):
        fn.from_module(Lazies(), example_inputs=torch.ones(()))


@pytest.mark.filterwarnings("ignore")
def test_what_torch_puts_around_a_module_is_looked_through():
    module = nn.Sequential(nn.Linear(6, 6), Coder(), nn.BatchNorm1d(6))
    net, params, buffers = fn.from_module(module)
    inner = copy.deepcopy(module)
    inner[1].down = torch.compile(inner[1].down, backend="eager")
    called = copy.deepcopy(module)
    called.compile(backend="eager")
    for wrapper in (torch.compile(module, backend="eager"), nn.DataParallel(module), inner, called):
        other, *trees = fn.from_module(wrapper)
        assert_identical(trees, [params, buffers])
        assert_identical(other.apply(*trees, X)[0], net.apply(params, buffers, X)[0])
        assert repr(other) == repr(net)
        assert_identical(fn.from_state_dict(net, wrapper.state_dict()), (params, buffers))
    with pytest.raises(fn.TreeError, match=r"extra       'model\.0\.weight'"):
        fn.from_state_dict(net, {f"model.{key}": value for key, value in module.state_dict().items()})


def test_a_module_on_the_meta_device_is_a_net_without_numbers():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.register_buffer("table", torch.arange(6.0), persistent=False)

        def forward(self, x):
            return self.fc(x) + self.table

    real = Table()
    with torch.device("meta"):
        net, params, _ = fn.from_module(Table())
    assert params["fc"]["weight"].is_meta
    with pytest.raises(fn.TreeError, match=r"'table' is not in the state_dict.*meta device"):
        fn.from_state_dict(net, real.state_dict())
    trees = fn.from_state_dict(net, {**real.state_dict(), "table": torch.arange(6.0)})
    assert_identical(net.apply(*trees, X)[0], real(X).detach())


# --- draws ---


def block(drops):
    return nn.Sequential(*(nn.Dropout(0.5) for _ in range(drops)))


class Drops(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.last = block(first), block(1)

    def forward(self, x):
        return self.first(x), self.last(x)


def test_draws_from_a_key_depend_on_the_path_of_what_draws():
    key = fn.random.key(1)
    outputs = []
    for count in (1, 3):
        net, params, buffers = fn.from_module(Drops(count))
        outputs.append(net.apply(params, buffers, X, train=True, rng=key)[0])
    assert_identical(outputs[0][1], outputs[1][1])  # a layer more elsewhere reshuffles nothing
    assert not torch.equal(outputs[0][0], outputs[1][0])
    composed = fn.compose(first=fn.Sequential(fn.Dropout(0.5)), last=fn.Sequential(fn.Dropout(0.5)))(
        lambda p, x: (p.first(x), p.last(x))
    )
    assert_identical(composed.apply({}, {}, X, train=True, rng=key)[0], outputs[0])  # and a net's own draws are these
    net, params, buffers = fn.from_module(Drops(1))
    for wrapped in (nn.Sequential(nn.ReLU(), Drops(1)), Drops(1)):
        net, params, buffers = fn.from_module(wrapped)
        torch._dynamo.reset()
        call = torch.compile(net.apply, fullgraph=True, backend="aot_eager")
        eager, _ = net.apply(params, buffers, X, train=True, rng=key)
        assert_identical(call(params, buffers, X, train=True, rng=key)[0], eager)


class DrawsEverywhere(nn.Module):
    """Dropout modules, functions that draw, kernels that draw inside, and a draw in eval mode too."""

    def __init__(self):
        super().__init__()
        self.drop, self.features = nn.Dropout(0.4), nn.AlphaDropout(0.3, inplace=True)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)
        self.lstm = nn.LSTM(6, 6, num_layers=2, dropout=0.4)
        self.inner = nn.Sequential(nn.Dropout1d(0.5), nn.Linear(6, 6))

    def forward(self, x):
        x = F.dropout(self.drop(x), 0.2, self.training) + self.drop.forward(x)
        x = self.attend(x[None], x[None], x[None])[0][0] + torch.rand_like(x)
        q = self.inner(self.features(x))[None]
        return self.lstm(F.scaled_dot_product_attention(q, q, q, dropout_p=0.2 * self.training))[0][0]


@parametrize(alone=[False, True], train=[False, True])
def test_a_seed_gives_the_draws_of_the_module_in_one_thread_or_several(alone, train, monkeypatch):
    monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda: alone)
    same_as_module(DrawsEverywhere(), X, train=train, rng=5)
    mixed = nn.Sequential(nn.Dropout(0.3), DrawsEverywhere(), nn.Dropout(0.3), nn.Linear(6, 2), DrawsIfLarge())
    same_as_module(mixed, X, train=train, rng=6)  # draws of the net's own and of foreign forwards take turns


class DrawsIfLarge(nn.Module):
    def forward(self, x):
        if x.sum() > 1000:
            raise ValueError("large")
        return x + torch.randn(2)


def test_the_global_generator_is_given_back_by_a_call_that_fails(monkeypatch):
    net, params, buffers = fn.from_module(nn.Sequential(DrawsIfLarge()))
    for alone in (False, True):
        monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda alone=alone: alone)
        with global_generator_untouched(), pytest.raises(ValueError, match="large"):
            net.apply(params, buffers, torch.full((4, 2), 1e4), rng=0)


def test_draws_from_a_key_are_the_same_in_every_call():
    module = DrawsEverywhere()
    module.lstm = nn.Unflatten(0, (1, 1))  # an LSTM is not mapped
    net, params, buffers = fn.from_module(module)
    key = fn.random.key(3)
    with global_generator_untouched():
        first = net.apply(params, buffers, X, train=True, rng=key)[0]  # finds out where it draws
        for _ in range(3):
            assert_identical(net.apply(params, buffers, X, train=True, rng=key)[0], first)
        other = net.apply(params, buffers, X, train=True, rng=fn.random.key(4))[0]
    assert not torch.equal(other, first)
    mapped = torch.vmap(lambda x: net.apply(params, buffers, x, train=True, rng=key)[0])(torch.stack([X, X]))
    torch.testing.assert_close(mapped, torch.stack([first, first]))


def test_a_draw_that_only_some_calls_make_is_from_the_key_too():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.rarely = nn.Sequential(DrawsIfLarge()), DrawsIfLarge()

        def forward(self, x):
            return self.rarely(self.always(x)) if x.sum() > 0 else self.always(x)

    net, params, buffers = fn.from_module(Sometimes())
    fresh, _, _ = fn.from_module(Sometimes())
    key, low, high = fn.random.key(0), -torch.ones(3, 2), torch.ones(3, 2)
    with global_generator_untouched():
        for x in (low, low, high, low, high):
            assert_identical(net.apply(params, buffers, x, rng=key)[0], fresh.apply(params, buffers, x, rng=key)[0])
            fresh, _, _ = fn.from_module(Sometimes())


def test_checkpointed_parts_draw_the_module_s_numbers_again_in_one_thread(monkeypatch):
    monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda: True)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    module = Checkpointed()
    net, params, buffers = fn.from_module(module)
    torch.manual_seed(2)
    module(X).sum().backward()
    with global_generator_untouched():
        grads = fn.value_and_grad(lambda params: net.apply(params, buffers, X, train=True, rng=2)[0].sum())(params)[1]
    assert_identical(fn.tree.flatten(grads), {name: param.grad for name, param in module.named_parameters()})


def test_a_forward_that_seeds_the_global_generator_has_the_bits_of_a_seed_and_no_key():
    class Seeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            x = F.dropout(self.fc(x), 0.5, self.training)
            torch.manual_seed(3)
            return x + torch.rand(6)

    net, params, buffers = same_as_module(Seeds(), X, train=True, rng=5)
    for _ in range(2):
        with global_generator_untouched(), pytest.raises(fn.RandomnessError, match="or seeds it"):
            net.apply(params, buffers, X, train=True, rng=fn.random.key(5))


class DropsLayers(nn.Module):
    """Layer drop and masks as speech models make them: from the generators of Python and NumPy, seldom in eval."""

    def __init__(self, always=False):
        super().__init__()
        self.fc, self.always = nn.Linear(6, 6), always

    def forward(self, x):
        chance = random.uniform(0, 1)  # drawn in eval too, to no effect
        if self.training or self.always:
            x = x * np.random.rand() + chance
        return F.dropout(self.fc(x), 0.2, self.training)


def test_draws_from_python_and_numpy_are_those_of_the_seed_and_move_nothing():
    module = DropsLayers()
    net, params, buffers = fn.from_module(module)

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    before = states()
    for rng in (5, fn.random.key(5)):
        outputs = [net.apply(params, buffers, X, train=True, rng=rng)[0] for _ in range(3)]
        assert_identical(outputs[1:], outputs[:1] * 2)
    assert not torch.equal(net.apply(params, buffers, X, train=True, rng=6)[0], outputs[0])
    assert_identical(net(params, X), F.linear(X, **params["fc"]))
    assert states() == before
    seeded = net.apply(params, buffers, X, train=True, rng=5)[0]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert_identical(seeded, module(X).detach())


def test_draws_from_python_and_numpy_need_an_rng_where_they_matter_and_are_refused_under_vmap():
    net, params, buffers = fn.from_module(DropsLayers(always=True))
    with pytest.raises(fn.RandomnessError, match="global generator of Python or NumPy and rng is None"):
        net(params, X)
    with pytest.raises(fn.RandomnessError, match="not under vmap"):
        torch.vmap(lambda x: net.apply(params, buffers, x, rng=fn.random.key(0))[0])(X)


def test_batch_norm_in_training_is_mapped_with_shared_buffers():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += x.sum()
            return self.norm(self.fc(x))

    net, params, buffers = fn.from_module(Normed())
    xs = torch.stack([X, 2 * X, X + 1])
    outputs, new = torch.vmap(lambda x: net.apply(params, buffers, x, train=True))(xs)
    for index, x in enumerate(xs):
        output, alone = net.apply(params, buffers, x, train=True)
        torch.testing.assert_close(outputs[index], output)
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], new), alone)
    ensemble = fn.tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), params)
    grads = torch.vmap(torch.func.grad(lambda params: net.apply(params, buffers, X, train=True)[0].pow(3).sum()))(
        ensemble
    )
    assert grads["fc"]["weight"].shape == (2, 6, 6)


# --- threads, and what comes out ---


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


# --- in the styles of well-known libraries ---


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class InvertedResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(SqueezeExcite(8), nn.Conv2d(8, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )
        self.path = DropPath(0.3)

    def forward(self, x):
        return x + self.path(self.body(x))


class BasicBlock(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4, 1, stride, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer1, self.layer2 = nn.Conv2d(3, 4, 3), BasicBlock(4, 1), BasicBlock(4, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layer2(self.layer1(self.stem(x))), 1), 1))


class ConvNextBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 5, padding=2, groups=3), nn.LayerNorm(3, eps=1e-6)
        self.fc1, self.fc2, self.gamma = nn.Linear(3, 8), nn.Linear(8, 3), nn.Parameter(1e-6 * torch.ones(3))
        self.path = DropPath(0.2)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.path((self.gamma * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(3), nn.LayerNorm(3)
        self.tokens, self.channels, self.drop = nn.Linear(64, 64), nn.Linear(3, 3), nn.Dropout(0.2)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop(self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.drop(self.channels(self.norm2(x)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.ups = nn.ModuleDict({"0": nn.ConvTranspose2d(8, 4, 2, 2)})
        self.out, self.norm, self.drop = nn.Conv2d(8, 1, 1), nn.GroupNorm(2, 8), nn.Dropout2d(0.2)

    def forward(self, x):
        skip = F.relu(self.enc[0](x))
        x = self.drop(F.relu(self.norm(self.enc[1](F.max_pool2d(skip, 2)))))
        return self.out(torch.cat([self.ups["0"](x), skip], 1))


class Attends(nn.Module):
    """Rotary positions made in __init__, a causal mask, fused projections, attention by torch's own kernel."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        angles = torch.outer(torch.arange(16.0), 1 / 10 ** torch.arange(2.0))
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = (
            torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (2, 2))) * self.turn).flatten(-2) for t in (q, k)
        )
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=0.1 * self.training, is_causal=True, scale=1 / math.sqrt(4)
        )
        return self.proj(y.transpose(1, 2).flatten(-2))


BY_HAND = [ResNet, ConvNextBlock, Mixer, UNet, Attends, lambda: nn.Sequential(InvertedResidual(3), InvertedResidual(3))]
IMAGES = torch.linspace(-3, 3, 2 * 3 * 64).sin().view(2, 3, 8, 8)


@parametrize(make=BY_HAND, train=[False, True])
def test_models_in_the_styles_of_libraries(make, train):
    torch.manual_seed(0)
    net, params, buffers = same_as_module(make(), IMAGES, train=train, rng=3 if train else None)
    back = fn.to_module(net, params, buffers)
    assert_identical(fn.from_module(back)[1:], (params, buffers))
    key = fn.random.key(0)

    def loss(params, x):
        return net.apply(params, buffers, x[None], train=train, rng=key)[0].pow(2).sum()

    if make is Attends:
        return  # the complex product has no rule for one gradient per sample in this torch
    mapped = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, IMAGES)
    assert [leaf.shape[0] for leaf in fn.tree.flatten(mapped).values()] == [2] * len(fn.tree.flatten(params))


def test_a_compiled_foreign_net_is_not_compiled_again_for_other_tensors():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x, shift):
            return x * self.scale + shift

    net, params, buffers = fn.from_module(Own())
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda params, x, shift: net.apply(params, buffers, x, shift=shift)[0], backend=keep)
    for value in (1.0, 2.0, 3.0):
        x = torch.full((3, 4), value)  # the one before is gone by now, or still there
        torch.testing.assert_close(compiled(params, x, x + 1), 2 * x + 1)
    assert len(graphs) == 1
    assert torch.equal(compiled(params, x, x), 2 * x)  # one tensor given twice
