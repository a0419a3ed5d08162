"""Ready rules for layers: norms of weights in both forms of torch, and recurrent layers of Keras and Flax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import RuleError, Spec, flax_rules, keras_rules, parametrization_rules
from tests.helpers import assert_identical


def specs_of(tensors):
    return {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_norms_of_weights_in_both_forms(kind):
    torch.manual_seed(0)
    old = nn.Sequential(getattr(nn.utils, kind)(nn.Linear(3, 4)), nn.Linear(4, 2)).eval()
    new = nn.Sequential(getattr(nn.utils.parametrizations, kind)(nn.Linear(3, 4)), nn.Linear(4, 2)).eval()
    weights = dict(old.state_dict())
    rules = parametrization_rules(specs_of(weights))
    converted = checkpoint.apply(rules, weights)
    new.load_state_dict(converted)
    x = torch.randn(5, 3)
    torch.testing.assert_close(new(x), old(x))
    assert_identical(
        dict(sorted(checkpoint.apply(rules, converted, inverse=True).items())), dict(sorted(weights.items()))
    )


def keras_lstm(w, x):
    """The outputs of an LSTM of Keras, whose gates are i, f, c, o; x is (N, L, I)."""
    h = c = torch.zeros(len(x), w["recurrent_kernel"].shape[0], dtype=x.dtype)
    outputs = []
    for step in x.unbind(1):
        i, f, g, o = (step @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1)


def keras_gru(w, x):
    """The outputs of a GRU of Keras with reset_after, whose gates are z, r, h."""
    h = torch.zeros(len(x), w["recurrent_kernel"].shape[0], dtype=x.dtype)
    outputs = []
    for step in x.unbind(1):
        xz, xr, xh = (step @ w["kernel"] + w["bias"][0]).chunk(3, -1)
        hz, hr, hh = (h @ w["recurrent_kernel"] + w["bias"][1]).chunk(3, -1)
        z, r = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
        h = z * h + (1 - z) * torch.tanh(xh + r * hh)
        outputs.append(h)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("gates", "run", "make"), [(4, keras_lstm, nn.LSTM), (3, keras_gru, nn.GRU)])
def test_recurrent_layers_of_keras(gates, run, make):
    torch.manual_seed(0)
    bias = (2, 3 * 5) if gates == 3 else (4 * 5,)
    shapes = {"kernel": (3, gates * 5), "recurrent_kernel": (5, gates * 5), "bias": bias}
    w = {leaf: torch.randn(shape, dtype=torch.float64) for leaf, shape in shapes.items()}
    named = {f"rnn/cell/{leaf}": tensor for leaf, tensor in w.items()}
    rules = keras_rules(specs_of(named))
    converted = checkpoint.apply(rules, named)
    layer = make(3, 5, batch_first=True).double()
    layer.load_state_dict(converted["rnn"])
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], run(w, x))
    assert_identical(checkpoint.apply(rules, converted, inverse=True), named)


def test_convolutions_and_norms_of_keras():
    torch.manual_seed(0)
    w = {"conv/kernel:0": torch.randn(3, 2, 4, 5), "depth/depthwise_kernel:0": torch.randn(3, 3, 4, 2)}
    w |= {f"bn/{leaf}:0": torch.rand(5) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
    rules = keras_rules(specs_of(w))
    tree = checkpoint.apply(rules, w)
    x = torch.randn(1, 4, 8, 8)
    windows = x.unfold(2, 3, 1).unfold(3, 2, 1)
    expected = torch.einsum("nchwij,ijco->nohw", windows, w["conv/kernel:0"])
    torch.testing.assert_close(F.conv2d(x, tree["conv"]["weight"]), expected, rtol=1e-4, atol=1e-4)
    windows = x.unfold(2, 3, 1).unfold(3, 3, 1)
    expected = torch.einsum("nchwij,ijcm->ncmhw", windows, w["depth/depthwise_kernel:0"]).flatten(1, 2)
    torch.testing.assert_close(F.conv2d(x, tree["depth"]["weight"], groups=4), expected, rtol=1e-4, atol=1e-4)
    nn.BatchNorm2d(5).load_state_dict(tree["bn"])
    assert_identical(dict(sorted(checkpoint.apply(rules, tree, inverse=True).items())), dict(sorted(w.items())))
    with pytest.raises(RuleError, match="there is no rule for 'lambda'"):
        keras_rules({"x/lambda": Spec((2,), torch.float32)})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cells_of_flax(cell):
    torch.manual_seed(0)
    gates = "ifgo" if cell == "lstm" else "rzn"
    with_bias = [f"h{g}" for g in gates] if cell == "lstm" else ["ir", "iz", "in", "hn"]
    w = {f"params.cell.{side}{g}.kernel": torch.randn(3 if side == "i" else 5, 5) for side in "ih" for g in gates}
    w |= {f"params.cell.{name}.bias": torch.randn(5) for name in with_bias}
    w = {name: tensor.double() for name, tensor in w.items()}
    rules = flax_rules(specs_of(w))
    converted = fn.tree.unflatten(fn.tree.flatten(checkpoint.apply(rules, w)))["cell"]
    x, h, c = (torch.randn(2, size, dtype=torch.float64) for size in (3, 5, 5))

    def gate(side, g):
        name = f"params.cell.{side}{g}"
        return (x if side == "i" else h) @ w[f"{name}.kernel"] + w.get(f"{name}.bias", 0.0)

    if cell == "lstm":
        i, f, g, o = (gate("i", name) + gate("h", name) for name in gates)
        new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        expected = torch.sigmoid(o) * torch.tanh(new_c)
        module = nn.LSTMCell(3, 5).double()
        module.load_state_dict(converted)
        actual = module(x, (h, c))[0]
    else:
        r, z = (torch.sigmoid(gate("i", name) + gate("h", name)) for name in "rz")
        expected = (1 - z) * torch.tanh(gate("i", "n") + r * gate("h", "n")) + z * h
        module = nn.GRUCell(3, 5).double()
        module.load_state_dict(converted)
        actual = module(x, h)
    torch.testing.assert_close(actual, expected)
    back = checkpoint.apply(rules, checkpoint.apply(rules, w), inverse=True)
    assert_identical(dict(sorted(fn.tree.flatten(back).items())), dict(sorted(w.items())))
