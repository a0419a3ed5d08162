"""Both ways with torch.optim: live optimizers and state_dicts, with equal bits before, between and after."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

import funcnet as fn
from tests.helpers import assert_identical, parametrize

ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "Adamax": {"lr": 0.1},
    "NAdam": {"lr": 0.1},
    "RAdam": {"lr": 0.1},
    "Adagrad": {"lr": 0.1, "initial_accumulator_value": 0.5},
    "Adadelta": {"lr": 0.1},
    "RMSprop": {"lr": 0.1, "momentum": 0.9, "centered": True},
    "Rprop": {"lr": 0.1},
    "ASGD": {"lr": 0.1},
    "Adafactor": {"lr": 0.1},
    "Muon": {"lr": 0.1},
    "SparseAdam": {"lr": 0.1},
    "LBFGS": {"lr": 0.5, "max_iter": 3},
}
NAMES = list(ARGUMENTS)


class Model(nn.Module):
    """Params that are tied, frozen and unused, in two groups; matrices alone where an optimizer takes nothing else."""

    def __init__(self, bias: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Embedding(5, 3)
            self.fc = nn.Linear(3, 3, bias=bias)
            self.frozen = nn.Linear(3, 2, bias=bias).requires_grad_(False)
            self.unused = nn.Linear(2, 3, bias=bias)
            self.head = nn.Linear(3, 5, bias=bias)
            self.head.weight = self.embed.weight
        self.to(dtype)

    def groups(self, name: str) -> list[dict[str, Any]]:
        """Two groups, the second of which has other hyperparameters; one for the optimizer that takes one."""
        if name == "LBFGS":
            return [{"params": list(self.parameters())}]
        second = [*self.fc.parameters(), *self.unused.parameters()]
        ids = {id(param) for param in second}
        return [
            {"params": [param for param in self.parameters() if id(param) not in ids]},
            {"params": second, "lr": 0.05},
        ]


def make_model(name: str, dtype: torch.dtype = torch.float32) -> Model:
    return Model(bias=name != "Muon", dtype=dtype)


def build(name: str, groups: Any) -> torch.optim.Optimizer:
    return getattr(torch.optim, name)(groups, **ARGUMENTS[name])


def draw_grads(name: str, module: nn.Module, step: int) -> dict[str, Tensor | None]:
    """Gradients by the path of the param; none for what is frozen or unused."""
    generator = torch.Generator().manual_seed(step)
    grads: dict[str, Tensor | None] = {}
    for path, param in module.named_parameters():
        grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        grads[path] = (
            None if path.startswith(("frozen", "unused")) else grad.to_sparse(1) if name == "SparseAdam" else grad
        )
    return grads


def loss(params: Any, step: int) -> Tensor:
    """A loss for the optimizer that evaluates it many times."""
    used = {path: leaf for path, leaf in fn.tree.flatten(params).items() if not path.startswith(("frozen", "unused"))}
    return torch.stack([(leaf - 0.1 * step).pow(4).sum() for leaf in used.values()]).sum()


def step_torch(name: str, optimizer: torch.optim.Optimizer, module: nn.Module, step: int) -> None:
    if name == "LBFGS":

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(dict(module.named_parameters()), step)
            value.backward()
            return value

        optimizer.step(closure)
        return
    for path, grad in draw_grads(name, module, step).items():
        module.get_parameter(path).grad = grad
    optimizer.step()


def params_of(module: nn.Module) -> Any:
    return fn.from_module(module)[1]


def assert_same_state_dicts(left: Any, right: Any) -> None:
    """Equal values under equal keys; the order in which params came to their state is of no account."""
    assert left["state"].keys() == right["state"].keys()
    for key, entry in right["state"].items():
        assert_identical({name: left["state"][key][name] for name in entry}, entry, str(key))
        assert left["state"][key].keys() == entry.keys()
    assert len(left["param_groups"]) == len(right["param_groups"])
    for group, expected in zip(left["param_groups"], right["param_groups"], strict=True):
        assert group.keys() == expected.keys()
        assert_identical({name: group[name] for name in expected}, expected)


@parametrize(name=NAMES, donate=[False, True], dtype=[torch.float32, torch.bfloat16])
def test_five_steps_of_each_kind_are_fifteen_of_torch(name, donate, dtype):
    expected = make_model(name, dtype)
    uninterrupted = build(name, expected.groups(name))
    for step in range(15):
        step_torch(name, uninterrupted, expected, step)

    module = make_model(name, dtype)
    live = build(name, module.groups(name))
    for step in range(5):
        step_torch(name, live, module, step)
    net, params, buffers = fn.from_module(module)
    optimizer, state = fn.optim.from_torch(live, module)
    before = live.state_dict()
    for step in range(5, 10):
        grads: Any = fn.tree.unflatten(draw_grads(name, module, step))
        if name == "LBFGS":
            grads = partial(loss, step=step)
        params, state = optimizer.step(params, grads, state, donate=donate)
    assert_identical(live.state_dict(), before)  # the torch optimizer kept its own tensors
    module = fn.to_module(net, params, buffers)
    live = fn.optim.to_torch(optimizer, state, module)
    for step in range(10, 15):
        step_torch(name, live, module, step)

    assert_identical(params_of(module), params_of(expected))
    assert_same_state_dicts(live.state_dict(), uninterrupted.state_dict())


@parametrize(name=NAMES, steps=[0, 3], named=[False, True])
def test_state_dicts_come_back_as_torch_has_them(name, steps, named):
    module = make_model(name)
    groups = module.groups(name)
    if named:
        name_by_id = {id(param): path for path, param in module.named_parameters()}
        groups = [{**group, "params": [(name_by_id[id(p)], p) for p in group["params"]]} for group in groups]
    live = build(name, groups)
    for step in range(steps):
        step_torch(name, live, module, step)
    state_dict = live.state_dict()
    template = getattr(fn.optim, name)
    if name != "LBFGS" and not named:
        template = template(**ARGUMENTS[name], groups={("fc", "unused"): {"lr": 0.05}})
    for source in (module, params_of(module)):
        optimizer, state = fn.optim.from_state_dict(template, state_dict, source)
        expected, expected_state = fn.optim.from_torch(live, module)
        assert_identical((optimizer.values(), state), (expected.values(), expected_state))
        assert dict(optimizer.groups) == ({} if name == "LBFGS" else {("fc", "unused"): {"lr": 0.05}})
        assert_same_state_dicts(fn.optim.to_state_dict(optimizer, state, source, param_names=named), state_dict)


@parametrize(name=NAMES, flat=[False, True])
def test_names_as_keys_are_those_of_distributed_checkpoints(name, flat):
    if flat and name == "LBFGS":
        pytest.skip("torch flattens no lists, which the state of LBFGS has")
    module = make_model(name)
    for part in (module.frozen, module.unused):
        part.requires_grad_(False)
    live = build(name, module.groups(name))
    for step in range(3):
        step_torch(name, live, module, step)
    expected = get_optimizer_state_dict(module, live, options=StateDictOptions(flatten_optimizer_state_dict=flat))
    optimizer, state = fn.optim.from_torch(live, module)
    written = fn.optim.to_state_dict(optimizer, state, module, keys="flat" if flat else "path")
    if flat:
        assert written.keys() == expected.keys()
        assert_identical({key: written[key] for key in expected}, expected)
    else:
        assert_same_state_dicts(written, expected)
    again, state_again = fn.optim.from_state_dict(type(optimizer), expected, module)
    assert_identical(state_again, state)
    assert (again.values(), dict(again.groups)) == (optimizer.values(), dict(optimizer.groups))


def test_params_outside_of_the_optimizer_are_absent_and_never_updated():
    module = make_model("AdamW")
    live = torch.optim.AdamW(module.fc.parameters(), lr=0.1)
    optimizer, state = fn.optim.from_torch(live, module)
    assert state["head"] == {"bias": fn.tree.ABSENT} and state["fc"] == {"weight": {}, "bias": {}}
    params = params_of(module)
    grads = fn.tree.zeros_like(params)
    with pytest.raises(fn.TreeError, match=r"state\['head'\]\['bias'\]"):
        optimizer.step(params, grads, state)
    params, state = optimizer.step(params, {**dict.fromkeys(grads), "fc": grads["fc"]}, state)
    live = fn.optim.to_torch(optimizer, state, module)
    assert [len(group["params"]) for group in live.param_groups] == [2]


def test_a_loaded_state_has_the_dtype_of_its_param():
    module = make_model("Adam")
    live = torch.optim.Adam(module.parameters())
    step_torch("Adam", live, module, 0)
    half = make_model("Adam", torch.bfloat16)
    theirs = torch.optim.Adam(half.parameters())
    theirs.load_state_dict(live.state_dict())
    _, state = fn.optim.from_state_dict(fn.optim.Adam, live.state_dict(), half)
    assert_identical(state, fn.optim.from_torch(theirs, half)[1])
    assert state["fc"]["weight"]["exp_avg"].dtype == torch.bfloat16
    assert state["fc"]["weight"]["step"].dtype == torch.float32


def test_a_learning_rate_that_is_a_tensor_stays_one():
    module = make_model("Adam")
    live = torch.optim.Adam(module.parameters(), lr=torch.tensor(0.1))
    optimizer, state = fn.optim.from_torch(live, module)
    live.param_groups[0]["lr"].fill_(0.7)
    assert_identical(optimizer.lr, torch.tensor(0.1))
    assert_identical(fn.optim.to_torch(optimizer, state, module).param_groups[0]["lr"], torch.tensor(0.1))


def test_a_record_that_steps_from_its_own_first_state_becomes_torchs():
    net, params, buffers = fn.from_module(make_model("AdamW"))
    optimizer = fn.optim.AdamW(lr=0.1, groups={"**.bias": {"weight_decay": 0.0}})
    live = fn.optim.to_torch(optimizer, optimizer.init(params), fn.to_module(net, params, buffers))
    assert live.state_dict()["state"] == {}
    assert [group["weight_decay"] for group in live.param_groups] == [0.01, 0.0]


def test_a_wrapped_module_has_the_paths_of_what_is_inside():
    module = make_model("SGD")
    wrapped = nn.DataParallel(module)
    names = [(name, param) for name, param in wrapped.named_parameters()]
    live = torch.optim.SGD(names, lr=0.1, momentum=0.9)
    step_torch("SGD", live, module, 0)
    expected = fn.optim.from_torch(live, module)
    assert_identical(fn.optim.from_torch(live, wrapped)[1], expected[1])
    assert live.state_dict()["param_groups"][0]["param_names"][0] == "module.embed.weight"
    for source in (module, wrapped, params_of(module)):
        assert_identical(fn.optim.from_state_dict(fn.optim.SGD, live.state_dict(), source)[1], expected[1])


def test_misfits_are_told_all_at_once():
    module = make_model("Adam")
    other = nn.Linear(3, 4)
    with pytest.raises(fn.TreeError, match=r"(?s)parameter 0 of group 0, shape \(4, 3\).*parameter 1 of group 0"):
        fn.optim.from_torch(torch.optim.Adam(other.parameters()), module)

    optimizer = fn.optim.Adam()
    state = optimizer.init(params_of(module))
    state["fc"]["weight"]["exp_avg"] = torch.ones(2)
    state["fc"]["bias"].pop("exp_avg_sq")
    with pytest.raises(
        fn.TreeError, match=r"(?s)\['fc'\]\['weight'\]\['exp_avg'\].*\['fc'\]\['bias'\]\['exp_avg_sq'\]"
    ):
        fn.optim.to_torch(optimizer, state, module)
    del state["fc"]
    state["tail"] = {"weight": {"step": torch.zeros(())}}
    with pytest.raises(
        fn.TreeError, match=r"(?s)3 problems.*\['fc'\]\['weight'\].*\['fc'\]\['bias'\].*\['tail'\]\['weight'\]"
    ):
        fn.optim.to_torch(optimizer, state, module)


def test_numbers_are_checked_against_the_groups_and_the_shapes():
    module = make_model("Adam")
    live = build("Adam", module.groups("Adam"))
    step_torch("Adam", live, module, 0)
    with pytest.raises(fn.TreeError, match="groups of 4 and 4 params without names"):
        fn.optim.from_state_dict(fn.optim.Adam, live.state_dict(), module)
    with pytest.raises(fn.TreeError, match="and there are 4"):
        fn.optim.from_state_dict(fn.optim.Adam, live.state_dict(), {"w": {str(i): torch.ones(2) for i in range(4)}})
    other = fn.optim.Adam(groups={("fc", "head.bias", "frozen.bias"): {}})
    with pytest.raises(fn.TreeError, match=r"state\['unused'\]\['bias'\]\['exp_avg'\]: expected shape \(3,\), got"):
        fn.optim.from_state_dict(other, live.state_dict(), module)
    named = torch.optim.Adam(module.named_parameters()).state_dict()
    named["param_groups"][0]["param_names"][1:3] = ["fc.wait", "fc.buyas"]
    with pytest.raises(fn.TreeError, match=r"(?s)'fc\.wait'.*'fc\.buyas'"):
        fn.optim.from_state_dict(fn.optim.Adam, named, module)
    with pytest.raises(fn.TreeError, match="'state' and 'param_groups'"):
        fn.optim.from_state_dict(fn.optim.Adam, module.state_dict(), module)


def test_what_torch_optim_does_not_have_is_refused():
    class Own(torch.optim.SGD):
        pass

    module = nn.Linear(2, 2)
    with pytest.raises(fn.ConversionError, match="Own"):
        fn.optim.from_torch(Own(module.parameters()), module)
    hooked = torch.optim.SGD(module.parameters())
    hooked.register_step_post_hook(lambda *arguments: None)
    with pytest.raises(fn.ConversionError, match="hooks run"):
        fn.optim.from_torch(hooked, module)
    params = params_of(module)
    optimizer = fn.optim.MasterParams(fn.optim.SGD())
    with pytest.raises(fn.ConversionError, match="MasterParams"):
        fn.optim.to_torch(optimizer, optimizer.init(params), module)
    reversed_rows = torch.optim.LBFGS([module.bias, module.weight])
    with pytest.raises(fn.TreeError, match="another order"):
        fn.optim.from_torch(reversed_rows, module)
