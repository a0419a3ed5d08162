"""Groups, hyperparameters of a step, frozen, tied and unused params, odd strides, and what is wrong."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize
from tests.optim.table import rows

NAMES = [info.name for info in optim_db]
PARAMS = {"body": {"weight": torch.ones(2, 3), "bias": torch.ones(3)}, "head": {"weight": torch.ones(3, 1)}}
GRADS = {
    "body": {"weight": torch.full((2, 3), 0.5), "bias": torch.full((3,), -2.0)},
    "head": {"weight": torch.ones(3, 1)},
}


@parametrize(name=NAMES)
def test_arguments_and_defaults_are_those_of_torch(name):
    ours = inspect.signature(getattr(fn.optim, name)).parameters
    theirs = {
        key: value for key, value in inspect.signature(getattr(torch.optim, name)).parameters.items() if key != "params"
    }
    newer = {"maximize"} if name == "LBFGS" else set()  # torch 2.14 has it
    assert set(ours) - set(theirs) - newer == {"groups"} and set(theirs) <= set(ours)
    positional = [key for key, value in theirs.items() if value.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [key for key, value in ours.items() if value.kind is not inspect.Parameter.KEYWORD_ONLY] == positional
    for key, value in theirs.items():
        assert ours[key].default == value.default, key


def error_inputs() -> list[Any]:
    return [
        pytest.param(info.name, wrong, id=f"{info.name}-{wrong.optimizer_error_input.desc}")
        for info in optim_db
        for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
        if wrong.optimizer_error_input.kwargs
    ]


@pytest.mark.parametrize(("name", "wrong"), error_inputs())
def test_values_that_torch_refuses_are_refused_everywhere(name, wrong):
    values = wrong.optimizer_error_input.kwargs
    cls = getattr(fn.optim, name)
    with pytest.raises(wrong.error_type, match=wrong.error_regex):
        cls(**values)
    with pytest.raises(wrong.error_type, match=wrong.error_regex):
        cls().replace(**values)
    if name != "LBFGS":
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            cls(groups={"head": values})
        state = cls().init({"w": torch.ones(2, 2)})
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            cls().step({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2)}, state, **values)


@parametrize(name=NAMES)
def test_an_optimizer_is_a_value(name):
    cls = getattr(fn.optim, name)
    groups = {} if name == "LBFGS" else {"groups": {"**.bias": {"lr": 0.5}}}
    optimizer = cls(lr=0.25, **groups)
    assert optimizer == cls(lr=0.25, **groups) and hash(optimizer) == hash(cls(lr=0.25, **groups))
    assert optimizer != cls(lr=0.5, **groups) and optimizer != fn.optim.Optimizer
    shown = "" if name == "LBFGS" else ", groups={'**.bias': {'lr': 0.5}}"
    assert repr(optimizer) == f"{name}(lr=0.25{shown})"
    for twin in (eval(repr(optimizer), {name: cls}), pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert twin == optimizer
    with pytest.raises(AttributeError):
        optimizer.lr = 1.0
    tensor = torch.tensor(0.25)
    assert cls(lr=tensor) == cls(lr=tensor) != cls(lr=tensor.clone())


def test_the_first_group_that_selects_a_param_has_it():
    optimizer = fn.optim.SGD(lr=1.0, groups={"**.bias": {"lr": 0.0}, "body": {"lr": 0.5}})
    params, _ = optimizer.step(PARAMS, GRADS, optimizer.init(PARAMS))
    assert_identical(params["body"], {"weight": torch.full((2, 3), 0.75), "bias": torch.ones(3)})
    assert_identical(params["head"], {"weight": torch.zeros(3, 1)})


@parametrize(row=rows(), donate=[False, True])
def test_groups_have_the_bits_of_torchs_groups(row, donate):
    params = row.params(torch.float32)
    flat = {path: leaf.clone().requires_grad_() for path, leaf in fn.tree.flatten(params).items()}
    values = {"lr": 0.02} if row.class_name == "Adafactor" else {"lr": 0.02, "maximize": True}
    if row.class_name == "Muon":
        values = {"lr": 0.02, "momentum": 0.5}
    theirs = row.info.optim_cls(
        [
            {"params": [leaf for path, leaf in flat.items() if path.startswith("a")], **values},
            {"params": [leaf for path, leaf in flat.items() if not path.startswith("a")]},
        ],
        **row.arguments,
    )
    optimizer = row.ours(groups={"a": values})
    state = optimizer.init(params)
    for index in range(4):
        grads = row.params(torch.float32, seed=index + 1)
        for path, grad in fn.tree.flatten(grads).items():
            flat[path].grad = grad.clone()
        theirs.step()
        params, state = optimizer.step(params, grads, state, donate=donate)
    assert_identical(fn.tree.flatten(params), {path: leaf.detach() for path, leaf in flat.items()})


def test_groups_that_have_no_effect_are_refused():
    for groups, reason in (
        ({"tail": {"lr": 1.0}}, "'tail' matches nothing"),
        ({"body": {"lr": 1.0}, "body.bias": {"lr": 2.0}}, "'body.bias' has no effect: the groups before it have all"),
        ({lambda path: False: {"lr": 1.0}}, "has no effect: it selects no param"),
    ):
        with pytest.raises(fn.TreeError, match=reason):
            fn.optim.SGD(groups=groups).init(PARAMS)
    with pytest.raises(TypeError, match="AdamW, in the group 'body', has no hyperparameter 'weight_decy'"):
        fn.optim.AdamW(groups={"body": {"weight_decy": 0.0}})
    with pytest.raises(TypeError, match="SGD has no hyperparameter 'betas'"):
        fn.optim.SGD().step(PARAMS, GRADS, {}, betas=(0.9, 0.99))


def test_hyperparameters_of_a_step_are_those_of_another_optimizer():
    optimizer = fn.optim.AdamW(groups={"head": {"lr": 0.5}})
    state = optimizer.init(PARAMS)
    for more in ({"lr": 0.1}, {"lr": torch.tensor(0.1)}, {"betas": (0.5, 0.9), "eps": 0.1}):
        assert_identical(
            optimizer.step(PARAMS, GRADS, state, **more),
            fn.optim.AdamW(**more, groups={"head": {"lr": 0.5}}).step(PARAMS, GRADS, state),
        )
    assert_identical(
        optimizer.step(PARAMS, GRADS, state, groups={"head": {"weight_decay": 0.0}, "body": {"lr": 0.1}}),
        fn.optim.AdamW(groups={"head": {"lr": 0.5, "weight_decay": 0.0}, "body": {"lr": 0.1}}).step(
            PARAMS, GRADS, state
        ),
    )


@parametrize(row=rows(), donate=[False, True])
def test_params_without_a_gradient_keep_their_value_and_state(row, donate):
    params, grads = row.params(torch.float32), row.params(torch.float32, seed=1)
    optimizer = row.ours()
    state = optimizer.init(params)
    before = clone((params["a"], state["a"], params["b"]["weight"]))
    grads["a"] = dict.fromkeys(grads["a"])
    grads["b"]["weight"] = fn.tree.ABSENT
    new_params, new_state = optimizer.step(params, grads, state, donate=donate)
    assert_identical((new_params["a"], new_state["a"], new_params["b"]["weight"]), before)
    assert not torch.equal(new_params["b"]["kernel"], row.params(torch.float32)["b"]["kernel"])


def test_a_partition_is_trained_alone():
    trainable, frozen = fn.tree.partition({**PARAMS, "count": torch.tensor(3)}, "head")
    optimizer = fn.optim.Adam(lr=0.1, groups={"body": {"lr": 1.0}})
    state = optimizer.init(trainable)
    assert fn.tree.paths(state) == ["head.weight.step", "head.weight.exp_avg", "head.weight.exp_avg_sq"]
    _, grads = fn.value_and_grad(lambda params: params["head"]["weight"].sum())(trainable)
    for _ in range(2):
        trainable, state = optimizer.step(trainable, grads, state)
    whole = fn.tree.combine(trainable, frozen)
    assert list(whole) == ["body", "head", "count"] and whole["body"]["weight"] is PARAMS["body"]["weight"]
    with pytest.raises(fn.TreeError, match=r"extra +grads\['body'\]\['weight'\]: the param is ABSENT"):
        optimizer.step(trainable, {**GRADS, "count": None}, state)


def test_integers_are_passed_through():
    params = {"w": torch.ones(2), "count": torch.tensor(3)}
    optimizer = fn.optim.AdamW()
    state = optimizer.init(params)
    assert state["count"] == {}
    for grad in (None, torch.tensor(0)):
        new_params, new_state = optimizer.step(params, {"w": torch.ones(2), "count": grad}, state)
        assert new_params["count"] is params["count"] and new_state["count"] == {}


@parametrize(donate=[False, True], way=["plain", "value_and_grad", "func"])
def test_tied_params_are_stepped_once_by_the_sum_of_their_gradients(donate, way):
    optimizer = fn.optim.Adam(lr=0.1)
    weight = torch.tensor([1.0, 2.0])
    params = {"a": weight, "b": {"c": weight.view(2)}, "d": torch.ones(1)}
    one, other = torch.tensor([0.25, -1.0]), torch.tensor([0.5, 2.0])
    expected, expected_state = optimizer.step(
        {"a": weight.clone()}, {"a": one + other}, optimizer.init({"a": weight.clone()})
    )

    def step(params: Any) -> Any:
        state = optimizer.init(params)
        assert state["b"]["c"] is state["a"]
        params, state = optimizer.step(params, {"a": one, "b": {"c": other}, "d": None}, state, donate=donate)
        assert params["b"]["c"] is params["a"] and state["b"]["c"] is state["a"]
        return params["a"].sum(), (params, state)

    if way == "plain":
        _, (params, state) = step(params)
    elif way == "value_and_grad":
        (_, (params, state)), _ = fn.value_and_grad(step, has_aux=True)(params)
    else:
        _, (_, (params, state)) = torch.func.grad_and_value(step, has_aux=True)(params)
    assert_identical(params["a"], expected["a"])
    assert_identical(state["a"], expected_state["a"])


def test_a_gradient_that_tied_params_share_counts_once():
    weight, grad = torch.ones(2), torch.full((2,), 0.5)
    optimizer = fn.optim.SGD(lr=1.0)
    params = {"a": weight, "b": weight}
    params, _ = optimizer.step(params, {"a": grad, "b": grad}, optimizer.init(params))
    assert_identical(params["a"], torch.full((2,), 0.5))


@pytest.mark.parametrize("wrap", [lambda f: f, torch.func.vmap])
def test_gradients_of_tied_params_in_one_sum_count_as_many(wrap):
    weight, x = torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    params, optimizer = {"a": weight, "b": weight}, fn.optim.SGD(lr=1.0)

    def step(x):
        grads = fn.grad(lambda params: ((params["a"] + params["b"]) * x).sum())(params)
        return optimizer.step(params, grads, optimizer.init(params))[0]["b"]

    assert_identical(wrap(step)(x[None]).view(3), 1 - 2 * x)


@parametrize(name=["SGD", "Adam", "AdamW", "Adagrad"], fused=[None, True], donate=[False, True])
def test_strides_change_no_value(name, fused, donate):
    """Regression: torch's fused kernels take every gradient to lie in memory as its param does."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator)
    image = torch.randn(2, 3, 4, 5, generator=generator)
    arguments = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(fn.optim, name)(lr=0.1, fused=fused, **arguments)
    odd = {
        "transposed": weight.t().clone().t(),
        "slice": torch.cat([weight, weight], dim=1)[:, 3:9],
        "image": image.contiguous(memory_format=torch.channels_last),
    }
    plain = {path: leaf.clone(memory_format=torch.contiguous_format) for path, leaf in odd.items()}
    grads = {"transposed": weight, "slice": torch.ones(()).expand(4, 6), "image": image.sin()}
    whole = odd["slice"]._base.clone()
    state, plain_state = optimizer.init(odd), optimizer.init(plain)
    for _ in range(3):
        odd, state = optimizer.step(odd, grads, state, donate=donate)
        plain, plain_state = optimizer.step(plain, {key: grad.contiguous() for key, grad in grads.items()}, plain_state)
    assert_identical(odd, plain)
    assert_identical(state, plain_state)
    if donate:  # the rest of the tensor that the slice is a view of stays as it was
        assert_identical(odd["slice"]._base[:, :3], whole[:, :3])


