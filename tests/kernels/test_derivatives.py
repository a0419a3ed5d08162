"""Every way to a second derivative, through layers, bodies and foreign forwards, for kernels that lack a rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn
from tests.helpers import parametrize

IMAGES = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
ROWS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SIGNS, CLASSES = TARGETS.sign(), torch.tensor([1, 3, 0])
SEVERAL = torch.tensor([[1, 0, -1, 0], [3, -1, 0, 0], [0, 1, 2, -1]])
INDICES, OFFSETS = torch.tensor([0, 2, 1, 2]), torch.tensor([0, 2])


def _log_probs(x: Tensor) -> Tensor:
    return x.reshape(3, 1, 4).log_softmax(-1)


def _heads(x: Tensor) -> Tensor:
    return x.reshape(1, 1, 3, 4)


FUNCTIONS = {
    "attention": lambda x: F.scaled_dot_product_attention(_heads(x), _heads(x).sin(), _heads(x).cos()),
    "causal attention": lambda x: F.scaled_dot_product_attention(_heads(x), _heads(x), _heads(x), is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(
        _heads(x), _heads(x), _heads(x), torch.ones(3, 3, dtype=torch.bool).tril(), scale=0.7
    ),
    "mse": lambda x: F.mse_loss(x.sin(), TARGETS),
    "huber": lambda x: F.huber_loss(x.sin(), TARGETS, reduction="none", delta=0.5),
    "soft margin": lambda x: F.soft_margin_loss(x.sin(), SIGNS),
    "multi margin": lambda x: F.multi_margin_loss(x.sin(), CLASSES, p=2),
    "several margins": lambda x: F.multilabel_margin_loss(x.sin(), SEVERAL),
    "ctc": lambda x: F.ctc_loss(_log_probs(x), torch.tensor([[1, 2]]), torch.tensor([3]), torch.tensor([2])),
    "hardsigmoid": lambda x: F.hardsigmoid(x).square(),
    "glu": lambda x: F.glu(x),
    "cdist": lambda x: torch.cdist(x, TARGETS),
    "pdist": lambda x: F.pdist(x),
    "weight norm": lambda x: torch._weight_norm(x, TARGETS[:, :1], 0).sin(),
    "embedding bag": lambda x: F.embedding_bag(INDICES, x, OFFSETS, mode="sum").square(),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "instance norm": lambda x: F.instance_norm(x[None]),
}


class Calls(nn.Module):
    """A foreign module whose forward calls one of torch's functions."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x * self.scale)


def _foreign(name: str):
    net, params, _ = fn.from_module(Calls(name))
    return lambda x: net(params, x)


def _body(name: str):
    function = FUNCTIONS[name]

    @fn.compose(scale=fn.Param((), 1.0))
    def body(p, x):
        return function(x * p.scale)

    params, _ = body.init(0, dtype=torch.float64)
    return lambda x: body(params, x)


TANGENT = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def _products(loss) -> dict[str, Any]:
    """The Hessian-vector product of a loss of the rows, by every way to it."""
    grad, value_and_grad = torch.func.grad, fn.value_and_grad

    def along(gradient):
        return lambda x: (gradient(x) * TANGENT).sum()

    def by_hand(x):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        return torch.autograd.grad((first * TANGENT).sum(), leaf)[0]

    def by_dual(x):
        from torch.autograd import forward_ad

        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(), TANGENT)
            (first,) = torch.autograd.grad(loss(dual), dual, create_graph=True)
            return forward_ad.unpack_dual(first).tangent

    def slope(x):
        return torch.func.jvp(loss, (x,), (TANGENT,))[1]

    def our_gradient(x):
        return value_and_grad(loss)(x)[1]

    return {
        "grad(grad)": grad(along(grad(loss))),
        "value_and_grad(grad)": lambda x: value_and_grad(along(grad(loss)))(x)[1],
        "grad(value_and_grad)": grad(along(our_gradient)),
        "value_and_grad(value_and_grad)": lambda x: value_and_grad(along(our_gradient))(x)[1],
        "jvp(grad)": lambda x: torch.func.jvp(grad(loss), (x,), (TANGENT,))[1],
        "jvp(value_and_grad)": lambda x: torch.func.jvp(our_gradient, (x,), (TANGENT,))[1],
        "grad(jvp)": grad(slope),
        "value_and_grad(jvp)": lambda x: value_and_grad(slope)(x)[1],
        "vjp(grad)": lambda x: torch.func.vjp(grad(loss), x)[1](TANGENT)[0],
        "hessian": lambda x: torch.einsum("abcd,cd->ab", torch.func.hessian(loss)(x), TANGENT),
        "vmap(jvp(grad))": lambda x: torch.vmap(lambda t: torch.func.jvp(grad(loss), (x,), (t,))[1])(TANGENT[None])[0],
        "vmap(grad(grad))": lambda x: torch.vmap(grad(along(grad(loss))))(torch.stack([x, x]))[0],
        "create_graph": by_hand,
        "dual": by_dual,
    }


WAYS = list(_products(None))


