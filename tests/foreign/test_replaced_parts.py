"""Parts of foreign nets that were replaced: they are called, shown, saved and converted back as the module's own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.foreign.helpers import X
from tests.helpers import assert_identical, clone


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.register_buffer("scale", torch.full((6,), 0.5), persistent=False)

    def forward(self, x):
        for block in self.blocks:
            x = F.relu(block(x)) * self.scale
        return self.head(self.norm(x))


@fn.compose(base=fn.Linear(6, 6), down=fn.Param((2, 6), fn.init.normal()), up=fn.Param((6, 2), 0.3))
def low_rank(p, x):
    return p.base(x) + F.linear(F.linear(x, p.down), p.up)


@fn.compose(fc=fn.Linear(6, 2), seen=fn.Buffer((), 0, dtype=torch.int64), drop=fn.Dropout(0.5))
def counting_head(p, x):
    p.seen = p.seen + len(x)
    return p.drop(p.fc(x))


class ForeignHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(6, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * self.calls


def with_part(tree, path, part):
    *parents, name = path.split(".")
    tree = dict(tree)
    node = tree
    for key in parents:
        node[key] = dict(node.get(key, {}))
        node = node[key]
    node.pop(name, None)
    if part:
        node[name] = part
    return tree


def sorted_flat(tree):
    return dict(sorted(fn.tree.flatten(tree).items()))


def replaced_net_and_trees(net, params, buffers, path, part):
    """The net with another part, and trees with the part's first values."""
    if isinstance(part, nn.Module):
        part, part_params, part_buffers = fn.from_module(part)
    else:
        part_params, part_buffers = part.init(3)
    return net.replaced({path: part}), with_part(params, path, part_params), with_part(buffers, path, part_buffers)


PARTS = {
    "another size": ("head", lambda: fn.Linear(6, 5), lambda: nn.Linear(6, 5)),
    "sequential": (
        "head",
        lambda: fn.Sequential(fn.Linear(6, 4), torch.tanh, fn.Linear(4, 2)),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
    ),
    "weight norm": (
        "blocks.0",
        lambda: fn.parametrize.weight_norm(fn.Linear(6, 6)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
    ),
    "spectral norm": (
        "blocks.1",
        lambda: fn.parametrize.spectral_norm(fn.Linear(6, 6)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    ),
    "new buffers": (
        "norm",
        lambda: fn.Sequential(fn.LayerNorm(6), fn.BatchNorm1d(6, affine=False)),
        lambda: nn.Sequential(nn.LayerNorm(6), nn.BatchNorm1d(6, affine=False)),
    ),
    "identity": ("norm", fn.Identity, nn.Identity),
    "dropout": (
        "head",
        lambda: fn.Sequential(fn.Dropout(0.5), fn.Linear(6, 2)),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2)),
    ),
    "foreign": ("head", ForeignHead, ForeignHead),
    "low rank": ("blocks.1", lambda: low_rank, None),
    "composed": ("head", lambda: counting_head, None),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("what", PARTS)
def test_a_replaced_part_works_both_ways(what, train):
    path, make, make_twin = PARTS[what]
    module = Classifier()
    net, params, buffers = fn.from_module(module)
    before = (repr(net), clone((params, buffers)))
    new, new_params, new_buffers = replaced_net_and_trees(net, params, buffers, path, make())

    twin = fn.to_module(new, new_params, new_buffers).train(train)
    assert isinstance(twin, Classifier)
    assert repr(new) == repr(twin)
    if make_twin is not None:
        parent_path, _, name = path.rpartition(".")
        edited = copy.deepcopy(module)
        torch.manual_seed(3)
        setattr(edited.get_submodule(parent_path), name, make_twin())
        if what == "sequential":  # the function stands for a module
            edited.head[1] = type(twin.head[1])(torch.tanh)
        if what != "foreign":
            assert repr(twin) == repr(edited)
        assert list(twin.state_dict()) == list(edited.state_dict())
        if what != "foreign":
            assert_identical(dict(twin.state_dict()), dict(edited.state_dict()))
    assert list(fn.to_state_dict(new, new_params, new_buffers)) == list(twin.state_dict())
    assert_identical(dict(twin.state_dict()), fn.to_state_dict(new, new_params, new_buffers))
    for tree, expected in zip(fn.from_state_dict(new, twin.state_dict()), (new_params, new_buffers), strict=True):
        assert_identical(sorted_flat(tree), sorted_flat(expected))
    again, *trees_again = fn.from_module(twin)

    torch.manual_seed(5)
    expected = twin(X)
    for _ in range(3):
        leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), new_params)
        output, newer_buffers = new.apply(leaves, new_buffers, X, train=train, rng=5)
        assert_identical(output.detach(), expected.detach())
    assert_identical(sorted_flat(newer_buffers), dict(sorted(twin.named_buffers())))
    expected.square().sum().backward()

    def loss(params):
        return new.apply(params, new_buffers, X, train=train, rng=5)[0].square().sum()

    grads = sorted_flat(fn.value_and_grad(loss)(new_params)[1])
    assert_identical(grads, dict(sorted((name, param.grad) for name, param in twin.named_parameters())))

    output, _ = again.apply(*trees_again, X, train=train, rng=5)
    assert_identical(output.detach(), expected.detach())
    assert repr(again) == repr(new)
    assert repr(net) == before[0]
    assert_identical((params, buffers), before[1])