@parametrize(row=rows())
def test_a_donated_step_writes_over_what_it_is_given(row):
    params = row.params(torch.float32)
    optimizer = row.ours()
    params, state = optimizer.step(params, row.params(torch.float32, 1), optimizer.init(params))
    given = fn.tree.flatten(params)
    new_params, new_state = optimizer.step(params, row.params(torch.float32, 2), state, donate=True)
    assert all(fn.tree.get(new_params, path) is leaf for path, leaf in given.items())
    tensors = {path: leaf for path, leaf in fn.tree.flatten(state).items() if leaf.dim() and "scale" not in path}
    assert all(fn.tree.get(new_state, path).data_ptr() == leaf.data_ptr() for path, leaf in tensors.items())


def test_donated_leaves_that_require_grad_are_written_over_and_others_keep_their_graph():
    weight = torch.ones(2, requires_grad=True)
    optimizer = fn.optim.SGD(lr=0.5)
    params, _ = optimizer.step({"w": weight}, {"w": torch.ones(2)}, {"w": {}}, donate=True)
    assert params["w"] is weight and weight.tolist() == [0.5, 0.5]
    inner = weight * 2
    params, _ = optimizer.step({"w": inner}, {"w": inner.detach()}, {"w": {}}, donate=True)
    assert_identical(torch.autograd.grad(params["w"].sum(), weight)[0], torch.full((2,), 2.0))
    lr = torch.tensor(0.5, requires_grad=True)
    params, _ = optimizer.step({"w": torch.ones(2)}, {"w": torch.ones(2)}, {"w": {}}, donate=True, lr=lr)
    assert torch.autograd.grad(params["w"].sum(), lr)[0].item() == -2.0