def _finite_difference(loss, x: Tensor, step: float = 1e-5) -> Tensor:
    ahead, behind = (torch.func.grad(loss)(x + sign * step * TANGENT) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


@parametrize(make=[_foreign, _body])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_of_what_calls_torch(make, name, way):
    # Regression: torch's raw errors, or with weight norm and jvp through norms, numbers that are wrong
    run = make(name)

    def loss(x):
        return run(x).sin().sum()

    product = _products(loss)[way]
    if name == "embedding bag" and way == "create_graph":
        with pytest.raises(fn.TransformError, match=r"embedding_bag has no second derivative .* torch\.func\.grad"):
            product(ROWS)
        return
    torch.testing.assert_close(product(ROWS), _finite_difference(loss, ROWS), rtol=1e-5, atol=1e-6)


LAYERS = {
    "MultiheadAttention": (fn.MultiheadAttention(4, 2), lambda net, p, x: net(p, x, x, x, need_weights=False)[0]),
    "TransformerEncoderLayer": (fn.TransformerEncoderLayer(4, 2, 4, 0.0, "gelu"), lambda net, p, x: net(p, x)),
    "MSELoss": (fn.MSELoss(), lambda net, p, x: net(p, x, TARGETS)),
    "HuberLoss": (fn.HuberLoss(delta=0.5), lambda net, p, x: net(p, x, TARGETS)),
    "SoftMarginLoss": (fn.SoftMarginLoss(), lambda net, p, x: net(p, x, SIGNS)),
    "MultiMarginLoss": (fn.MultiMarginLoss(p=2), lambda net, p, x: net(p, x.sin(), CLASSES)),
    "MultiLabelMarginLoss": (fn.MultiLabelMarginLoss(), lambda net, p, x: net(p, x.sin(), SEVERAL)),
    "Hardsigmoid": (fn.Hardsigmoid(), lambda net, p, x: net(p, x).square()),
    "GLU": (fn.GLU(), lambda net, p, x: net(p, x)),
    "LayerNorm": (fn.LayerNorm(4), lambda net, p, x: net(p, x)),
    "LSTM": (fn.LSTM(4, 3), lambda net, p, x: net(p, x)[0]),
    "GRU": (fn.GRU(4, 3), lambda net, p, x: net(p, x)[0]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_of_layers(name, way):
    net, run = LAYERS[name]
    params, _ = net.init(0, dtype=torch.float64)

    def loss(x):
        return run(net, params, x).sin().sum()

    torch.testing.assert_close(_products(loss)[way](ROWS), _finite_difference(loss, ROWS), rtol=1e-5, atol=1e-6)


def test_an_inner_step_through_attention_is_differentiated():
    # Regression: the form of lesson 15, where only value_and_grad is around the inner torch.func.grad
    net = fn.models.GPT2(11, 8, 4, 1, 2)
    params, buffers = net.init(0, dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3, 4]])

    def loss(params):
        return net.apply(params, buffers, tokens)[0].square().mean()

    def loss_after(params):
        return loss(fn.tree.sub(params, torch.func.grad(loss)(params)))

    _, grads = fn.value_and_grad(loss_after)(params)
    _, expected = torch.func.grad_and_value(loss_after)(params)[::-1]
    torch.testing.assert_close(grads, expected)


def _attention_node(y: Tensor) -> str:
    names, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        names.add(type(node).__name__)
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return next((name for name in names if "Attention" in name), "none")


@pytest.mark.parametrize("run", [_foreign("attention"), _body("attention")], ids=["foreign", "body"])
def test_one_gradient_runs_the_kernel_itself(run):
    assert "FlashAttentionForCpu" in _attention_node(run(ROWS.clone().requires_grad_()))
    inside = []

    def loss(x):
        y = run(x)
        inside.append(_attention_node(y))
        return y.sum()

    torch.func.grad(loss)(ROWS)
    fn.value_and_grad(loss)(ROWS)
    assert all("FlashAttentionForCpu" in name for name in inside)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def _gpt2():
    transformers = pytest.importorskip("transformers")
    options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2, **options)
    model = transformers.GPT2Model(config).eval()
    return model, lambda net, params, buffers, x: net.apply(params, buffers, inputs_embeds=x[None])[0][0]


def _weight_normed():
    module = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    return Recurrent(nn.Sequential(module)), lambda net, params, buffers, x: net(params, x)


MODELS = {
    "GPT-2 of transformers": _gpt2,
    "TransformerEncoderLayer": lambda: (
        Recurrent(nn.TransformerEncoderLayer(4, 2, 4, 0.0, batch_first=True)).eval(),
        lambda net, params, buffers, x: net(params, x[None]),
    ),
    "LSTM": lambda: (Recurrent(nn.LSTM(4, 3)), lambda net, params, buffers, x: net(params, x)),
    "GRU": lambda: (Recurrent(nn.GRU(4, 3)), lambda net, params, buffers, x: net(params, x)),
    "weight norm": _weight_normed,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_of_foreign_models(name, way):
    torch.manual_seed(0)
    module, run = MODELS[name]()
    net, params, buffers = fn.from_module(module.double())

    def loss(x):
        return run(net, params, buffers, x).sin().sum()

    torch.testing.assert_close(_products(loss)[way](ROWS), _finite_difference(loss, ROWS), rtol=1e-4, atol=1e-6)
