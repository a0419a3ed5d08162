"""Calling a net: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from tests.helpers import assert_identical, clone

X = torch.linspace(-1, 1, 12).view(4, 3)


@fn.compose(fc=fn.Linear(3, 3), bn=fn.BatchNorm1d(3), drop=fn.Dropout(0.5))
def block(p, x):
    return p.drop(p.bn(p.fc(x)))


NET = fn.Sequential(block, block, fn.Linear(3, 2))


def test_net_of_params_is_apply_in_eval_mode():
    net = fn.Sequential(fn.Linear(3, 4), fn.Dropout(), fn.ReLU())
    params, buffers = net.init(0)
    assert_identical(net(params, X), net.apply(params, buffers, X)[0])
    assert buffers == {}


def test_net_of_params_names_the_buffers_it_would_need():
    params, _ = NET.init(0)
    with pytest.raises(fn.TreeError) as caught:
        NET(params, X)
    for path in ("'0.bn.running_mean'", "'1.bn.num_batches_tracked'", "net.apply(params, buffers, x)"):
        assert path in str(caught.value)


def test_net_of_params_names_what_draws_even_in_eval_mode():
    class Noise(fn.Net):
        def draws(self, training):
            return True

        @staticmethod
        def forward(p, x):
            return x + fn.random.normal(p.rng, x.shape)

    net = fn.Sequential(Noise(), Noise())
    with pytest.raises(fn.RandomnessError, match="'0', '1'"):
        net({}, X)
    assert not torch.equal(net.apply({}, {}, X, rng=0)[0], X)


def test_every_misfit_is_told_at_once():
    params, buffers = NET.init(0)
    params["0"]["fc"]["wieght"] = params["0"]["fc"].pop("weight")
    params["1"]["fc"]["weight"] = torch.zeros(3, 5)
    params["2"]["weight"] = torch.zeros(3, 2)
    params["2"]["bias"] = [0.0, 0.0]
    del params["1"]["bn"]
    buffers["0"]["bn"]["num_batches_tracked"] = torch.zeros(())
    with pytest.raises(fn.TreeError) as caught:
        NET.apply(params, buffers, X)
    text = str(caught.value)
    for line in (
        "8 problems",
        "missing     params['0']['fc']['weight']: expected shape (3, 3); nearest given name: '0.fc.wieght'",
        "extra       params['0']['fc']['wieght']: tensor of shape (3, 3); nearest expected name: '0.fc.weight'",
        "missing     params['1']['bn']['weight']",
        "missing     params['1']['bn']['bias']",
        "mis-shaped  params['1']['fc']['weight']: expected (3, 3), got (3, 5)",
        "mis-shaped  params['2']['weight']: expected (2, 3), got (3, 2): the transpose",
        "mis-typed   params['2']['bias']: expected a tensor of shape (2,), got list [0.0, 0.0]",
        "mis-typed   buffers['0']['bn']['num_batches_tracked']: expected torch.int64, got torch.float32",
    ):
        assert line in text


def test_stacked_params_are_pointed_to_vmap():
    net = fn.Linear(3, 2)
    stacked, _ = torch.vmap(net.init)(fn.random.split(fn.random.key(0), 5))
    with pytest.raises(fn.TreeError, match=r"5 stacked; map over them with torch\.vmap"):
        net(stacked, X)


def test_params_changed_after_a_good_call_are_still_told():
    net = fn.Sequential(fn.Linear(3, 2), fn.ReLU())
    params, _ = net.init(0)
    net(params, X)
    del params["0"]["bias"]
    with pytest.raises(fn.TreeError, match=r"missing     params\['0'\]\['bias'\]"):
        net(params, X)


@pytest.mark.parametrize("trees", [(None, {}), ([], {}), ({}, None)], ids=["None", "list", "no buffers"])
def test_trees_are_nested_dicts(trees):
    with pytest.raises(fn.TreeError, match="expected a nested dict of tensors"):
        fn.ReLU().apply(*trees, X)


def test_an_input_that_does_not_fit_is_told_with_the_path():
    params, buffers = NET.init(0)
    with pytest.raises(fn.ShapeError, match=r"Linear at '0\.fc': expected input \(\*, 3\), got input ") as caught:
        NET.apply(params, buffers, torch.ones(4, 5))
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(fn.ShapeError, match=r"BatchNorm1d at '0\.bn': .*Expected 2D or 3D input"):
        NET.apply(params, buffers, torch.ones(2, 2, 2, 3))


def test_a_missing_name_is_told_with_those_that_exist():
    @fn.compose(fc=fn.Linear(3, 2), scale=fn.Param(2, 1.0))
    def net(p, x):
        return p.fc1(x)

    with pytest.raises(AttributeError, match=r"net has no 'fc1'; it has fc, scale\."):
        net(net.init(0)[0], X)


def test_params_and_parts_cannot_be_assigned():
    @fn.compose(fc=fn.Linear(3, 2), scale=fn.Param(2, 1.0))
    def net(p, x):
        setattr(p, x, None)

    for name in ("fc", "scale"):
        with pytest.raises(AttributeError, match=rf"{name!r} is a param or a part, which a call cannot replace"):
            net(net.init(0)[0], name)
    with pytest.raises(AttributeError, match=r"net: p\.other cannot be set, as a call keeps nothing but buffers"):
        net(net.init(0)[0], "other")


def test_an_error_of_the_body_stays_what_it_is():
    @fn.compose()
    def net(p, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        net({}, X)


def test_too_many_arguments_point_to_apply():
    params, buffers = fn.Linear(3, 2).init(0)
    with pytest.raises(TypeError, match=r"buffers go to net\.apply"):
        fn.Linear(3, 2)(params, buffers, X)


def test_selectors_put_parts_of_a_net_in_training_mode():
    params, buffers = NET.init(0)
    _, new = NET.apply(params, buffers, X, train="0", rng=0)
    tracked = {path: int(new[path]["bn"]["num_batches_tracked"]) for path in ("0", "1")}
    assert tracked == {"0": 1, "1": 0}
    _, new = NET.apply(params, buffers, X, train=["**", "!**.bn"], rng=0)
    assert_identical(new, buffers)
    _, new = NET.apply(params, buffers, X, train=lambda path: path == "1.bn")
    tracked = {path: int(new[path]["bn"]["num_batches_tracked"]) for path in ("0", "1")}
    assert tracked == {"0": 0, "1": 1}


def test_a_selector_asks_for_rng_only_where_it_trains_what_draws():
    params, buffers = NET.init(0)
    NET.apply(params, buffers, X, train="*.bn")
    with pytest.raises(fn.RandomnessError, match=r"drawn at '1\.drop'\."):
        NET.apply(params, buffers, X, train="1")


def test_a_selector_that_means_nothing_is_refused():
    with pytest.raises(fn.TreeError) as caught:
        NET.apply(*NET.init(0), X, train=["**", "!bn", "heda"])
    assert "'!bn' matches nothing. Near it: '**.bn'" in str(caught.value)
    assert "'heda' matches nothing." in str(caught.value)


@pytest.mark.parametrize("train", ["!**.bn", ["!0.bn", "!1.bn"], ("**", "!**.bn")], ids=repr)
def test_negations_alone_take_out_of_everything(train):
    net, (params, buffers) = NET, NET.init(0)
    expected, buffers_after = net.apply(params, buffers, X, train=lambda path: not path.endswith("bn"), rng=0)
    output, new = net.apply(params, buffers, X, train=train, rng=0)
    assert_identical((output, new), (expected, buffers_after))
    assert not torch.equal(output, net.apply(params, buffers, X)[0])


def test_in_place_writes_to_an_input_are_refused():
    @fn.compose()
    def shift(p, x):
        x += 1
        return x

    with pytest.raises(fn.PurityError, match="input 0"):
        shift({}, X.clone())
    with pytest.raises(fn.PurityError, match=r"input 'x'\['a'\]\[1\]"):
        fn.compose()(lambda p, x: x["a"][1].zero_())({}, x={"a": [X, X.clone()]})


def test_in_place_writes_to_a_buffer_stay_in_the_call():
    @fn.compose(steps=fn.Buffer((), 0, dtype=torch.int64), mean=fn.Buffer(3))
    def count(p, x):
        p.steps += 1
        p.mean.mul_(0.5).add_(x.mean(0))
        return x

    _, buffers = count.init(0)
    given = clone(buffers)
    _, new = count.apply({}, buffers, X)
    assert_identical(buffers, given)
    assert int(new["steps"]) == 1
    assert_identical(new["mean"], X.mean(0))


def test_what_pytest_writes_into_asserts_is_not_watched(request):
    @fn.compose()
    def net(p, x, *, note):
        note()
        assert list(x) == [1.0, 1.0]
        return x

    numbers = iter(range(3))
    for _ in range(3):
        net({}, torch.ones(2), note=lambda: setattr(request.config, "noted", next(numbers)))
    assert request.config.noted == 2


def test_a_body_may_do_what_python_does():
    @fn.compose(
        fc=fn.Linear(3, 3),
        layers=fn.ModuleList([fn.Linear(3, 3), fn.Linear(3, 3)]),
        heads=fn.ModuleDict({"a": fn.Linear(3, 1)}),
        act=F.relu,
        square=lambda x: x * x,
        depth=2,
        nothing=None,
    )
    def net(p, x, *, twice=True):
        x = p.act(p.fc(x))
        if twice:
            x = p.fc(x)  # one part, called again
        for layer in p.layers:
            x = p.square(layer(x))
        for index in range(p.depth):
            x = p.layers[index](x) + p.layers[-1].bias
        assert len(p.layers) == 2 and len(p.layers[:1]) == 1 and "a" in p.heads and p.nothing is None
        assert [name for name, _ in p.heads.items()] == list(p.heads) == list(p.heads.keys())
        return p.layers[:][0](x), p.heads["a"](x), p.heads.values()[0].weight, p.fc.in_features

    params, buffers = net.init(0)
    module = fn.to_module(net, params, buffers)
    once = net(params, X, twice=False)
    w = params
    x = F.relu(F.linear(X, w["fc"]["weight"], w["fc"]["bias"]))
    for key in ("0", "1"):
        x = F.linear(x, w["layers"][key]["weight"], w["layers"][key]["bias"]) ** 2
    for key in ("0", "1"):
        x = F.linear(x, w["layers"][key]["weight"], w["layers"][key]["bias"]) + w["layers"]["1"]["bias"]
    assert_identical(once[1], F.linear(x, w["heads"]["a"]["weight"], w["heads"]["a"]["bias"]))
    assert once[3] == 3
    assert not torch.equal(once[0], net(params, X)[0])
    assert isinstance(module.fc, torch.nn.Linear)


def test_a_view_that_outlives_its_call_does_not_draw():
    kept = []

    @fn.compose(drop=fn.Dropout(0.5))
    def net(p, x):
        kept.append(p.drop)
        return p.drop(x)

    net.apply({}, {}, X, train=True, rng=fn.random.key(0))
    with pytest.raises(fn.RandomnessError, match="after its call has ended"):
        kept[0](X)


def test_a_recomputed_part_without_draws_keeps_its_gradients_and_records_nothing():
    from torch.utils.checkpoint import checkpoint

    parts = {"fc": fn.Linear(3, 3), "bn": fn.BatchNorm1d(3)}

    @fn.compose(**parts)
    def plain(p, x):
        return p.bn(p.fc(x))

    @fn.compose(**parts)
    def saving(p, x):
        return checkpoint(lambda x: p.bn(p.fc(x)), x, use_reentrant=False)

    params, buffers = plain.init(0)

    def run(net):
        new = {}

        def loss(params):
            y, updated = net.apply(params, buffers, X, train=True)
            new.update(updated)
            return y.pow(3).sum()

        return fn.value_and_grad(loss)(params), new

    assert_identical(run(plain), run(saving))


def test_other_trees_at_the_same_address_are_looked_at_again():
    net = fn.compose(w=fn.Param(3, 1.0))(lambda p, x: x * p.w)
    for _ in range(50):
        # Regression: trees were recognised by id alone, and a dict is often made where another one was freed
        net({"w": torch.ones(3)}, X)
        with pytest.raises(fn.TreeError, match="mis-shaped"):
            net({"w": torch.ones(1)}, X)
        with pytest.raises(fn.TreeError, match="extra"):
            net({"w": torch.ones(3), "junk": X}, X)


def test_a_changed_entry_of_a_tree_that_fitted_is_told():
    net = fn.Linear(3, 2)
    params, _ = net.init(0)
    net(params, X)
    params["bias"] = torch.ones(1)
    with pytest.raises(fn.TreeError, match=r"params\['bias'\]: expected \(2,\), got \(1,\)"):
        net(params, X)


def test_flat_and_oddly_keyed_trees_are_told():
    net = fn.Sequential(fn.Linear(3, 2))
    params, _ = net.init(0)
    with pytest.raises(fn.TreeError, match=r"mis-keyed   params: .*from_state_dict"):
        net(fn.to_state_dict(params), X)
    with pytest.raises(fn.TreeError, match=r"mis-keyed   params: .*\[0\]"):
        net({0: params["0"]}, X)


def test_integers_are_no_params():
    net = fn.Linear(3, 2)
    params, _ = net.init(0)
    with pytest.raises(fn.TreeError, match=r"params\['bias'\]: expected a floating dtype, got torch\.int64"):
        net({**params, "bias": torch.ones(2, dtype=torch.int64)}, X)


def test_in_place_writes_to_params_are_refused():
    own = fn.compose(w=fn.Param(3, 1.0))(lambda p, x: x * p.w.mul_(2))
    part = fn.compose(fc=fn.Linear(3, 2))(lambda p, x: p.fc(x) + p.fc.weight.clamp_(0, 0).sum())
    for net, path in ((own, "w"), (part, "fc.weight")):
        with pytest.raises(fn.PurityError, match=f"params '{path}'"):
            net(net.init(0)[0], X)


def test_buffers_of_another_shape_are_not_recorded():
    net = fn.compose(seen=fn.Buffer(3), steps=fn.Buffer((), 0, dtype=torch.int64))

    @net
    def wrong_shape(p, x):
        p.seen = x
        return x

    @net
    def wrong_dtype(p, x):
        p.steps = p.steps + 0.5
        return x

    for body, message in (
        (wrong_shape, r"buffer 'seen'.*expected \(3,\), got \(4, 3\)"),
        (wrong_dtype, "buffer 'steps'.*int64"),
    ):
        with pytest.raises(fn.TreeError, match=message):
            body.apply(*body.init(0), X)


def test_a_mode_given_to_the_short_form_points_to_apply():
    params, _ = fn.Linear(3, 2).init(0)
    for option in ({"train": True}, {"rng": 0}):
        with pytest.raises(TypeError, match=r"net\.apply\(params, buffers, \*inputs, train=, rng=\)"):
            fn.Linear(3, 2)(params, X, **option)


def test_an_input_that_does_not_fit_is_told_with_the_path_under_transforms_too():
    net = fn.Sequential(fn.Identity(), fn.Linear(5, 3))
    params, _ = net.init(0)
    told = r"Linear at '1': expected input \(\*, 5\), got input \({}\) float32"
    with pytest.raises(fn.ShapeError, match=told.format("4, 6")):
        torch.func.grad(lambda params: net(params, torch.ones(4, 6)).sum())(params)
    with pytest.raises(fn.ShapeError, match=told.format("6,")):
        torch.vmap(lambda x: net(params, x))(torch.ones(4, 6))


@pytest.mark.parametrize("name", ["train", "training", "rng", "seed"])
def test_a_mode_given_in_the_wrong_place_is_told_the_right_one(name):
    net = fn.Linear(3, 2)
    with pytest.raises(
        TypeError, match=rf"'{name}'\. A mode and draws are for net\.apply\(params, buffers, .*train=, rng="
    ):
        net(net.init(0)[0], torch.ones(1, 3), **{name: 1})


def test_a_compiled_call_in_training_mode_needs_no_rng_where_nothing_draws():
    net = fn.Sequential(fn.Linear(3, 4), fn.BatchNorm1d(4))
    params, buffers = net.init(0)

    def call(params, buffers, x):
        return net.apply(params, buffers, x, train=True)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)  # the first call of this net is a compiled one
    assert_identical(compiled(params, buffers, X), call(params, buffers, X))


def test_compiled_code_refuses_trees_that_do_not_fit():
    net = fn.Sequential(fn.Linear(3, 4), fn.ReLU())
    params, _ = net.init(0)
    torch.compiler.reset()
    for misfit in ({}, {"0": {"weight": params["0"]["weight"]}}, {"0": {**params["0"], "scale": torch.ones(4)}}):
        with pytest.raises(fn.TreeError, match="do not fit"):
            torch.compile(net, backend="eager")(misfit, X)
    assert_identical(torch.compile(net, backend="eager")({**params, "1": {}}, X), net(params, X))


@pytest.mark.parametrize("options", [{}, {"train": True}, {"rng": 0}])
def test_a_view_records_nothing_after_its_call(options):
    views = []

    @fn.compose(steps=fn.Buffer((), 0.0))
    def net(p, x):
        views.append(p)
        p.steps = p.steps + 1
        return x

    params, buffers = net.init(0)
    _, new = net.apply(params, buffers, torch.ones(2), **options)
    views[0].steps = torch.tensor(9.0)
    assert_identical(new["steps"], torch.tensor(1.0))
