"""from_module and to_module on modules nobody planned for."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.cases.models import Branches, TwoConvs
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize, params_of

X = torch.linspace(-1, 1, 24).view(4, 6)


class Nasty(nn.Module):
    """In-place on its input and buffers, attributes, counters, draws of several kinds, own tensors, ties, None."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))
        self.register_parameter("nothing", None)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm1d(6)
        self.lstm = nn.LSTM(6, 6, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.fc.weight
        self.calls = 0
        self.cache = {}

    def forward(self, x, *, gain=1.0):
        self.calls += 1
        x += self.calls
        self.seen += x.shape[0]
        self.table = self.table + 1
        x = F.dropout(self.act(self.bn(self.fc(x))), 0.2, self.training) * self.scale
        x = x + self.lstm(x[None])[0][0] + self.table
        if self.training:
            x = x + torch.rand(6) + torch.zeros(6).normal_()
        self.last = x
        return {"out": self.head(x) * gain, "calls": self.calls}


@parametrize(train=[False, True])
def test_a_nasty_module_is_wrapped_exactly_and_purely(train):
    module = Nasty().train(train)
    before = clone(dict(module.__dict__, _parameters=None, _buffers=None, _modules=None))
    state = clone(dict(module.state_dict()))
    net, params, buffers = fn.from_module(module)
    given = clone((params, buffers, X))
    with global_generator_untouched():
        y, new = net.apply(params, buffers, X, train=train, rng=4, gain=2.0)
        again, _ = net.apply(params, buffers, X, train=train, rng=4, gain=2.0)
    assert_identical(again, y)
    assert_identical((params, buffers, X), given)
    assert_identical(dict(module.state_dict()), state)
    assert {key: value for key, value in module.__dict__.items() if key in before}.keys() == before.keys()
    assert (module.calls, hasattr(module, "last")) == (0, False)
    torch.manual_seed(4)
    assert_identical(y, module(X.clone(), gain=2.0))
    assert_identical(new, buffers_of(module))


def test_a_wrapped_net_shows_its_parts_and_goes_back_to_its_class():
    module = Nasty()
    net, params, buffers = fn.from_module(module)
    assert isinstance(net, fn.Wrapped)
    assert repr(net) == repr(module)
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules()]
    assert dict(net.named_nets())["bn"] == fn.BatchNorm1d(6)
    back = fn.to_module(net, params, buffers)
    assert type(back) is Nasty
    assert_identical(dict(back.state_dict()), dict(module.state_dict()))
    assert back.head.weight is back.fc.weight
    assert_identical(back.eval()(X.clone())["out"], module.eval()(X.clone())["out"])
    again = pickle.loads(pickle.dumps(net))
    assert_identical(again.apply(params, buffers, X)[0], net.apply(params, buffers, X)[0])


def test_a_wrapped_net_draws_from_a_key():
    module = Branches()
    module.norm = nn.LayerNorm(6)  # torch's batch_norm cannot map over examples with shared running averages
    net, params, buffers = fn.from_module(module)
    keys = fn.random.split(fn.random.key(0), 3)

    def one(key):
        return net.apply(params, buffers, X, train=True, rng=key)[0]["out"]

    with global_generator_untouched():
        mapped = torch.vmap(one)(keys)
    torch.testing.assert_close(mapped, torch.stack([one(key) for key in keys]))
    assert not torch.equal(mapped[0], mapped[1])
    with pytest.raises(fn.RandomnessError, match="drawn at 'drop'"):
        net.apply(params, buffers, X, train=True)


def test_a_wrapped_net_is_differentiated_per_sample_and_compiled():
    net, params, _ = fn.from_module(TwoConvs())
    x = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)

    def loss(params, x):
        return net(params, x[None]).pow(2).sum()

    grads = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for index in range(3):
        one = torch.func.grad(loss)(params, x[index])
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], grads), one)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert_identical(compiled(params, x), net(params, x))