def test_all_misfits_are_one_error_with_their_paths():
    optimizer = fn.optim.Adam()
    state = optimizer.init(PARAMS)
    del state["head"]
    grads: dict[str, Any] = {
        "body": {"weight": torch.ones(3, 2), "bias": torch.ones(3, dtype=torch.float64)},
        "tail": torch.ones(1),
    }
    with pytest.raises(fn.TreeError) as error:
        optimizer.step(PARAMS, grads, state)
    for fragment in (
        "params, grads and state do not fit together: 5 problems",
        "mis-shaped  grads['body']['weight']: expected (2, 3), got (3, 2)",
        "mis-typed   grads['body']['bias']: expected torch.float32, got torch.float64",
        "extra       grads['tail']: there is no such param",
        "missing     grads['head']: expected a dict, as params have",
        "missing     state['head']: expected a dict, as params have",
    ):
        assert fragment in str(error.value)


@parametrize(name=["Adam", "NAdam", "Rprop", "Adafactor", "RMSprop"])
def test_a_state_of_another_optimizer_or_other_params_is_refused(name):
    optimizer = getattr(fn.optim, name)()
    with pytest.raises(fn.TreeError, match=r"state\['body'\]\['weight'\]\['\w+'\] is missing: expected \(2, \d\)"):
        optimizer.step(PARAMS, GRADS, fn.optim.Adagrad().init(PARAMS))
    with pytest.raises(fn.TreeError, match=r"has shape \(\d, \d\): expected \(2, \d\)"):
        optimizer.step(
            PARAMS, GRADS, optimizer.init({**PARAMS, "body": {**PARAMS["body"], "weight": torch.ones(4, 4)}})
        )
    with pytest.raises(fn.TreeError, match=r"state\['head'\]\['weight'\]: expected a dict, got a tensor"):
        optimizer.step(PARAMS, GRADS, {**optimizer.init(PARAMS), "head": {"weight": torch.ones(1)}})


