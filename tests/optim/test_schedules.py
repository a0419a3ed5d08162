"""Schedules: functions of the step with exactly the floats of torch's schedulers."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.optim import lr_scheduler

import funcnet as fn
from funcnet import optim

STEPS = 200
LRS = [0.1, 3e-4, 1.7]
CASES = {
    "LambdaLR": {"lr_lambda": lambda step: 0.95**step},
    "LambdaLR of each group": {"lr_lambda": [lambda step: 0.95**step, lambda step: 1 / (1 + step), lambda _: 0.5]},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.95 + 0.001 * (step % 3)},
    "StepLR": {"step_size": 7, "gamma": 0.3},
    "MultiStepLR": {"milestones": [3, 50, 50, 110], "gamma": 0.7},
    "ConstantLR": {"factor": 0.3, "total_iters": 11},
    "LinearLR": {"start_factor": 0.1, "end_factor": 0.77, "total_iters": 33},
    "ExponentialLR": {"gamma": 0.97},
    "PolynomialLR": {"total_iters": 150, "power": 1.7},
    "CosineAnnealingLR": {"T_max": 37, "eta_min": 1e-5},
    "CosineAnnealingWarmRestarts": {"T_0": 7, "T_mult": 2, "eta_min": 1e-5},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 13, "step_size_down": 8},
    "CyclicLR triangular2": {"base_lr": [0.01, 0.02, 0.03], "max_lr": 0.3, "step_size_up": 13, "mode": "triangular2"},
    "CyclicLR exp_range": {
        "base_lr": 0.01, "max_lr": 0.3, "step_size_up": 13, "mode": "exp_range", "gamma": 0.99, "cycle_momentum": False
    },
    "CyclicLR scale_fn": {
        "base_lr": 0.01, "max_lr": 0.3, "step_size_up": 13, "scale_fn": lambda x: 0.9**x, "scale_mode": "iterations"
    },
    "OneCycleLR": {"max_lr": 0.5, "total_steps": STEPS},
    "OneCycleLR three_phase": {
        "max_lr": [0.5, 0.6, 0.7], "epochs": 20, "steps_per_epoch": 10, "three_phase": True,
        "anneal_strategy": "linear", "max_momentum": [0.9, 0.8, 0.7], "base_momentum": 0.5,
    },
    "OneCycleLR of lr alone": {"max_lr": 0.5, "total_steps": STEPS, "cycle_momentum": False, "pct_start": 0.1},
    "SWALR": {"swa_lr": 0.05, "anneal_epochs": 21},
    "SWALR linear": {"swa_lr": [0.05, 0.1, 0.2], "anneal_epochs": 21, "anneal_strategy": "linear"},
}  # fmt: skip


def build_pair(name: str, record, torch_optimizer, **changes):
    """The schedule of funcnet and the scheduler of torch of one case."""
    cls = name.partition(" ")[0]
    arguments = {**CASES[name], **changes}
    scheduler_class = torch.optim.swa_utils.SWALR if cls == "SWALR" else getattr(lr_scheduler, cls)
    return getattr(optim, cls)(record, **arguments), scheduler_class(torch_optimizer, **arguments)


def make_torch_optimizer(kind: str, lrs: list[float]) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    if kind == "SGD":
        return torch.optim.SGD(groups, momentum=0.9)
    return getattr(torch.optim, kind)(groups, betas=(0.8, 0.99))


def make_record(kind: str, lrs: list[float]):
    values = {"momentum": 0.9} if kind == "SGD" else {"betas": (0.8, 0.99)}
    return getattr(optim, kind)(
        lr=lrs[0], **values, groups={f"part{index}": {"lr": lr} for index, lr in enumerate(lrs[1:])}
    )


def names_moved(schedule) -> list[str]:
    return [name for name in schedule.hyperparameters(0) if name != "groups"]


def run_torch(torch_optimizer, scheduler, names, steps=STEPS) -> list[list[dict]]:
    """The hyperparameters of each group of an optimizer of torch after each step of a scheduler."""
    rows = []
    for _ in range(steps):
        rows.append([{name: group[name] for name in names} for group in torch_optimizer.param_groups])
        torch_optimizer.step()
        scheduler.step()
    return rows


def rows_of(schedule, record, steps=STEPS) -> list[list[dict]]:
    rows = []
    for step in range(steps):
        values = schedule.hyperparameters(step)
        groups = values.pop("groups", {})
        rows.append([values, *({**values, **groups.get(selector, {})} for selector in record.groups)])
    return rows


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", CASES)
def test_three_groups_have_torchs_floats(name, kind):
    record, torch_optimizer = make_record(kind, LRS), make_torch_optimizer(kind, LRS)
    schedule, scheduler = build_pair(name, record, torch_optimizer)
    expected = run_torch(torch_optimizer, scheduler, names_moved(schedule))
    assert rows_of(schedule, record) == expected
    moves_momentum = name.startswith(("CyclicLR", "OneCycleLR")) and CASES[name].get("cycle_momentum", True)
    assert names_moved(schedule) == (["lr", "momentum" if kind == "SGD" else "betas"] if moves_momentum else ["lr"])
    assert schedule.table(STEPS).tolist() == [[group["lr"] for group in row] for row in expected]


SINGLE = [
    name
    for name, arguments in CASES.items()
    if not any(isinstance(value, list) and name != "MultiStepLR" for value in arguments.values())
]


@pytest.mark.parametrize("lr", LRS)
@pytest.mark.parametrize("name", SINGLE)
def test_one_learning_rate_is_a_number(name, lr):
    takes_momentum = name.startswith(("CyclicLR", "OneCycleLR"))
    changes = {"cycle_momentum": False} if takes_momentum else {}
    torch_optimizer = make_torch_optimizer("SGD", [lr])
    schedule, scheduler = build_pair(name, lr, torch_optimizer, **changes)
    expected = [row[0]["lr"] for row in run_torch(torch_optimizer, scheduler, ["lr"])]
    assert [schedule(step) for step in range(STEPS)] == expected
    assert all(type(schedule(step)) is float for step in range(STEPS))
    again, _ = build_pair(name, lr, make_torch_optimizer("SGD", [lr]), **changes)
    assert again(STEPS - 1) == expected[-1] and again(3) == expected[3] and again(torch.tensor(5)) == expected[5]
    assert schedule == again and hash(schedule) == hash(again)
    assert schedule.table(STEPS).tolist() == expected
    assert schedule.hyperparameters(7) == {"lr": expected[7]}


COMBINATIONS = {
    "warm-up and cosine": lambda lib, source: lib.SequentialLR(
        source, [lib.LinearLR(source, 0.1, total_iters=10), lib.CosineAnnealingLR(source, 90)], milestones=[10]
    ),
    "three in a row": lambda lib, source: lib.SequentialLR(
        source,
        [lib.ConstantLR(source, 0.2, 4), lib.ExponentialLR(source, 0.9), lib.StepLR(source, 5)],
        milestones=[20, 60],
    ),
    "nested": lambda lib, source: lib.SequentialLR(
        source,
        [
            lib.SequentialLR(source, [lib.PolynomialLR(source, 30), lib.CosineAnnealingWarmRestarts(source, 6)], [30]),
            lib.LinearLR(source, 0.5, total_iters=4),
        ],
        milestones=[90],
    ),
    "chained": lambda lib, source: lib.ChainedScheduler(
        [lib.ConstantLR(source, 0.1, 2), lib.ExponentialLR(source, 0.9), lib.MultiStepLR(source, [5, 60])]
    ),
    "chained in a row": lambda lib, source: lib.SequentialLR(
        source,
        [lib.ChainedScheduler([lib.ExponentialLR(source, 0.99), lib.StepLR(source, 30)]), lib.LinearLR(source, 0.5)],
        milestones=[35],
    ),
    "one cycle at the end": lambda lib, source: lib.SequentialLR(
        source, [lib.ConstantLR(source, 0.1, 5), lib.OneCycleLR(source, 0.4, total_steps=300)], milestones=[20]
    ),
}


FORGOTTEN_STEP = (
    "ignore:Detected call of `lr_scheduler.step:UserWarning"  # torch's own, of one that starts with another
)


@pytest.mark.filterwarnings(FORGOTTEN_STEP)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_have_torchs_floats(name, kind):
    record, torch_optimizer = make_record(kind, LRS), make_torch_optimizer(kind, LRS)
    schedule = COMBINATIONS[name](optim, record)
    scheduler = COMBINATIONS[name](lr_scheduler, torch_optimizer)
    expected = run_torch(torch_optimizer, scheduler, names_moved(schedule))
    assert rows_of(schedule, record) == expected


def test_what_torch_cannot_start_at_a_milestone_is_refused():
    for part in (optim.SequentialLR(0.1, [optim.StepLR(0.1, 3)], []), optim.ChainedScheduler([optim.StepLR(0.1, 3)])):
        with pytest.raises(ValueError, match="SequentialLR starts schedule 1 at a milestone, and it is made of others"):
            optim.SequentialLR(0.1, [optim.StepLR(0.1, 3), part], [5])


def test_what_moves_more_than_one_learning_rate_is_not_one_number():
    cycle = optim.OneCycleLR(optim.SGD(0.1, momentum=0.9), max_lr=0.5, total_steps=10)
    with pytest.raises(
        TypeError, match=r"OneCycleLR moves 'lr' and 'momentum', .*\*\*schedule\.hyperparameters\(step\)"
    ):
        cycle(0)
    groups = optim.StepLR(optim.SGD(0.1, groups={"head": {"lr": 0.2}}), 3)
    with pytest.raises(TypeError, match="StepLR moves 'lr' and 'groups', not one learning rate"):
        groups(0)
    assert groups.hyperparameters(3)["groups"]["head"]["lr"] == 0.2 * 0.1
    same = optim.StepLR(optim.SGD(0.1, groups={"head": {"weight_decay": 0.2}}), 3)
    assert same(3) == same.hyperparameters(3)["lr"] == 0.1 * 0.1


def test_a_step_is_all_there_is_to_save():
    schedule = optim.SequentialLR(
        0.1, [optim.LinearLR(0.1, 0.1, total_iters=10), optim.CosineAnnealingLR(0.1, 90)], milestones=[10]
    )
    values = [schedule(step) for step in range(100)]
    for copied in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert copied == schedule and [copied(step) for step in range(100)] == values
    assert repr(schedule).startswith(
        "SequentialLR(optimizer=0.1, schedulers=(LinearLR(optimizer=0.1, start_factor=0.1,"
    )


@pytest.mark.filterwarnings(FORGOTTEN_STEP)
@pytest.mark.parametrize("step", [0, 1, 12, 47])
@pytest.mark.parametrize("name", [*CASES, *COMBINATIONS])
def test_a_scheduler_of_torch_goes_on_from_a_step(name, step):
    record, straight, resumed = (
        make_record("SGD", LRS),
        make_torch_optimizer("SGD", LRS),
        make_torch_optimizer("SGD", LRS),
    )
    if name in CASES:
        schedule, scheduler = build_pair(name, record, straight)
    else:
        schedule, scheduler = COMBINATIONS[name](optim, record), COMBINATIONS[name](lr_scheduler, straight)
    expected = run_torch(straight, scheduler, ["lr", "momentum"], 90)
    goes_on = schedule.to_torch(resumed, step)
    assert schedule.read_state_dict(goes_on.state_dict()) == step
    assert run_torch(resumed, goes_on, ["lr", "momentum"], 90 - step) == expected[step:]


def test_the_state_of_another_schedule_is_refused_with_all_that_differs():
    schedule, other = optim.StepLR(0.1, 3, gamma=0.5), optim.StepLR(0.2, 4, gamma=0.5)
    state_dict = other.to_torch(make_torch_optimizer("SGD", [0.2]), 5).state_dict()
    with pytest.raises(ValueError, match=r"of this StepLR:\n  \['step_size'\]: expected 3, got 4\n.*0\.1, got 0\.2\n"):
        schedule.read_state_dict(state_dict)
    with pytest.raises(ValueError, match=r"not that of this CosineAnnealingLR:\n  \['T_max'\] is missing: expected 9"):
        optim.CosineAnnealingLR(0.2, 9).read_state_dict(state_dict)
    with pytest.raises(
        ValueError, match="a StepLR of torch has 'last_epoch', and this one has 'state', 'param_groups'"
    ):
        schedule.read_state_dict(make_torch_optimizer("SGD", [0.2]).state_dict())


def test_fractions_of_an_epoch_restart_as_torchs():
    torch_optimizer = make_torch_optimizer("SGD", [0.3])
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(torch_optimizer, 3, 2)
    schedule = optim.CosineAnnealingWarmRestarts(0.3, 3, 2)
    for index in range(1, 100):
        if index % 10:
            scheduler.step(index / 10)
            assert schedule(index / 10) == scheduler.get_last_lr()[0]
    assert schedule(4.0) == schedule(4)


def test_arguments_are_checked_when_the_schedule_is_made():
    with pytest.raises(ValueError, match="Starting multiplicative factor"):
        optim.LinearLR(0.1, start_factor=2.0)
    with pytest.raises(ValueError, match=r"must have the same length|Expected 1 lr_lambdas"):
        optim.LambdaLR(0.1, [math.cos, math.sin])
    with pytest.raises(ValueError, match="momentum or beta1"):
        optim.OneCycleLR(0.1, max_lr=0.5, total_steps=10)
    with pytest.raises(TypeError, match=r"an optimizer of funcnet\.optim or a learning rate, not 'adam'"):
        optim.StepLR("adam", 3)
    with pytest.raises(TypeError, match="requires grad"):
        optim.StepLR(torch.tensor(0.1, requires_grad=True), 3)
    with pytest.raises(ValueError, match=r"starts from 0\.1, and all its schedules do: schedule 1 starts from 0\.2"):
        optim.SequentialLR(0.1, [optim.StepLR(0.1, 3), optim.StepLR(0.2, 3)], [5])
    with pytest.raises(TypeError, match=r"number 0 is .*LambdaLR"):
        optim.ChainedScheduler([math.cos])
    with pytest.raises(ValueError, match="at least one scheduler"):
        optim.ChainedScheduler([])
    with pytest.raises(ValueError, match="counts steps from 0, got -1"):
        optim.StepLR(0.1, 3)(-1)
    cycle = optim.OneCycleLR(0.1, max_lr=0.5, total_steps=10, cycle_momentum=False)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"total number of steps is 10|total steps is 10"):
            cycle(11)
    assert cycle(10) == cycle.table(11)[10]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 0}),
        ("CosineAnnealingLR", {"T_max": 0}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 0, "cycle_momentum": False}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 0, "step_size_down": 2, "cycle_momentum": False}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 4, "div_factor": 0.0, "cycle_momentum": False}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 4, "final_div_factor": 0.0, "cycle_momentum": False}),
    ],
)
def test_a_divisor_of_zero_is_named_when_the_schedule_is_made(name, options):
    (zero,) = [option for option, value in options.items() if value == 0 and option != "cycle_momentum"]
    with pytest.raises(ValueError, match=f"{name} divides by {zero}: expected a number above 0, got 0"):
        getattr(fn.optim, name)(0.5, **options)


def test_compiled_code_reads_a_table_and_takes_numbers():
    schedule = optim.CosineAnnealingLR(0.1, 50)
    table = schedule.table(100)
    torch._dynamo.reset()
    compiled = torch.compile(lambda step: table.gather(0, step) * 2, fullgraph=True, backend="aot_eager")
    assert [float(compiled(torch.tensor(step))) for step in (0, 7, 99)] == [schedule(step) * 2 for step in (0, 7, 99)]
    assert torch.vmap(lambda step: table.gather(0, step))(torch.arange(3)).tolist() == [
        schedule(step) for step in range(3)
    ]
    constant = torch.compile(lambda x: x * schedule(7), fullgraph=True, backend="aot_eager")
    assert float(constant(torch.tensor(1.0, dtype=torch.float64))) == schedule(7)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(
    "more", [{}, {"cooldown": 3}, {"min_lr": [0.01, 1e-4, 0.0]}, {"eps": 1e-3, "factor": 0.7}], ids=str
)
def test_plateau_has_torchs_numbers(mode, threshold_mode, more):
    generator = torch.Generator().manual_seed(0)
    metrics = [
        *(torch.rand(STEPS, generator=generator) + torch.linspace(1, 0, STEPS)).tolist(),
        float("nan"),
        float("inf"),
        0.1,
    ]
    arguments = {
        "mode": mode,
        "threshold_mode": threshold_mode,
        "patience": 3,
        "factor": 0.5,
        "threshold": 1e-3,
        **more,
    }
    record, torch_optimizer = make_record("SGD", LRS), make_torch_optimizer("SGD", LRS)
    plateau, scheduler = (
        optim.ReduceLROnPlateau(record, **arguments),
        lr_scheduler.ReduceLROnPlateau(torch_optimizer, **arguments),
    )
    state = plateau.init()
    for metric in metrics:
        before = copy.deepcopy(state)
        new = plateau.step(state, torch.tensor(metric, dtype=torch.float64))
        assert state == before
        state = new
        scheduler.step(metric)
        for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch"):
            assert state[name] == getattr(scheduler, name)
        assert state["lr"] == [group["lr"] for group in torch_optimizer.param_groups]
    assert plateau.read_state_dict(scheduler.state_dict()) == state
    resumed = make_torch_optimizer("SGD", LRS)
    assert plateau.to_torch(resumed, state).state_dict() == scheduler.state_dict()
    assert [group["lr"] for group in resumed.param_groups] == state["lr"]
    values = plateau.hyperparameters(state)
    assert values["lr"] == state["lr"][0]
    assert [group["lr"] for group in values["groups"].values()] == state["lr"][1:]


def test_plateau_names_all_that_is_wrong():
    with pytest.raises(
        ValueError, match=r"factor is below 1, got 1\.5; mode is .*'low'; .*'both'; min_lr has .* 1 groups, got 2"
    ):
        optim.ReduceLROnPlateau(0.1, "low", 1.5, threshold_mode="both", min_lr=[0.1, 0.2])
    state_dict = lr_scheduler.ReduceLROnPlateau(make_torch_optimizer("SGD", [0.1]), patience=3).state_dict()
    with pytest.raises(ValueError, match=r"not that of this ReduceLROnPlateau:\n  \['patience'\]: expected 4, got 3\n"):
        optim.ReduceLROnPlateau(0.1, patience=4).read_state_dict(state_dict)


def test_a_schedule_drives_an_optimizer_as_torchs_does():
    net = fn.Linear(3, 1)
    params, _ = net.init(0)
    module = fn.to_module(net, params)
    record = optim.SGD(0.1, momentum=0.9, groups={"bias": {"lr": 0.3}})
    torch_optimizer = torch.optim.SGD(
        [{"params": [module.weight]}, {"params": [module.bias], "lr": 0.3}], lr=0.1, momentum=0.9
    )
    schedule = optim.OneCycleLR(record, max_lr=[0.5, 0.7], total_steps=20)
    scheduler = lr_scheduler.OneCycleLR(torch_optimizer, max_lr=[0.5, 0.7], total_steps=20)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    state = record.init(params)
    for step in range(20):
        _, grads = fn.value_and_grad(lambda params: (net(params, x) - y).square().mean())(params)
        params, state = record.step(params, grads, state, **schedule.hyperparameters(step))
        torch_optimizer.zero_grad()
        (module(x) - y).square().mean().backward()
        torch_optimizer.step()
        scheduler.step()
    assert torch.equal(params["weight"], module.weight) and torch.equal(params["bias"], module.bias)