def test_a_forward_that_draws_in_eval_mode_needs_rng_and_leaves_the_generator():
    class Sampler(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    net, params, buffers = fn.from_module(Sampler())
    for _ in range(2):
        with global_generator_untouched(), pytest.raises(fn.RandomnessError, match="Sampler draws random numbers"):
            net(params, X)
    torch.manual_seed(2)
    expected = Sampler()(X)
    assert_identical(net.apply(params, buffers, X, rng=2)[0], expected)


def test_an_instance_that_does_more_than_its_class_is_wrapped():
    hooked = nn.Linear(6, 6)
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    patched = nn.Linear(6, 6)
    patched.forward = lambda x: x * 2
    larger = nn.Linear(6, 6)
    larger.weight = nn.Parameter(torch.ones(3, 6))
    larger.bias = None
    extra = nn.ReLU()
    extra.register_buffer("b", torch.ones(2))
    sub = type("Sub", (nn.Linear,), {"forward": lambda self, x: x})(6, 6)
    for module in (hooked, patched, larger, extra, sub, nn.Sequential(hooked, nn.ReLU())):
        net, params, buffers = fn.from_module(module)
        assert_identical(net.apply(params, buffers, X)[0], module(X))
        assert any(isinstance(part, fn.Wrapped) for _, part in net.named_nets())


def edited(module, **fields):
    for name, value in fields.items():
        setattr(module, name, value)
    return module


STALE = [  # stock layers whose forward reads what was derived from a field before it was edited
    (edited(nn.Conv1d(3, 3, 3, padding=1, padding_mode="reflect"), padding=(2,)), torch.ones(1, 3, 5)),
    (edited(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), padding=(2, 2)), torch.ones(1, 3, 5, 5)),
    (edited(nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate"), padding=(2, 2, 2)), torch.ones(1, 1, 5, 5, 5)),
    (edited(nn.Conv1d(1, 1, 3, padding="same", padding_mode="reflect"), dilation=(2,)), torch.ones(1, 1, 9)),
    (edited(nn.RNN(2, 3), mode="RNN_RELU"), -torch.ones(4, 2)),
    (edited(nn.RNN(2, 3), nonlinearity="relu"), -torch.ones(4, 2)),
]


@pytest.mark.parametrize(("module", "x"), STALE, ids=lambda value: type(value).__name__)
def test_an_edited_stock_layer_is_what_it_computes(module, x):
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, x)[0], module(x))
    assert_identical(fn.to_module(net, params, buffers)(x), module(x))


def test_an_edited_field_that_nothing_was_derived_of_is_a_field_of_the_record():
    for conv in (nn.Conv2d(3, 3, 3, padding=1), nn.ConvTranspose2d(3, 3, 3, padding=1)):
        net, params, _ = fn.from_module(edited(conv, padding=(2, 2), dilation=(2, 2)))
        assert type(net).__name__ == type(conv).__name__
        assert_identical(net(params, torch.ones(1, 3, 7, 7)), conv(torch.ones(1, 3, 7, 7)))


def test_a_wrapped_part_of_a_native_net():
    module = nn.Sequential(nn.Linear(6, 6), Branches(), nn.Identity())
    net, params, buffers = fn.from_module(module)
    assert isinstance(net, fn.Sequential) and isinstance(net[1], fn.Wrapped)
    assert_identical(params, params_of(module))
    y, new = net.apply(params, buffers, X, train=True, rng=6)
    torch.manual_seed(6)
    assert_identical(y, module(X))
    assert_identical(new, buffers_of(module))


def test_train_flags_reach_the_parts_of_a_foreign_forward():
    module = Branches().train()
    module.norm.eval()
    net, params, buffers = fn.from_module(module)
    y, new = net.apply(params, buffers, X, train=["**", "!norm"], rng=1)
    torch.manual_seed(1)
    assert_identical(y, module(X))
    assert_identical(new, buffers_of(module))


def test_trees_are_copies_unless_asked_otherwise():
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    net, params, buffers = fn.from_module(module)
    _, shared, _ = fn.from_module(module, copy=False)
    given = clone((params, buffers))
    made = fn.to_module(net, params, buffers)
    for each in (module, made):
        with torch.no_grad():
            each(X)
            each[0].weight.mul_(2)
    assert_identical((params, buffers), given)
    assert_identical(shared["0"]["weight"], module[0].weight.detach())
    assert not any(leaf.requires_grad for leaf in fn.tree.flatten(params).values())
    assert all(param.requires_grad for param in made.parameters())


def test_what_is_made_of_a_net_is_a_module_like_any_other():
    net = fn.Sequential(fn.Linear(6, 6), fn.BatchNorm1d(6), fn.Dropout(0.1))
    module = fn.to_module(net, *net.init(0))
    assert type(module[0]) is nn.Linear and module.training
    for each in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.to(torch.float64).float()):
        assert_identical(each.eval()(X), module.eval()(X))
    assert module.half()[0].weight.dtype == torch.float16


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear, "takes an nn.Module, not <class .*Instantiate it first"),
        (torch.relu, "takes an nn.Module"),
        (fn.ReLU(), r"ReLU is a net already: net\.init\(0\) gives its params and buffers"),
        (nn.LazyLinear(3), "weight, bias have no shape yet. Give .*example_inputs"),
    ],
    ids=["class", "function", "net", "lazy"],
)
def test_what_is_no_finished_module_is_refused(module, message):
    with pytest.raises(fn.ConversionError, match=message):
        fn.from_module(module)


def test_a_module_is_not_made_of_a_module():
    with pytest.raises(TypeError, match=r"to_module takes \(net, params, buffers\), got Linear for the net"):
        fn.to_module(nn.Linear(2, 2), {})


def test_a_module_that_cannot_be_copied_is_refused():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.stale = iter([self.weight]), (number for number in range(3))

        def forward(self, x):
            return x

    with pytest.raises(fn.ConversionError, match=r"cannot copy Holds: (?s:.*)stale: tuple: (?s:.*)copy\.deepcopy"):
        fn.from_module(Holds())