def test_a_replaced_part_draws_from_a_key_and_works_under_vmap_and_compile():
    net, params, buffers = replaced_net_and_trees(*fn.from_module(Classifier()), "head", counting_head)
    key = fn.random.key(0)

    def call(params, buffers, x):
        return net.apply(params, buffers, x, train=True, rng=key)

    output, new_buffers = call(params, buffers, X)
    assert_identical(call(params, buffers, X), (output, new_buffers))
    assert int(new_buffers["head"]["seen"]) == len(X)
    assert (output == 0).any()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert_identical(compiled(params, buffers, X), (output, new_buffers))
    lora, params, buffers = replaced_net_and_trees(*fn.from_module(Classifier()), "blocks.1", low_rank)
    rows = torch.vmap(lambda x: lora.apply(params, buffers, x[None])[0][0])(X)
    torch.testing.assert_close(rows, lora.apply(params, buffers, X)[0])


def test_parts_are_replaced_again_and_inside_of_what_was_put_there():
    trees = fn.from_module(Classifier())
    once = replaced_net_and_trees(*trees, "blocks.1", low_rank)
    twice = replaced_net_and_trees(*once, "blocks.1.base", fn.Linear(6, 6, bias=False))
    back = replaced_net_and_trees(*twice, "blocks.1", fn.Linear(6, 6))
    assert twice[0].blocks[1].base == fn.Linear(6, 6, bias=False)
    for net, params, buffers in (once, twice, back):
        module = fn.to_module(net, params, buffers).eval()
        assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
        again, *_ = fn.from_module(module)
        assert again.blocks[1] == net.blocks[1]
    assert repr(back[0]) == repr(trees[0])
    assert "low_rank" in repr(once[0])
    several = trees[0].replaced({"blocks.1": low_rank, "head": fn.Linear(6, 3), "norm": fn.Identity()})
    assert [type(part) for part in (several.norm, several.head)] == [fn.Identity, fn.Linear]


def test_parts_of_foreign_nets_in_other_nets_are_replaced():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Classifier()

        def forward(self, x):
            return self.model(x) + 1

    inner, params, buffers = fn.from_module(Classifier())
    own = fn.compose(model=inner)(lambda p, x: p.model(x) + 1)
    outer, _, _ = fn.from_module(Outer())
    head, _ = fn.Linear(6, 5).init(0)
    params = {"model": {**params, "head": head}}
    outputs = []
    for net in (own, outer, fn.Sequential({"model": inner})):
        new = net.replaced({"model.head": fn.Linear(6, 5)})
        outputs.append(new.apply(params, {"model": buffers}, X)[0])
        assert_identical(fn.to_module(new, params, {"model": buffers}).eval()(X).detach(), outputs[-1].detach())
        assert "out_features=5" in repr(new) and "out_features=2" in repr(net)
    assert_identical(outputs[0], outputs[1])
    assert_identical(outputs[0], outputs[2] + 1)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head, self.mid = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False), nn.Linear(6, 6)
        self.head.weight = self.embed.weight
        self.embed.weight.requires_grad_(False)

    def forward(self, ids):
        return self.head(self.mid(self.embed(ids)))


def test_ties_and_frozen_params_hold_where_they_can():
    ids = torch.arange(5)
    net, params, _ = fn.from_module(Language())
    assert net.aliases == {"head.weight": "embed.weight"}
    same = net.replaced({"mid": fn.Sequential(fn.Linear(6, 6))})
    assert (same.aliases, same.frozen) == (net.aliases, ("embed.weight",))
    new = {**params, "mid": {"0": params["mid"]}}
    assert_identical(same(new, ids), net(params, ids))
    module = fn.to_module(same, new)
    assert module.head.weight is module.embed.weight and not module.embed.weight.requires_grad

    head = net.replaced({"head": fn.Linear(6, 2)})  # a new head of another size is tied to nothing
    assert (head.aliases, head.frozen) == ({}, ("embed.weight",))
    assert head({**params, "head": fn.Linear(6, 2).init(0)[0]}, ids).shape == (5, 2)

    embed = net.replaced({"embed": fn.Embedding(9, 6)})  # nor is what was tied to a part that is gone
    assert embed.aliases == {}
    with pytest.raises(fn.TreeError, match=r"missing     params\['head'\]\['weight'\]"):
        embed({**params, "embed": fn.Embedding(9, 6).init(0)[0]}, ids)
    three = fn.Sequential(*[fn.Linear(3, 3, bias=False)] * 3).tie({"1.weight": "0.weight", "2.weight": "0.weight"})
    assert three.replaced({"0": fn.Identity()}).aliases == {"2.weight": "1.weight"}


