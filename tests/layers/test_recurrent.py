"""Recurrent layers beyond the table: packed sequences, both forms, and the lists of weights in modules."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.utils._pytree import tree_leaves
from typing_extensions import get_overloads

import funcnet as fn
from funcnet.core import TRANSFORMS
from tests.cases.recurrent import COMPOSED
from tests.helpers import assert_identical, clone, global_generator_untouched, params_of, total

NAMES = ["RNN", "LSTM", "GRU"]
MODES = [False, True]
OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": first, "dropout": 0.4 * (layers - 1)}
    for layers, both, first in itertools.product((1, 2), MODES, MODES)
]
INPUTS = ["batch", "unbatched", "sorted", "unsorted", "empty batch"]


def options_id(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items() if value)


def inputs(module: Any, kind: str, with_hx: bool, dtype: torch.dtype) -> list[Any]:
    """Inputs of the kind for a module, and a state for it."""
    torch.manual_seed(1)
    batch = {"empty batch": 0, "unbatched": 1}.get(kind, 3)
    states = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    x = torch.randn((batch, 5, 3) if module.batch_first else (5, batch, 3), dtype=dtype)
    hx = [torch.randn(states, batch, size, dtype=dtype) for size in sizes]
    if kind == "unbatched":
        x, hx = x.squeeze(0 if module.batch_first else 1), [part.squeeze(1) for part in hx]
    elif kind != "batch" and kind != "empty batch":
        x = pack_padded_sequence(
            x, torch.tensor([5, 3, 2] if kind == "sorted" else [2, 5, 3]), module.batch_first, kind == "sorted"
        )
    return [x, *([tuple(hx) if module.mode == "LSTM" else hx[0]] if with_hx else [])]


def copy_as_leaves(values: Any) -> tuple[Any, list[Tensor]]:
    """Copies of inputs whose tensors are leaves, and a list of these leaves."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return PackedSequence(leaf(value.data), *value[1:])
        if isinstance(value, (list, tuple)):
            return type(value)([leaf(item) for item in value])
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    return leaf(values), leaves


def gradients(output: Any, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total(output), leaves))