def test_first_values_of_a_foreign_module_are_not_made_up():
    net, _, _ = fn.from_module(nn.Sequential(nn.ReLU(), TwoConvs()))
    with pytest.raises(fn.InitError, match="TwoConvs at '1' initialises itself"):
        net.init(0)


def test_a_transformers_model_with_ties():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=60,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="eager",
    )
    module = transformers.GPT2LMHeadModel(config)
    ids = torch.arange(12).view(2, 6)
    net, params, buffers = fn.from_module(module)
    assert net.aliases == {"lm_head.weight": "transformer.wte.weight"}
    with torch.no_grad():
        assert_identical(net.apply(params, buffers, input_ids=ids)[0].logits, module.eval()(input_ids=ids).logits)
    y = net.apply(params, buffers, input_ids=ids, train=True, rng=3)[0].logits
    torch.manual_seed(3)
    assert_identical(y, module.train()(input_ids=ids).logits)

    def loss(params, ids):
        return net.apply(params, buffers, input_ids=ids[None], labels=ids[None])[0].loss

    grads = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, ids)
    for index in range(2):
        one = torch.func.grad(loss)(params, ids[index])
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], grads), one, atol=1e-5, rtol=1e-4)
    back = fn.to_module(net, params, buffers)
    assert list(back.state_dict()) == list(module.state_dict())
    assert back.lm_head.weight is back.transformer.wte.weight


class Keeps(nn.Module):
    """Leaves something behind in every way a forward can."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.w = nn.Parameter(torch.ones(6))
        self.cache = {}
        self.history = []
        self.state = torch.zeros(())
        self.generator = torch.Generator().manual_seed(0)
        self.steps = 0
        self.register_buffer("lazy", None)

    def forward(self, x):
        if self.how == "dict":
            return x * self.cache.setdefault(len(x), self.w.exp())
        if self.how == "list":
            self.history.append(1.0)
            return x * self.w * sum(self.history)
        if self.how == "tensor":
            self.state += 1
            return x * self.w * self.state
        if self.how == "generator":
            return x * self.w + torch.rand(6, generator=self.generator)
        if self.how == "training":
            self.steps += self.training
            return x * self.w * self.steps
        if self.lazy is None:
            self.lazy = self.w.detach() * 2
        return x * self.lazy


@pytest.mark.parametrize("how", ["dict", "list", "tensor", "generator", "training", "lazy"])
def test_no_call_sees_what_another_left(how):
    net, params, buffers = fn.from_module(Keeps(how))
    net.apply(params, buffers, X)
    for train in (False, True):
        expected = Keeps(how).train(train)(X)
        for _ in range(3):
            assert_identical(net.apply(params, buffers, X, train=train)[0], expected.detach())
    doubled = Keeps(how).eval()
    with torch.no_grad():
        doubled.w.mul_(2)
    assert_identical(net.apply({"w": 2 * params["w"]}, buffers, X)[0], doubled(X).detach())


def test_a_shared_part_and_a_weight_tied_to_it():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a
            self.c = nn.Linear(6, 6)
            self.c.weight = self.a.weight
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.c(self.b(x)))

    module = Both()
    net, params, buffers = fn.from_module(module)
    torch.manual_seed(0)
    expected = module(X).detach()
    for _ in range(3):
        assert_identical(net.apply(params, buffers, X, train=True, rng=0)[0], expected)


def test_one_input_given_twice_stays_one():
    class Same(nn.Module):
        def forward(self, a, b):
            return a + 1 if a is b else a - 1

    net, _, _ = fn.from_module(Same())
    assert_identical(net({}, X, X), X + 1)
    assert_identical(net({}, X, X.clone()), X - 1)
    attention = nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)
    net, params, buffers = fn.from_module(attention)
    x = X[None]
    with torch.no_grad():
        for _ in range(2):
            assert_identical(net.apply(params, buffers, x, x, x)[0], attention.eval()(x, x, x))
        with global_generator_untouched():
            y, _ = net.apply(params, buffers, x, x, x, train=True, rng=2)
        torch.manual_seed(2)
        assert_identical(y, attention.train()(x, x, x))


def test_an_embedding_that_shortens_its_rows_leaves_the_params():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3, max_norm=0.5)

        def forward(self, x):
            return self.table(x)

    module = Embeds()
    net, params, buffers = fn.from_module(module)
    given = clone(params)
    ids = torch.tensor([0, 3])
    assert_identical(net.apply(params, buffers, ids)[0], module(ids).detach())
    assert_identical(params, given)


def test_lists_with_gaps_and_names_that_views_use():
    gaps = nn.ModuleList([nn.Linear(6, 6), None, nn.Linear(6, 6)])
    holder = nn.Module()
    holder.parts = gaps
    assert list(fn.tree.flatten(fn.from_module(holder)[1])) == [name for name, _ in holder.named_parameters()]
    for name in ("keys", "items", "rng", "_x"):
        module = nn.Sequential(OrderedDict({name: nn.Linear(6, 6)}))
        net, params, buffers = fn.from_module(module)
        assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
