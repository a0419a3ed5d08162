"""Nets in ``remat``: the bits of the net itself, in every form, and less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import funcnet as fn
from tests.cases import CASES, MODEL_CASES
from tests.core.test_checkpointed_calls import collect_cycles, count_cycles_of_module
from tests.helpers import assert_identical, clone, global_generator_untouched, parametrize, params_of, total

KEY = fn.random.key(7)
X = torch.linspace(-1, 1, 24).view(3, 8)
QUICK = {case.name for case in (*MODEL_CASES, *CASES[::12])} | {case.name for case in CASES if case.dropout}


@fn.compose(fc=fn.Linear(8, 8), norm=fn.BatchNorm1d(8), drop=fn.Dropout(0.3))
def block(p, x):
    return x + F.dropout(p.drop(p.norm(F.gelu(p.fc(x)))), 0.2, p.training)


class ForeignBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)

    def forward(self, x):
        return x + F.dropout(self.drop(self.norm(F.gelu(self.fc(x)))), 0.2, self.training)


FOREIGN_BLOCK = fn.from_module(ForeignBlock())[0]
PLAIN = fn.Sequential(block, block, fn.Linear(8, 8))
DEEP = fn.Sequential(fn.remat(block), fn.remat(block), fn.remat(fn.Linear(8, 8)))


def loss_of(net, rng=KEY, train=True):
    def loss(params, buffers, *xs, **call):
        output, buffers = net.apply(params, buffers, *xs, train=train, rng=rng, **call)
        return total(output), (output, buffers)

    return loss


@parametrize(lambda case, rng: case.name not in QUICK, case=CASES, rng=[7, KEY])
def test_every_layer_has_its_own_bits(case, rng):
    module, net = case.module(), case.net()
    params, buffers = clone(params_of(module)), clone(fn.tree.unflatten(dict(module.named_buffers())))
    xs = case.inputs(torch.float32)
    results = [
        fn.value_and_grad(loss_of(form, rng), has_aux=True)(params, buffers, *xs, **case.call)
        if params
        else loss_of(form, rng)(params, buffers, *xs, **case.call)
        for form in (net, fn.remat(net))
    ]
    assert_identical(results[1], results[0])


@parametrize(plain_block=[block, FOREIGN_BLOCK], rng=[3, KEY], train=[True, False, "0"])
def test_draws_and_buffers_of_a_row_of_blocks_are_those_without(plain_block, rng, train):
    plain = fn.Sequential(plain_block, plain_block, fn.Linear(8, 8))
    deep = fn.Sequential(fn.remat(plain_block), fn.remat(plain_block), fn.Linear(8, 8))
    params, buffers = PLAIN.init(0)
    for _ in range(3):  # the first call of a mode is watched, the others are not
        expected = fn.value_and_grad(loss_of(plain, rng, train), has_aux=True)(params, buffers, X)
        with global_generator_untouched():
            result = fn.value_and_grad(loss_of(deep, rng, train), has_aux=True)(params, buffers, X)
        assert_identical(result, expected)


def test_a_net_in_remat_has_the_names_tensors_and_module_of_the_net():
    assert list(DEEP.entries()) == list(PLAIN.entries()) and repr(DEEP) == repr(PLAIN)
    assert_identical(DEEP.init(3), PLAIN.init(3))
    assert_identical(DEEP.init(KEY), PLAIN.init(KEY))
    params, buffers = PLAIN.init(0)
    net, *trees = fn.from_module(fn.to_module(DEEP, params, buffers))
    assert net == PLAIN
    assert_identical(tuple(trees), (params, buffers))


def test_ties_and_frozen_params_come_along():
    tied = fn.Sequential(fn.Linear(8, 8), fn.Tanh(), fn.Linear(8, 8)).tie({"2.weight": "0.weight"}).freeze("0.bias")
    net = fn.remat(tied)
    assert net.aliases == tied.aliases and net.frozen == tied.frozen
    params, buffers = net.init(0)
    assert_identical(*[fn.value_and_grad(loss_of(form), has_aux=True)(params, buffers, X) for form in (tied, net)])
    outside = fn.Sequential(fn.Linear(8, 8), fn.remat(fn.Linear(8, 8))).tie({"1.weight": "0.weight"})
    plain = fn.Sequential(fn.Linear(8, 8), fn.Linear(8, 8)).tie({"1.weight": "0.weight"})
    params, buffers = outside.init(0)
    assert_identical(*[fn.value_and_grad(loss_of(form), has_aux=True)(params, buffers, X) for form in (plain, outside)])


def test_replaced_parts_run():
    net, plain = (form.replaced({"1.fc": fn.Linear(8, 8, bias=False)}) for form in (DEEP, PLAIN))
    params, buffers = plain.init(0)
    assert "bias" not in params["1"]["fc"]
    assert_identical(*[fn.value_and_grad(loss_of(form), has_aux=True)(params, buffers, X) for form in (plain, net)])


def test_a_part_that_runs_twice_draws_anew_each_time():
    def apply_twice(p, x):
        return p.part(p.part(x))

    drop = fn.Sequential(fn.Dropout(0.5), fn.Linear(8, 8))
    for rng in (3, KEY):
        nets = [fn.compose(part=form)(apply_twice) for form in (drop, fn.remat(drop))]
        params, buffers = nets[0].init(0)
        assert_identical(*[fn.value_and_grad(loss_of(net, rng), has_aux=True)(params, buffers, X) for net in nets])


def test_names_of_the_net_are_read_in_a_body():
    @fn.compose(part=fn.remat(block))
    def net(p, x):
        return F.linear(p.part.drop(x), p.part.fc.weight)

    params, buffers = net.init(0)
    output, _ = net.apply(params, buffers, X)
    assert_identical(output, F.linear(X, params["part"]["fc"]["weight"]))


def test_lazy_parts_become_concrete():
    net, params, _ = fn.Sequential(fn.remat(fn.LazyLinear(4))).init(0, example_inputs=X)
    assert params["0"]["weight"].shape == (4, 8)
    assert net(params, X).shape == (3, 4)


PARAMS, BUFFERS = PLAIN.init(0)
TANGENT = fn.tree.map(torch.cos, PARAMS)
STACKED = fn.tree.map(lambda tensor: torch.stack([tensor, 2 * tensor]), PARAMS)
FORMS = {
    "grad": lambda loss: torch.func.grad(loss)(PARAMS),
    "jvp": lambda loss: torch.func.jvp(loss, (PARAMS,), (TANGENT,))[1],
    "vmap": lambda loss: torch.vmap(loss)(STACKED),
    "vmap of grad": lambda loss: torch.vmap(torch.func.grad(loss))(STACKED),
    "vmap of value_and_grad": lambda loss: torch.vmap(fn.value_and_grad(loss))(STACKED),
    "jvp of grad": lambda loss: torch.func.jvp(torch.func.grad(loss), (PARAMS,), (TANGENT,))[1],
    "nested value_and_grad": lambda loss: fn.value_and_grad(
        lambda params: fn.tree.norm(fn.value_and_grad(loss)(params)[1])
    )(PARAMS),
    "compiled gradient": lambda loss: torch.compile(fn.value_and_grad(loss), backend="aot_eager", fullgraph=True)(
        PARAMS
    ),
    "gradient of compiled": lambda loss: fn.value_and_grad(torch.compile(loss, backend="aot_eager", fullgraph=True))(
        PARAMS
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_transforms_give_what_they_give_without(form):
    def loss_by(net):
        return lambda params: total(net.apply(params, {}, X, train=True, rng=KEY)[0])

    normless = fn.Sequential(fn.Linear(8, 8), fn.Tanh(), fn.Dropout(0.5))
    plain = fn.Sequential(normless, normless)
    tree = {"0": {"0": PARAMS["0"]["fc"]}, "1": {"0": PARAMS["1"]["fc"]}}

    def restrict(loss):
        return lambda params: loss({name: {"0": params[name]["fc"]} for name in tree})

    deep = fn.Sequential(fn.remat(normless), fn.remat(normless))
    assert_identical(*[form(restrict(loss_by(net))) for net in (plain, deep)])


PARTS = {
    "LayerNorm": (fn.LayerNorm(8), 2),
    "BatchNorm1d": (fn.BatchNorm1d(8), 2),
    "LSTM": (fn.LSTM(8, 4), 2),
    "Linear": (fn.Sequential(fn.Linear(8, 4), fn.Tanh(), fn.Dropout(0.5)), 2),
    "TransformerEncoderLayer": (fn.TransformerEncoderLayer(8, 2, 8, dropout=0.2), 3),
}
SECOND_ORDER_FORMS = {
    "hvp": lambda loss, params: fn.hvp(loss)(params, params),
    "hessian": lambda loss, params: fn.hessian(loss)(params),
    "jacobian": lambda loss, params: fn.jacobian(loss)(params),
    "gradient of hvp": lambda loss, params: fn.grad(lambda p: fn.tree.norm(fn.hvp(loss)(p, params)))(params),
}
# Where nothing is recomputed, hvp makes no gradient by weights, and adds in another order.
ROUNDED = (SECOND_ORDER_FORMS["hvp"], SECOND_ORDER_FORMS["gradient of hvp"])


@pytest.mark.parametrize("form", SECOND_ORDER_FORMS.values(), ids=SECOND_ORDER_FORMS)
@pytest.mark.parametrize(("net", "ndim"), PARTS.values(), ids=PARTS)
def test_second_derivatives_run_the_same_kernels_again(net, ndim, form):
    params, buffers = net.init(0)
    x = X if ndim == 2 else X[:, None]

    def loss_by(net):
        def loss(params):
            output = net.apply(params, buffers, x, train=True, rng=KEY)[0]
            return (output[0] if isinstance(output, tuple) else output).square().sum()

        return loss

    plain, recomputed = form(loss_by(net), params), form(loss_by(fn.remat(net)), params)
    if form in ROUNDED:
        torch.testing.assert_close(plain, recomputed)
    else:
        assert_identical(plain, recomputed)


def test_an_int_seed_draws_again_in_rows_of_a_hessian():
    net = fn.Sequential(fn.Linear(8, 2), fn.Dropout(0.5))
    params, _ = net.init(0)

    def loss_by(net):
        return lambda params: net.apply(params, {}, X, train=True, rng=0)[0].square().sum()

    assert_identical(fn.hessian(loss_by(net))(params), fn.hessian(loss_by(fn.remat(net)))(params))


def test_an_error_has_the_path_of_the_part():
    with pytest.raises(fn.ShapeError, match=r"Linear at '1.fc': expected input \(\*, 8\), got input \(3, 7\)"):
        fn.Sequential(fn.Linear(8, 7), fn.remat(block)).apply(
            {"0": fn.Linear(8, 7).init(0)[0], "1": PARAMS["0"]}, {"1": BUFFERS["0"]}, X
        )
    with pytest.raises(TypeError, match=r"from_module"):
        fn.remat(nn.Linear(2, 2))


def test_a_block_keeps_nothing_but_its_input():
    hidden: list[StorageWeakRef] = []

    def note_storage(x):
        hidden.append(StorageWeakRef(x.untyped_storage()))
        return x

    wide = fn.Sequential(fn.Linear(8, 64), note_storage, fn.GELU(), fn.Linear(64, 8))
    counts = {}
    for name, part in {"plain": wide, "remat": fn.remat(wide)}.items():
        net = fn.Sequential(*[part] * 4)
        params = fn.tree.map(lambda tensor: tensor.requires_grad_(), net.init(0)[0])
        hidden.clear()
        output = net(params, X)
        counts[name] = len(hidden), sum(not storage.expired() for storage in hidden)
        del output
    assert counts == {"plain": (4, 4), "remat": (4, 0)}


def test_three_steps_leave_no_more_cycles_than_those_of_torch_and_no_tensors():
    net = fn.remat(fn.Sequential(fn.Linear(8, 8), fn.Tanh()))
    params, _ = net.init(0)
    assert len(collect_cycles(lambda: fn.value_and_grad(loss_of(net), has_aux=True)(params, {}, X))) <= (
        count_cycles_of_module()
    )
    objects = collect_cycles(lambda: fn.value_and_grad(loss_of(DEEP), has_aux=True)(PARAMS, BUFFERS, X))
    assert not [obj for obj in objects if isinstance(obj, torch.Tensor)]
