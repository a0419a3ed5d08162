"""Parametrized nets as values and functions: registering, first values, and removing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import funcnet as fn
from funcnet.parametrize import remove_parametrizations
from tests.helpers import assert_identical, buffers_of, global_generator_untouched, params_of, str_with_notes

X = torch.linspace(-1, 1, 20).view(4, 5)


def upper(weight):
    return weight.triu()


class Exp:
    """A callable object with an inverse."""

    def __call__(self, log):
        return log.exp()

    def right_inverse(self, value):
        return value.abs().log()


EXP = Exp()


class RankOne(fn.Net):
    """A matrix computed from two vectors, which are found by a kernel without a meta form."""

    @staticmethod
    def forward(_, left, right):
        return left[:, None] * right

    @staticmethod
    def right_inverse(_, value):
        if not torch.equal(value, value):
            raise ValueError("never")
        left, scale, right = torch.linalg.svd(value, full_matrices=False)
        return left[:, 0] * scale[0], right[0]


class Shifted(fn.Net):
    """A parametrization with a param, a buffer, and an inverse that draws and records."""

    def parts(self):
        return {"gain": fn.Param((), 2.0), "shift": fn.Buffer((3, 5))}

    @staticmethod
    def forward(p, weight):
        return weight * p.gain + p.shift

    @staticmethod
    def right_inverse(p, value):
        p.shift = fn.random.normal(p.rng, value.shape)
        return (value - p.shift) / p.gain


# --- registering ---


def test_a_function_computes_the_tensor_that_the_body_reads():
    net = fn.parametrize.register_parametrization(fn.Linear(5, 5), "weight", upper)
    params, buffers = net.init(0)
    assert list(fn.tree.flatten(params)) == ["bias", "parametrizations.weight.original"]
    weight = params["parametrizations"]["weight"]["original"]
    assert_identical(net(params, X), F.linear(X, weight.triu(), params["bias"]))
    assert_identical(weight, fn.Linear(5, 5).init(0)[0]["weight"])
    assert buffers == {}


def test_the_inverse_of_a_function_makes_the_first_values():
    net = fn.parametrize.register_parametrization(fn.LayerNorm(5), "weight", EXP)
    params, _ = net.init(0)
    assert_identical(params["parametrizations"]["weight"]["original"], torch.zeros(5))
    assert_identical(net(params, X), F.layer_norm(X, (5,), torch.ones(5), torch.zeros(5)))


def test_an_inverse_may_give_several_tensors():
    net = fn.parametrize.register_parametrization(fn.Linear(5, 3), "weight", RankOne())
    params, _ = net.init(0)
    originals = params["parametrizations"]["weight"]
    assert {name: tuple(tensor.shape) for name, tensor in originals.items()} == {"original0": (3,), "original1": (5,)}
    expected = F.linear(X, torch.outer(*originals.values()), params["bias"])
    assert_identical(net(params, X), expected)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_the_meta_device_gives_shapes(name):
    net = getattr(fn.parametrize, name)(fn.parametrize.register_parametrization(fn.Linear(5, 3), "bias", EXP))
    for meta, real in zip(net.init(0, device="meta"), net.init(0), strict=True):
        meta, real = fn.tree.flatten(meta), fn.tree.flatten(real)
        assert [(key, t.shape, t.dtype) for key, t in meta.items()] == [(k, t.shape, t.dtype) for k, t in real.items()]
        assert all(tensor.is_meta for tensor in meta.values())


def test_a_parametrization_may_hold_tensors_and_its_inverse_may_draw_and_record():
    net = fn.parametrize.register_parametrization(fn.Linear(5, 3), "weight", Shifted())
    with global_generator_untouched():
        params, buffers = net.init(0)
        ensemble, _ = torch.vmap(net.init)(fn.random.split(fn.random.key(0), 2))
    entries = params["parametrizations"]["weight"]
    shift = buffers["parametrizations"]["weight"]["0"]["shift"]
    assert_identical(entries["0"]["gain"], torch.tensor(2.0))
    assert shift.abs().min() > 0
    torch.testing.assert_close(entries["original"] * 2 + shift, fn.Linear(5, 3).init(0)[0]["weight"])
    assert ensemble["parametrizations"]["weight"]["original"].shape == (2, 3, 5)
    module = fn.to_module(net, params, buffers)
    module.weight = torch.ones(3, 5)
    torch.testing.assert_close(module.weight, torch.ones(3, 5))


def test_each_call_of_the_body_reads_anew_and_gradients_reach_the_originals():
    @fn.compose(table=fn.Param((5, 5), fn.init.normal()), fc=fn.Linear(5, 5))
    def body(p, x):
        return p.fc(x) @ p.table + p.table[0]

    net = fn.parametrize.register_parametrization(body, "table", upper)
    params, _ = net.init(0)
    assert list(params) == ["fc", "parametrizations"]
    _, grads = fn.value_and_grad(lambda params: net(params, X).sum())(params)
    grad = grads["parametrizations"]["table"]["original"]
    assert_identical(grad.tril(-1), torch.zeros(5, 5))
    assert bool((grad.triu() != 0).any())
    assert fn.from_module(fn.to_module(net, params))[0] == net
    assert repr(net).startswith("Parametrizedbody(")


def test_parts_of_containers_are_parametrized_in_place():
    norm = fn.parametrize.spectral_norm(fn.Linear(5, 5))
    net = fn.Sequential(fn.Linear(5, 5), fn.ModuleList([norm])[0], fn.ReLU())
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 5), parametrizations.spectral_norm(nn.Linear(5, 5)), nn.ReLU())
    assert_identical(net.init(0), (params_of(module), buffers_of(module)))
    replaced = fn.Sequential(fn.Linear(5, 5), fn.Linear(5, 5), fn.ReLU()).replaced({"1": norm})
    assert replaced == net


def test_draws_depend_on_the_key_and_the_path_only():
    key = fn.random.key(0)
    plain, _ = fn.Linear(5, 3).init(key)
    normed, _ = fn.parametrize.weight_norm(fn.Linear(5, 3)).init(key)
    assert_identical(normed["parametrizations"]["weight"]["original1"], plain["weight"])
    assert_identical(normed["bias"], plain["bias"])


def test_parametrized_nets_are_values():
    net = fn.parametrize.register_parametrization(fn.parametrize.spectral_norm(fn.Linear(5, 5)), "weight", upper)
    equal = fn.parametrize.register_parametrization(fn.parametrize.spectral_norm(fn.Linear(5, 5)), "weight", upper)
    assert net == equal and hash(net) == hash(equal)
    assert net != fn.parametrize.spectral_norm(fn.Linear(5, 5))
    assert pickle.loads(pickle.dumps(net)) == copy.deepcopy(net) == net


def test_is_parametrized_knows_each_tensor():
    net = fn.parametrize.weight_norm(fn.Linear(5, 3))
    assert fn.parametrize.is_parametrized(net) and fn.parametrize.is_parametrized(net, "weight")
    assert not fn.parametrize.is_parametrized(net, "bias") and not fn.parametrize.is_parametrized(fn.Linear(5, 3))


def test_a_net_in_two_places_is_drawn_once():
    norm = fn.parametrize.orthogonal(fn.Linear(5, 5))
    paths = [entry.path for entry in norm.entries()]
    net = fn.Sequential(norm, norm).tie({f"1.{path}": f"0.{path}" for path in paths})
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(5, 5))
    assert_identical(net.init(0), tuple({"0": tree(layer)} for tree in (params_of, buffers_of)))


# --- derivatives of the originals ---


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)], ids=str)
@pytest.mark.parametrize("train", [False, True])
def test_originals_have_gradients_tangents_and_second_derivatives(name, shape, train):
    net = getattr(fn.parametrize, name)(fn.Linear(*shape))
    params, buffers = net.init(0, dtype=torch.float64)
    tangents, _ = net.init(1, dtype=torch.float64)
    x = torch.linspace(-1, 1, 2 * shape[0], dtype=torch.float64).view(2, -1)

    def loss(params, x=x):
        return net.apply(params, buffers, x, train=train)[0].square().sum()

    grads = torch.func.grad(loss)(params)
    _, along = torch.func.jvp(loss, (params,), (tangents,))
    dot = sum(
        (a * b).sum() for a, b in zip(*(fn.tree.flatten(tree).values() for tree in (grads, tangents)), strict=True)
    )
    torch.testing.assert_close(along, dot)
    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x[:, None])
    torch.testing.assert_close(fn.tree.map(lambda leaf: leaf.sum(0), per_sample), grads)
    forward = torch.func.jvp(torch.func.grad(loss), (params,), (tangents,))[1]
    backward = torch.func.grad(
        lambda params: torch.func.jvp(loss, (params,), (tangents,))[1],
    )(params)
    torch.testing.assert_close(forward, backward)


# --- removing ---


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_removing_leaves_the_computed_tensor(name):
    net = fn.parametrize.weight_norm(getattr(fn.parametrize, name)(fn.Linear(5, 3)), "bias")
    params, buffers = net.init(0)
    plain, plain_params, plain_buffers = remove_parametrizations(net, params, buffers, "weight")
    assert plain == fn.parametrize.weight_norm(fn.Linear(5, 3), "bias")
    assert_identical(plain.apply(plain_params, plain_buffers, X)[0], net.apply(params, buffers, X)[0])
    plain, plain_params, plain_buffers = remove_parametrizations(plain, plain_params, plain_buffers, "bias")
    assert (plain, list(plain_params), plain_buffers) == (fn.Linear(5, 3), ["weight", "bias"], {})
    module = fn.to_module(net, params, buffers).eval()
    for tensor in ("weight", "bias"):
        parametrize.remove_parametrizations(module, tensor)
    assert_identical(plain_params, {key: params_of(module)[key] for key in plain_params})


def test_removing_may_leave_the_original():
    net = fn.parametrize.spectral_norm(fn.Linear(5, 3))
    params, buffers = net.init(0)
    _, plain_params, plain_buffers = remove_parametrizations(net, params, buffers, "weight", leave_parametrized=False)
    assert_identical(plain_params["weight"], params["parametrizations"]["weight"]["original"])
    assert plain_buffers == {}


# --- refusals ---


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda P: P.weight_norm(fn.ReLU()), ValueError, "ReLU declares no tensor 'weight' itself; it declares"),
        (lambda P: P.weight_norm(fn.Sequential(fn.Linear(2, 2))), ValueError, "For one of 0, parametrize that part"),
        (lambda P: P.weight_norm(fn.Linear(2, 2, bias=False), "bias"), ValueError, "declares no tensor 'bias'"),
        (lambda P: P.spectral_norm(fn.Linear(2, 2), dim=2), IndexError, "Dimension out of range"),
        (lambda P: P.spectral_norm(fn.Linear(2, 2), n_power_iterations=0), ValueError, "to be positive"),
        (lambda P: P.orthogonal(fn.LayerNorm(3)), ValueError, "takes a matrix or a batch of matrices"),
        (lambda P: P.orthogonal(fn.Linear(2, 2), orthogonal_map="qr"), ValueError, "one of 'matrix_exp', 'cayley'"),
        (
            lambda P: P.orthogonal(fn.Linear(2, 3, dtype=torch.complex64), orthogonal_map="householder"),
            ValueError,
            "takes no complex tensors",
        ),
        (lambda P: P.orthogonal(P.spectral_norm(fn.Linear(2, 2))), ValueError, "is parametrized already"),
        (
            lambda P: P.register_parametrization(fn.Linear(2, 3), "weight", torch.t),
            ValueError,
            "changes the shape of the tensor from torch.Size([3, 2]) to torch.Size([2, 3])",
        ),
        (
            lambda P: P.register_parametrization(fn.Linear(2, 3), "weight", torch.Tensor.half),
            ValueError,
            "changes the dtype of the tensor from torch.float32 to torch.float16",
        ),
        (lambda P: P.register_parametrization(fn.Linear(2, 3), "weight", nn.ReLU()), TypeError, "is an nn.Module"),
        (lambda P: P.register_parametrization(fn.Linear(2, 3), "weight", 3), TypeError, "is no net and no function"),
        (
            lambda P: P.weight_norm(fn.from_module(Plain())[0]),
            TypeError,
            "Plain finds its tensors by itself. Parametrize the module",
        ),
        (
            lambda P: P.register_parametrization(fn.Linear(2, 3), "weight", fn.from_module(WithInverse())[0]),
            TypeError,
            "does not know its right_inverse",
        ),
        (
            lambda P: P.remove_parametrizations(fn.Linear(2, 2), *fn.Linear(2, 2).init(0), "weight"),
            ValueError,
            "Linear has no parametrization of 'weight'",
        ),
        (
            lambda P: P.remove_parametrizations(
                P.weight_norm(fn.Linear(2, 2)), *P.weight_norm(fn.Linear(2, 2)).init(0), "weight", False
            ),
            ValueError,
            "is computed from 2 tensors",
        ),
    ],
)
def test_what_cannot_be_parametrized_is_refused_at_once(build, error, message):
    with pytest.raises(error) as caught:
        build(fn.parametrize)
    assert message in str(caught.value)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return x @ self.weight


class WithInverse(nn.Module):
    def forward(self, x):
        return x * 2

    def right_inverse(self, value):
        return value / 2


def test_unsafe_lets_the_shape_change():
    net = fn.parametrize.register_parametrization(fn.Linear(5, 3, bias=False), "weight", torch.t, unsafe=True)
    params, _ = net.init(0)
    assert net(params, torch.ones(2, 3)).shape == (2, 5)


def test_a_computed_buffer_is_read_and_not_assigned():
    @fn.compose(table=fn.Buffer((5,), 2.0))
    def net(p, x, assign=False):
        if assign:
            p.table = x
        return x * p.table

    net = fn.parametrize.register_parametrization(net, "table", torch.square)
    params, buffers = net.init(0)
    assert_identical(buffers, {"parametrizations": {"table": {"original": torch.full((5,), 2.0)}}})
    assert_identical(net.apply(params, buffers, X[0])[0], X[0] * 4)
    with pytest.raises(fn.TreeError, match="'table' is computed by its parametrizations"):
        net.apply(params, buffers, X[0], True)


def test_an_error_in_a_parametrization_names_its_path():
    @fn.compose(gain=fn.Param((4,), 1.0))
    def broken(p, weight):
        return weight @ p.gain

    net = fn.Sequential(fn.parametrize.register_parametrization(fn.Linear(5, 3), "weight", broken, unsafe=True))
    with pytest.raises(RuntimeError) as caught:
        net(net.init(0)[0], X)
    assert "'0.parametrizations.weight.0': got weight (3, 5)" in str_with_notes(caught.value)


def test_ties_stay_and_a_tied_tensor_is_not_parametrized():
    @fn.compose(a=fn.Param((5, 5), 1.0), b=fn.Param((5, 5), 2.0), c=fn.Param((5, 5), 1.0))
    def body(p, x):
        return x @ p.a @ p.b @ p.c

    tied = body.tie({"c": "a"})
    net = fn.parametrize.register_parametrization(tied, "b", upper)
    params, buffers = net.init(0)
    assert net.aliases == {"c": "a"} and list(params) == ["a", "parametrizations"]
    assert_identical(net(params, X), X @ params["a"] @ torch.full((5, 5), 2.0).triu() @ params["a"])
    plain, plain_params, _ = remove_parametrizations(net, params, buffers, "b")
    assert plain == tied and list(plain_params) == ["a", "b"]
    with pytest.raises(ValueError, match="'c' is tied: parametrize first"):
        fn.parametrize.register_parametrization(tied, "c", upper)
