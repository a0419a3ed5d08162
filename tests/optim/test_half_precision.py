"""Training in half precision: loss scaling, autocast and master params."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet import optim
from funcnet.tree import ABSENT
from tests.helpers import assert_identical, clone, parametrize

NET = fn.Sequential(fn.Linear(5, 16), fn.LayerNorm(16), fn.ReLU(), fn.Linear(16, 3))


def draw_batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)


def grads_of(module: torch.nn.Module) -> dict:
    return {path: param.grad for path, param in module.named_parameters()}


# --- loss scaling ---

SCALERS = {
    "torch's default": {},
    "quick": {"init_scale": 2.0**126, "growth_interval": 3},
    "odd factors": {"init_scale": 1e3, "growth_factor": 1.3, "backoff_factor": 0.7, "growth_interval": 2},
}
OVERFLOWS = {4, 5, 13}


@parametrize(name=list(SCALERS), donate=[False, True])
def test_a_loop_with_scaling_has_the_bits_of_torchs(name, donate):
    params, _ = NET.init(0)
    module = fn.to_module(NET, params)
    torch_optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    torch_scaler = torch.amp.GradScaler("cpu", **SCALERS[name])
    optimizer, scaler = optim.SGD(lr=0.1, momentum=0.9), optim.GradScaler(**SCALERS[name])
    state, scaling = optimizer.init(params), scaler.init()
    for step in range(20):
        x, y = draw_batch(step)
        x = x * float("inf") if step in OVERFLOWS else x
        torch_optimizer.zero_grad()
        torch_scaler.scale(F.cross_entropy(module(x), y)).backward()
        torch_scaler.unscale_(torch_optimizer)
        expected_grads = clone(grads_of(module))
        torch_scaler.step(torch_optimizer)
        torch_scaler.update()

        def loss(params, x=x, y=y, scaling=scaling):
            return scaler.scale(F.cross_entropy(NET(params, x), y), scaling)

        _, grads = fn.value_and_grad(loss)(params)
        given = clone((params, state, scaling, grads))
        grads, found_inf = scaler.unscale(grads, scaling, donate=donate)
        assert_identical(fn.tree.flatten(grads), expected_grads)
        new_params, new_state = scaler.step(optimizer, params, grads, state, found_inf, donate=donate)
        new_scaling = scaler.update(scaling, found_inf)
        assert found_inf.item() == (step in OVERFLOWS or torch_scaler.get_scale() < scaling["scale"])
        if not donate:
            assert_identical((params, state, scaling), given[:3])
        params, state, scaling = new_params, new_state, new_scaling
        assert_identical(fn.tree.flatten(params), dict(module.named_parameters()))
        assert scaling["scale"].item() == torch_scaler.get_scale()
        assert scaler.to_state_dict(scaling)["_growth_tracker"] == torch_scaler.state_dict()["_growth_tracker"]
    saved = torch_scaler.state_dict()
    values = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
    assert saved.keys() == values and scaler.to_state_dict(scaling) == saved
    rule, loaded = optim.GradScaler.from_state_dict(saved)
    assert_identical(loaded, scaling)
    assert (rule.growth_factor, rule.growth_interval) == (scaler.growth_factor, scaler.growth_interval)


def test_scaling_in_compiled_code_and_under_vmap():
    params, _ = NET.init(0)
    optimizer, scaler = optim.Adam(lr=0.1), optim.GradScaler(init_scale=16.0, growth_interval=2)

    def train(params, state, scaling, x, y):
        loss = lambda params: scaler.scale(F.cross_entropy(NET(params, x), y), scaling)  # noqa: E731
        grads = torch.func.grad(loss)(params)
        grads, found_inf = scaler.unscale(grads, scaling)
        params, state = scaler.step(optimizer, params, grads, state, found_inf)
        return params, state, scaler.update(scaling, found_inf)

    torch._dynamo.reset()
    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    eager = by_compiler = (params, optimizer.init(params), scaler.init())
    for step in range(5):
        x, y = draw_batch(step)
        x = x * float("inf") if step == 2 else x
        eager, by_compiler = train(*eager, x, y), compiled(*by_compiler, x, y)
        torch.testing.assert_close(by_compiler, eager)
    x, y = draw_batch()
    members = fn.tree.stack([params, params])
    states = torch.vmap(optimizer.init)(members)
    scalings = {name: torch.stack([value, value]) for name, value in scaler.init().items()}
    xs = torch.stack([x, x * float("inf")])
    new, _, scalings = torch.vmap(train, in_dims=(0, 0, 0, 0, None))(members, states, scalings, xs, y)
    stepped = train(params, optimizer.init(params), scaler.init(), x, y)[0]
    torch.testing.assert_close(fn.tree.unstack(new)[0], stepped)
    assert_identical(fn.tree.unstack(new)[1], params)
    assert scalings["scale"].tolist() == [16.0, 8.0]


def test_what_a_scaler_refuses():
    with pytest.raises(ValueError, match=r"growth_factor is above 1, got 1\.0; backoff_factor is below 1, got 2\.0"):
        optim.GradScaler(growth_factor=1.0, backoff_factor=2.0)
    scaler = optim.GradScaler()
    grads = {"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(2), "c": torch.ones(1).half()}
    with pytest.raises(ValueError, match=r"float16 lose .*\n  'a' is torch\.float16\n  'c' is torch\.float16\nCast"):
        scaler.unscale(grads, scaler.init())
    with pytest.raises(ValueError, match="missing: scale, growth_factor"):
        optim.GradScaler.from_state_dict({})


def test_what_is_no_gradient_passes_a_scaler():
    scaler = optim.GradScaler(init_scale=4.0)
    grads = {"w": torch.tensor([8.0]), "none": None, "gone": ABSENT, "n": torch.tensor(3)}
    unscaled, found_inf = scaler.unscale(grads, scaler.init())
    assert_identical(unscaled, {"w": torch.tensor([2.0]), "none": None, "gone": ABSENT, "n": torch.tensor(3)})
    assert found_inf == 0
    assert scaler.unscale({}, scaler.init())[1] == 0


# --- autocast ---


class Foreign(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv1d(2, 4, 3), torch.nn.Linear(4, 3)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean(-1))


@parametrize(
    build=[lambda: torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), Foreign],
    dtype=[torch.bfloat16, torch.float16],
    inside=[False, True],
)
def test_nets_under_autocast_have_the_bits_of_their_modules(build, dtype, inside):
    torch.manual_seed(0)
    module = build()
    net, params, buffers = fn.from_module(module)
    x = torch.randn(6, 2, 9) if isinstance(module, Foreign) else torch.randn(6, 9)
    y = torch.randint(3, (6,))

    def forward(params, buffers):
        with torch.autocast("cpu", dtype):
            output, buffers = net.apply(params, buffers, x, train=True)
            return F.cross_entropy(output, y), (output, buffers)

    def differentiate():
        for _ in range(2):  # a second time, because autocast remembers what it has cast
            (value, (output, new_buffers)), grads = fn.value_and_grad(forward, has_aux=True)(params, buffers)
        return value, output, new_buffers, grads

    if inside:
        with torch.autocast("cpu", dtype):
            value, output, new_buffers, grads = differentiate()
    else:
        value, output, new_buffers, grads = differentiate()
    with torch.autocast("cpu", dtype):
        expected = module.train()(x)
        expected_value = F.cross_entropy(expected, y)
    expected_value.backward()
    assert output.dtype == dtype
    assert_identical((value, output), (expected_value.detach(), expected.detach()))
    assert_identical(fn.tree.flatten(grads), grads_of(module))
    assert_identical(fn.tree.flatten(new_buffers), dict(module.named_buffers()))
    by_func, _ = torch.func.grad(forward, has_aux=True)(params, buffers)
    assert_identical(by_func, grads)


# --- master params ---


@parametrize(dtype=[torch.bfloat16, torch.float16], donate=[False, True])
def test_master_params_are_the_recipe_with_a_float32_copy(dtype, donate):
    params = fn.tree.to(NET.init(0)[0], dtype)
    params["1"] = fn.tree.to(params["1"], torch.float32)  # as usual, norms stay in float32
    copies = {path: torch.nn.Parameter(leaf.float().clone()) for path, leaf in fn.tree.flatten(params).items()}
    torch_optimizer = torch.optim.AdamW(copies.values(), lr=0.01, weight_decay=0.1)
    optimizer = optim.MasterParams(optim.AdamW(lr=0.01, weight_decay=0.1))
    state = optimizer.init(params)
    assert set(fn.tree.paths(state["master"])) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    generator = torch.Generator().manual_seed(0)
    for step in range(10):
        grads = fn.tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).to(leaf.dtype), params)
        for path, copy in copies.items():
            copy.grad = fn.tree.get(grads, path).float()
        torch_optimizer.step()
        given = clone((params, grads, state))
        if step % 2:
            grads = fn.tree.to(grads, torch.float32)  # gradients may come in float32 too
        new_params, new_state = optimizer.step(params, grads, state, donate=donate)
        if donate:
            assert new_params["0"]["weight"] is params["0"]["weight"]
        else:
            assert_identical((params, state), (given[0], given[2]))
        params, state = new_params, new_state
        flat = {**fn.tree.flatten(params), **fn.tree.flatten(state["master"])}
        assert_identical(flat, {path: copy.detach() for path, copy in copies.items()})
        assert_identical(params["0"]["weight"], copies["0.weight"].detach().to(dtype))


def test_master_params_with_schedules_groups_ties_and_gaps():
    shared = torch.ones(3, dtype=torch.bfloat16)
    params = {"a": shared, "b": shared, "gone": ABSENT, "n": torch.tensor(3), "head": torch.ones(2).bfloat16()}
    optimizer = optim.MasterParams(optim.SGD(lr=0.5, groups={"head": {"lr": 0.25}}))
    schedule = optim.ExponentialLR(optimizer, 0.5)
    state = optimizer.init(params)
    grads = {"a": torch.ones(3), "b": torch.ones(3), "gone": ABSENT, "n": None, "head": torch.ones(2)}
    stepped, state = optimizer.step(params, grads, state, **schedule.hyperparameters(1))
    assert list(stepped) == list(params)
    assert stepped["gone"] is ABSENT and stepped["n"] == 3
    assert stepped["a"].tolist() == [0.5] * 3 and stepped["b"].tolist() == [0.5] * 3  # both gradients, once
    assert stepped["head"].tolist() == [0.875] * 2
    skipped, _ = optimizer.step(stepped, {**grads, "head": None}, state)
    assert_identical(skipped["head"], stepped["head"])


def test_a_gradient_that_tied_params_share_counts_once_for_their_copies_too():
    weight, grad = torch.ones(2, dtype=torch.bfloat16), torch.full((2,), 0.5, dtype=torch.bfloat16)
    params, grads, optimizer = {"a": weight, "b": weight}, {"a": grad, "b": grad}, optim.SGD(lr=1.0)
    master = optim.MasterParams(optimizer)
    expected, _ = optimizer.step(params, grads, optimizer.init(params))
    assert_identical(master.step(params, grads, master.init(params))[0], expected)


def test_a_step_that_rounding_would_lose_is_kept():
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    plain, kept = optim.SGD(lr=1e-3), optim.MasterParams(optim.SGD(lr=1e-3))
    states = [plain.init(params), kept.init(params)]
    results = [params, params]
    for _ in range(10):
        for index, optimizer in enumerate((plain, kept)):
            grads = {"w": torch.ones(1, dtype=torch.bfloat16)}
            results[index], states[index] = optimizer.step(results[index], grads, states[index])
    assert results[0]["w"].item() == 1.0
    assert results[1]["w"].item() == torch.tensor(0.99).bfloat16().item()


def test_master_params_are_mapped_and_compiled():
    optimizer = optim.MasterParams(optim.Adam(lr=0.1))
    params = {"w": torch.randn(4, 3).bfloat16()}
    grads = {"w": torch.randn(4, 3).bfloat16()}
    state = optimizer.init(params)
    expected = optimizer.step(params, grads, state)
    torch._dynamo.reset()
    compiled = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, grads, state), expected)
    members = {"w": torch.stack([params["w"], params["w"]])}
    states = torch.vmap(optimizer.init)(members)
    mapped = torch.vmap(optimizer.step)(members, {"w": torch.stack([grads["w"], -grads["w"]])}, states)
    torch.testing.assert_close(fn.tree.unstack(mapped[0])[0], expected[0])