def build_module(name: str, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """A module, and its tensors as params that require gradients like those of the module, as kernels depend on it."""
    torch.manual_seed(0)
    module = getattr(nn, name)(3, 4, **options)
    return module, {path: leaf.clone().requires_grad_() for path, leaf in params_of(module).items()}


@pytest.mark.parametrize("with_hx", MODES, ids=["zeros", "hx"])
@pytest.mark.parametrize("options", OPTIONS, ids=options_id)
@pytest.mark.parametrize("name", [*NAMES, "RNN-relu", "LSTM-proj"])
def test_outputs_and_gradients_are_the_modules_in_every_form_of_input(name, options, with_hx):
    name, _, special = name.partition("-")
    extra = {"relu": {"nonlinearity": "relu"}, "proj": {"proj_size": 2}}.get(special, {})
    for dtype, train, kind in itertools.product((torch.float32, torch.float64), MODES, INPUTS):
        module, params = build_module(name, **options, **extra, dtype=dtype)
        net = getattr(fn, name)(3, 4, **options, **extra)
        arguments = inputs(module.train(train), kind, with_hx, dtype)
        (ours, our_leaves), (theirs, their_leaves) = copy_as_leaves(arguments), copy_as_leaves(arguments)
        with global_generator_untouched():
            output, _ = net.apply(params, {}, *ours, train=train, rng=7)
        torch.manual_seed(7)
        expected = module(*theirs)
        assert type(output[0]) is type(expected[0])
        assert_identical(tree_leaves(output), tree_leaves(expected))
        if kind != "empty batch":
            assert_identical(
                gradients(output, [*params.values(), *our_leaves]),
                gradients(expected, [*module.parameters(), *their_leaves]),
            )


@pytest.mark.parametrize("options", OPTIONS, ids=options_id)
@pytest.mark.parametrize("name", [*NAMES, "RNN-relu", "LSTM-proj"])
def test_the_composed_form_is_close_to_the_fused_one_draws_included(name, options):
    name, _, special = name.partition("-")
    extra = {"relu": {"nonlinearity": "relu"}, "proj": {"proj_size": 2}}.get(special, {})
    module, params = build_module(name, **options, **extra)
    fused = getattr(fn, name)(3, 4, **options, **extra)
    composed = getattr(fn, name)(3, 4, **options, **extra, impl="composed")
    for rng, kind, with_hx in itertools.product((None, 7, fn.random.key(7)), INPUTS, MODES):
        arguments = inputs(module, kind, with_hx, torch.float32)
        (ours, our_leaves), (theirs, their_leaves) = copy_as_leaves(arguments), copy_as_leaves(arguments)
        output = composed.apply(params, {}, *ours, train=rng is not None, rng=rng)[0]
        expected = fused.apply(params, {}, *theirs, train=rng is not None, rng=rng)[0]
        assert type(output[0]) is type(expected[0])
        torch.testing.assert_close(tree_leaves(output), tree_leaves(expected))
        if kind != "empty batch":
            grads = gradients(output, [*params.values(), *our_leaves])
            expected_grads = gradients(expected, [*params.values(), *their_leaves])
            torch.testing.assert_close(grads, expected_grads)


def test_the_composed_form_declares_no_limit():
    assert all(fn.supports(case.net(), transform) for case in COMPOSED for transform in TRANSFORMS)


# --- transforms ---


def _forms(name: str, kind: str, **options):
    """A net with the layer inside, its params, and a module with the same weights."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = getattr(torch.nn, name)(3, 4, **options)
            self.head = torch.nn.Linear(4 * (1 + options.get("bidirectional", False)), 2)

        def forward(self, x):
            return self.head(self.part(x)[0])

    torch.manual_seed(0)
    module = Model()
    if kind == "foreign":
        net, params, _ = fn.from_module(module)
    else:
        size = 4 * (1 + options.get("bidirectional", False))

        @fn.compose(part=getattr(fn, name)(3, 4, **options), head=fn.Linear(size, 2))
        def net(p, x):
            return p.head(p.part(x)[0])

        params, _ = fn.from_state_dict(net, module.state_dict())
    return net, params


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["foreign", "own"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True, "bidirectional": True, "num_layers": 2}, {"bias": False, "num_layers": 2}],
    ids=["plain", "bidirectional", "without bias"],
)
def test_the_fused_form_is_composed_under_vmap(name, kind, options):
    # Regression: torch's raw errors in a converted model, which had no way out, and a refusal in a net
    net, params = _forms(name, kind, **options)
    assert fn.supports(net, "vmap") and fn.supports(net, "vmap(grad)") and fn.supports(net, "ensemble")
    xs = torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(1))

    def loss(params, x):
        return net(params, x).square().sum()

    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.vmap(lambda x: net(params, x))(xs), torch.stack([net(params, x) for x in xs]))
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, xs)
    for index, x in enumerate(xs):
        expected = torch.func.grad(loss)(params, x)
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], each), expected, **close)
    stacked = fn.tree.stack([params, fn.tree.scale(params, 0.5)])
    outputs = torch.vmap(net, in_dims=(0, None))(stacked, xs[0])
    torch.testing.assert_close(outputs[1], net(fn.tree.scale(params, 0.5), xs[0]))
    direction = fn.tree.map(torch.ones_like, params)
    _, slope = torch.func.jvp(lambda params: loss(params, xs[0]), (params,), (direction,))
    expected = fn.tree.dot(torch.func.grad(loss)(params, xs[0]), direction)
    torch.testing.assert_close(slope, expected, **close)


@pytest.mark.parametrize("kind", ["foreign", "own"])
def test_a_projected_lstm_is_composed_under_vmap(kind):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.LSTM(3, 4, proj_size=2, num_layers=2)

        def forward(self, x, h, c):
            return self.part(x, (h, c))[0]

    net, params, _ = fn.from_module(Model() if kind == "foreign" else Model().part)
    x, h, c = torch.randn(3, 5, 2, 3), torch.randn(2, 2, 2), torch.randn(2, 2, 4)

    def run(x):
        return net(params, x, h, c) if kind == "foreign" else net(params, x, (h, c))[0]

    torch.testing.assert_close(torch.vmap(run)(x), torch.stack([run(part) for part in x]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["foreign", "own"])
def test_a_vmap_over_keys_alone_draws_other_masks(name, kind):
    x, keys = torch.ones(5, 1, 3), fn.random.split(fn.random.key(0), 2)
    net, params = _forms(name, kind, num_layers=2, dropout=0.5)
    first, second = torch.vmap(lambda key: net.apply(params, {}, x, train=True, rng=key)[0], randomness="different")(
        keys
    )
    assert not torch.equal(first, second)
    if kind == "own":
        torch.testing.assert_close(first, net.apply(params, {}, x, train=True, rng=keys[0])[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("impl", ["fused", "composed"])
def test_forward_and_second_derivatives_in_float32(name, impl):
    # Regression: oneDNN's LSTM, which runs float32 alone, has no forward-mode rule
    net, close = getattr(fn, name)(2, 2, impl=impl), {"rtol": 1e-4, "atol": 1e-5}
    params, _ = net.init(0)
    x = torch.randn(3, 1, 2)

    def f(x, params=params):
        return (net(params, x)[0] ** 2).sum()

    expected = torch.func.hessian(lambda x: f(x, fn.tree.to(params, torch.float64)))(x.double()).float()
    torch.testing.assert_close(torch.func.hessian(f)(x), expected, **close)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(f(dual)).tangent
    torch.testing.assert_close(tangent, torch.func.grad(f)(x).sum(), **close)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "dropout": 0.4, "bidirectional": True}], ids=options_id)
def test_training_compiles(name, options):
    # Regression: torch.compile cannot save what the backward pass of oneDNN's LSTM needs
    net = getattr(fn, name)(3, 4, **options)
    params, _ = net.init(0)
    x, key = torch.randn(2, 2, 3), fn.random.key(0)

    def loss(params):
        return (net.apply(params, {}, x, train=True, rng=key)[0][0] ** 2).mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = {path: leaf.clone().requires_grad_() for path, leaf in params.items()}
    compiled(leaves).backward()
    expected = torch.func.grad(loss)(params)
    torch.testing.assert_close({path: leaf.grad for path, leaf in leaves.items()}, expected)


def test_compiled_inference_keeps_the_fused_lstm():
    net = fn.LSTM(3, 4)
    params, _ = net.init(0)
    graphs = []

    def grab(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    x = torch.randn(5, 2, 3)
    assert_identical(torch.compile(lambda x: net(params, x), fullgraph=True, backend=grab)(x), net(params, x))
    assert torch.lstm in {node.target for node in graphs[0].graph.nodes}


@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_of_given_lengths_are_vmapped_in_composed_form(name):
    net = getattr(fn, name)(3, 4, bidirectional=True, impl="composed")
    params, _ = net.init(0)
    packed = pack_sequence([torch.randn(5, 3), torch.randn(2, 3), torch.randn(2, 3)])
    many = torch.randn(4, *packed.data.shape)

    def run(data):
        return net(params, PackedSequence(data, *packed[1:]))[0].data

    torch.testing.assert_close(torch.vmap(run)(many), torch.stack([run(data) for data in many]))


def test_a_packed_sequence_is_not_compiled():
    net = fn.GRU(3, 4)
    params, _ = net.init(0)
    packed = pack_sequence([torch.randn(5, 3)])
    torch._dynamo.reset()
    with pytest.raises(Exception, match="cannot run under compile or export on a PackedSequence"):
        torch.compile(lambda packed: net(params, packed), fullgraph=True, backend="eager")(packed)


# --- arguments and inputs ---


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 keeps no overloads of what it imports")
@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_that_torch_documents_and_the_form(name):
    theirs = list(inspect.signature(get_overloads(getattr(nn, name).__init__)[0]).parameters.values())[1:]
    ours = list(inspect.signature(getattr(fn, name)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[:-1]] == [(p.name, p.default, p.kind) for p in theirs]
    assert (ours[-1].name, ours[-1].default, ours[-1].kind) == ("impl", "fused", inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: fn.LSTM(3, 4, dropout=1.5), ValueError, "dropout"),
        (lambda: fn.LSTM(3, 4, dropout=True), ValueError, "dropout"),
        (lambda: fn.LSTM(0, 4), ValueError, "input_size"),
        (lambda: fn.GRU(3, 0), ValueError, "hidden_size"),
        (lambda: fn.GRU(3, 4.0), TypeError, "hidden_size"),
        (lambda: fn.RNN(3, 4, 0), ValueError, "num_layers"),
        (lambda: fn.RNN(3, 4, nonlinearity="sin"), ValueError, "sin"),
        (lambda: fn.RNN(3, 4, bias=1), TypeError, "bias"),
        (lambda: fn.LSTM(3, 4, proj_size=4), ValueError, "proj_size"),
        (lambda: fn.GRU(3, 4, proj_size=2), TypeError, "proj_size"),
        (lambda: fn.LSTM(3, 4, impl="fast"), ValueError, "'fused' or 'composed'"),
        (lambda: fn.RNNBase("SRU", 3, 4), ValueError, "SRU"),
        (lambda: fn.RNNCell(3, 4, nonlinearity="sin"), ValueError, "sin"),
        (lambda: fn.LSTMCell(3, -4), RuntimeError, "negative"),
    ],
)
def test_bad_arguments_are_refused_at_construction(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_dropout_after_the_only_layer_warns_once():
    with pytest.warns(UserWarning, match="no effect with num_layers=1") as caught:
        net = fn.GRU(3, 4, dropout=0.5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not net.draws(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.GRU(3, 4, dropout=0.5)
        second = fn.GRU(3, 4, dropout=0.5)
    assert repr(net) == repr(module)
    assert net == second
    assert fn.to_module(net, *net.init(0)).dropout == 0.5


H = (2, 3, 4)


@pytest.mark.parametrize(
    ("name", "x", "hx"),
    [
        ("GRU", (5, 3, 2), None),
        ("GRU", (5,), None),
        ("GRU", (0, 3, 3), None),
        ("GRU", (5, 3, 3), (2, 2, 4)),
        ("GRU", (5, 3, 3), (2, 4)),
        ("GRU", (5, 3), (2, 1, 4)),
        ("GRU", (5, 3, 3), (H, H)),
        ("LSTM", (5, 3, 3), H),
        ("LSTM", (5, 3, 3), (2, *H)),
        ("LSTM", (5, 3, 3), (H, (2, 3, 5))),
        ("LSTM", (5, 3, 3), (H, (2, 4))),
        ("LSTM", (5, 3, 3), (H, H, H)),
    ],
)
@pytest.mark.parametrize("impl", ["fused", "composed"])
def test_inputs_that_do_not_fit_are_errors_that_say_what_would(name, x, hx, impl):
    def tensors(sizes: Any) -> Any:
        if sizes is None:
            return None
        return torch.ones(sizes) if isinstance(sizes[0], int) else tuple(map(tensors, sizes))

    net = getattr(fn, name)(3, 4, num_layers=2, impl=impl)
    params, _ = net.init(0)
    with pytest.raises(Exception):  # noqa: B017, PT011 - any error of the module's own
        getattr(nn, name)(3, 4, num_layers=2)(tensors(x), tensors(hx))
    with pytest.raises(fn.ShapeError, match=r"expected input \(L, N, 3\), \(L, 3\) or packed, and as hx .*2, N, 4"):
        net(params, tensors(x), tensors(hx))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_does_not_fit_a_packed_sequence_is_refused(name):
    net = getattr(fn, name)(3, 4)
    params, _ = net.init(0)
    packed = pack_sequence([torch.ones(5, 3), torch.ones(2, 3)])
    hx = torch.ones(1, 3, 4)
    with pytest.raises(fn.ShapeError, match=r"hx is of shape \(1, 2, 4\)"):
        net(params, packed, (hx, hx) if name == "LSTM" else hx)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_is_the_modules(name):
    module, params = build_module(name)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            expected = module(x)
        except RuntimeError as error:
            if "could not create a primitive" not in str(error):
                raise
            pytest.skip(f"torch has no {name} in bfloat16 for this processor")
        assert_identical(getattr(fn, name)(3, 4)(params, x), expected)


# --- base classes ---


def test_the_base_classes_have_the_weights_of_torchs_and_compute_nothing():
    for name, args in {"RNNBase": ("LSTM", 3, 4, 2, True, True, 0.1, True, 2), "RNNCellBase": (3, 4, True, 3)}.items():
        net = getattr(fn, name)(*args)
        torch.manual_seed(0)
        module = getattr(nn, name)(*args)
        assert_identical(net.init(0)[0], params_of(module))
        assert fn.from_module(module)[0] == net
        assert repr(net) == repr(module)
        with pytest.raises(TypeError, match=f"{name} computes nothing"):
            net(net.init(0)[0], torch.ones(5, 3))
        with pytest.raises(NotImplementedError):
            module(torch.ones(5, 3))
    assert all(issubclass(getattr(fn, name), fn.RNNBase) for name in NAMES)
    assert all(issubclass(getattr(fn, f"{name}Cell"), fn.RNNCellBase) for name in NAMES)


# --- lists of weights in modules ---


@pytest.mark.parametrize("name", NAMES)
def test_from_module_reads_the_weights_that_the_module_computes_with(name):
    module, _ = build_module(name, num_layers=2)
    x = torch.randn(5, 2, 3)
    module.weight_hh_l1 = nn.Parameter(torch.randn_like(module.weight_hh_l1))
    module.flatten_parameters()
    for changed in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.double().float()):
        net, params, buffers = fn.from_module(changed)
        assert net == getattr(fn, name)(3, 4, 2)
        params = fn.tree.map(lambda leaf: leaf.requires_grad_(), params)
        assert_identical(net.apply(params, buffers, x)[0], changed(x))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}], ids=options_id)
@pytest.mark.parametrize("name", NAMES)
def test_to_module_gives_a_module_whose_lists_hold_its_own_weights(name, options):
    net = getattr(fn, name)(3, 4, **options)
    params, _ = net.init(0)
    module, x = fn.to_module(net, params), torch.randn(5, 2, 3)
    parameters = dict(module.named_parameters())
    assert all(
        weight is parameters[path]
        for weight, path in zip(module._flat_weights, module._flat_weights_names, strict=True)
    )
    expected = net(params, x)
    assert_identical(torch.jit.script(nn.Sequential(module))(x), expected)  # a script reads the list as it is
    assert_identical(module(x), expected)
    assert_identical(copy.deepcopy(module)(x), expected)
    assert_identical(pickle.loads(pickle.dumps(module))(x), expected)
    torch.testing.assert_close(module.double()(x.double()), expected, check_dtype=False)
    module.float().load_state_dict(fn.to_state_dict(net, net.init(1)[0]))
    assert_identical(module(x), net(net.init(1)[0], x))


def test_a_module_from_a_net_trains():
    net = fn.LSTM(3, 4, num_layers=2)
    params, _ = net.init(0)
    module, x = fn.to_module(net, params), torch.randn(5, 2, 3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(x)[0].sum().backward()
    optimizer.step()
    _, grads = fn.value_and_grad(lambda params: net(params, x)[0].sum())(params)
    expected = {path: params[path] - 0.1 * grads[path] for path in params}
    torch.testing.assert_close(params_of(module), expected)
    torch.testing.assert_close(module(x), net(expected, x))


def test_tied_weights_of_layers_are_one_in_net_and_module():
    net = fn.GRU(4, 4, num_layers=2).tie({f"{name}_l1": f"{name}_l0" for name in ("weight_ih", "weight_hh")})
    params, _ = net.init(0)
    assert list(params) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "bias_ih_l1", "bias_hh_l1"]
    module, x = fn.to_module(net, params), torch.randn(5, 2, 4)
    assert module.weight_ih_l0 is module.weight_ih_l1
    assert_identical(module(x), net(params, x))
    back, params_back, _ = fn.from_module(module)
    assert back == net
    assert_identical(params_back, params)
    module(x)[0].sum().backward()
    _, grads = fn.value_and_grad(lambda params: net(params, x)[0].sum())(params)
    assert_identical({path: param.grad for path, param in module.named_parameters()}, grads)


def test_a_module_keeps_the_form_of_its_net():
    net = fn.LSTM(3, 4, impl="composed")
    module = fn.to_module(net, *net.init(0))
    assert type(module) is nn.LSTM
    assert fn.from_module(module)[0] == net != fn.LSTM(3, 4)
    assert pickle.loads(pickle.dumps(net)) == copy.copy(net) == net
    assert clone(net.init(0)[0]).keys() == fn.LSTM(3, 4).init(0)[0].keys()