def test_params_that_an_optimizer_cannot_take_are_refused_all_at_once():
    params = {"matrix": torch.ones(2, 2), "bias": torch.ones(2), "kernel": torch.ones(2, 2, 2)}
    with pytest.raises(fn.TreeError) as error:
        fn.optim.Muon().init(params)
    assert "params['bias']: Muon only supports 2D parameters" in str(error.value) and "params['kernel']" in str(
        error.value
    )
    complex_params = {"w": torch.ones(2, 2, dtype=torch.complex64)}
    for name in ("Muon", "Adafactor", "SparseAdam"):
        with pytest.raises(fn.TreeError, match=f"{name} does not support complex parameters"):
            getattr(fn.optim, name)().init(complex_params)
    with pytest.raises(fn.TreeError, match="fused=True takes floating params"):
        fn.optim.AdamW(fused=True).init(complex_params)


def test_an_empty_entry_is_a_state_before_the_first_step():
    optimizer = fn.optim.AdamW()
    assert_identical(
        optimizer.step(PARAMS, GRADS, {"body": {"weight": {}, "bias": {}}, "head": {"weight": {}}}),
        optimizer.step(PARAMS, GRADS, optimizer.init(PARAMS)),
    )


def test_a_learning_rate_in_float32_is_taken_as_it_is():
    """Regression: torch computes the size of a step of float64 params in float32 then, where it is capturable."""
    params, grads = {"w": torch.ones(2, dtype=torch.float64)}, {"w": torch.full((2,), 0.3, dtype=torch.float64)}
    lr = torch.tensor(1e-3)
    optimizer = fn.optim.Adam()
    state = optimizer.init(params)
    assert_identical(
        optimizer.step(params, grads, state, lr=lr)[0], optimizer.step(params, grads, state, lr=lr.item())[0]
    )