def test_a_replaced_net_is_pickled_and_shows_no_size_that_is_gone():
    net, params, buffers = replaced_net_and_trees(*fn.from_module(Classifier()), "blocks.1", low_rank)
    loaded = pickle.loads(pickle.dumps(net))
    assert_identical(loaded.apply(params, buffers, X)[0], net.apply(params, buffers, X)[0])
    assert repr(loaded) == repr(net)


def test_parts_that_cannot_be_replaced_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
            self.layers = [self.fc, self.norm]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    net, params, _ = fn.from_module(Twice())
    new = net.replaced({"fc": fn.Linear(6, 6, bias=False)})
    assert_identical(new({**params, "fc": {"weight": torch.ones(6, 6)}}, X), F.layer_norm(X @ torch.ones(6, 6), (6,)))
    with pytest.raises(fn.InitError, match=r"'fc': lazy layers have no shape yet"):
        net.replaced({"fc": fn.LazyLinear(6)})
    with pytest.raises(fn.TreeError, match=r"Twice has no nets \['head'\]; it has \['fc', 'norm'\]"):
        net.replaced({"head": fn.Linear(6, 6)})
    assert net(params, X).shape == X.shape


def test_a_tensor_that_the_module_still_refers_to_is_named():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.weights = [self.fc.weight]

        def forward(self, x):
            return self.fc(x) + self.weights[0].sum()

    net, _, _ = fn.from_module(Lists())
    wide = {"weight": torch.ones(2, 6)}
    assert_identical(
        net.replaced({"fc": fn.Linear(6, 2, bias=False)})({"fc": wide}, X), F.linear(X, torch.ones(2, 6)) + 12
    )
    with pytest.raises(fn.ConversionError, match=r"Lists refers to 'fc\.weight' in a list, .* no tensor of that name"):
        net.replaced({"fc": low_rank})


def test_a_part_of_a_shared_part_is_replaced_at_all_of_its_paths_or_none():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    net, params, _ = fn.from_module(Pairs())
    with pytest.raises(
        fn.ConversionError, match=r"'a' and 'b' of Pairs are one module: replace 'b\.0' as well as 'a\.0'"
    ):
        net.replaced({"a.0": low_rank})
    both = net.replaced({"a.0": fn.Linear(6, 6, bias=False), "b.0": fn.Linear(6, 6, bias=False)})
    assert both.aliases == {"b.0.weight": "a.0.weight"}
    weight = params["a"]["0"]["weight"]
    assert_identical(both({"a": {"0": {"weight": weight}}}, X), F.relu(F.relu(X @ weight.T) @ weight.T))
    whole = net.replaced({"b": fn.Identity()})
    assert_identical(whole(params, X), fn.Sequential(fn.Linear(6, 6), fn.ReLU())(params["a"], X))


def test_a_shared_part_is_replaced_at_the_path_that_is_named():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    net, params, _ = fn.from_module(Shared())
    new = net.replaced({"b": fn.Linear(6, 2)})
    part, _ = fn.Linear(6, 2).init(0)
    output = new({**params, "b": part}, X)
    assert_identical(output, F.linear(F.linear(X, *params["a"].values()), *part.values()))
    assert new.aliases == {}
    owner = net.replaced({"a": fn.Linear(6, 6, bias=False)})
    assert owner.aliases == {"b.weight": "a.weight"}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.norm(x))


class Reaching(nn.Module):
    """A forward that reaches its parts in more ways than one."""

    def __init__(self):
        super().__init__()
        self.block, self.act = Block(), nn.ReLU()
        self.norms = [self.block.norm]
        self.run = lambda x: self.act(x)

    def forward(self, x):
        return self.run(self.norms[0](self.block(x)))


def test_a_part_is_replaced_wherever_the_module_refers_to_it():
    torch.manual_seed(0)
    module = Reaching()
    net, params, buffers = fn.from_module(module)
    changed = net.replaced({"block.norm": fn.BatchNorm1d(4, momentum=0.5), "act": fn.Tanh()})
    x = torch.randn(6, 4)
    y, new_buffers = changed.apply(params, buffers, x, train=True)
    untouched = net.apply(params, buffers, x, train=True)
    module.block.norm.momentum, module.act = 0.5, nn.Tanh()
    assert_identical(y, module.train()(x).detach())
    assert_identical(fn.tree.flatten(new_buffers), dict(module.named_buffers()))
    assert not torch.equal(untouched[0], y)
    back = fn.to_module(changed, params, buffers)
    assert repr(back) == repr(module)
