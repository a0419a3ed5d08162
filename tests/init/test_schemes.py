"""First values: every scheme equals its in-place function of torch.nn.init."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, parametrize

SCHEMES = [
    ("zeros", {}),
    ("ones", {}),
    ("constant", {"val": 0.3}),
    ("uniform", {"a": -1.0, "b": 2.0}),
    ("normal", {"mean": 1.0, "std": 0.5}),
    ("trunc_normal", {"std": 0.5, "a": -0.6, "b": 0.4}),
    ("trunc_normal", {"std": 1.0, "a": 1.0, "b": 2.0}),
    ("xavier_uniform", {"gain": 2.0}),
    ("xavier_normal", {}),
    ("kaiming_uniform", {"a": 5**0.5}),
    ("kaiming_uniform", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal", {"nonlinearity": "tanh"}),
    ("orthogonal", {"gain": 0.5}),
]
IDS = [f"{name}{options or ''}" for name, options in SCHEMES]


@pytest.mark.parametrize(("name", "options"), SCHEMES, ids=IDS)
@parametrize(shape=[(6, 4), (4, 3, 2, 2)], dtype=[torch.float32, torch.float64])
def test_a_seed_gives_the_numbers_of_torch(name, options, shape, dtype):
    values = getattr(fn.init, name)(**options)(5, shape, dtype=dtype)
    torch.manual_seed(5)
    assert_identical(values, getattr(nn.init, f"{name}_")(torch.empty(shape, dtype=dtype), **options))


@pytest.mark.parametrize(("name", "options"), SCHEMES, ids=IDS)
def test_schemes_are_values_and_map_over_keys(name, options):
    scheme = getattr(fn.init, name)(**options)
    assert scheme == getattr(fn.init, name)(**options)
    assert hash(scheme) == hash(pickle.loads(pickle.dumps(scheme)))
    keys = fn.random.split(fn.random.key(0), 3)
    mapped = torch.vmap(lambda key: scheme(key, (4, 4)))(keys) if name not in ("zeros", "ones", "constant") else None
    if mapped is not None:
        assert_identical(mapped, torch.stack([scheme(key, (4, 4)) for key in keys]))
    assert scheme(fn.random.key(0), (3, 3), device="meta").is_meta


def test_eye_dirac_and_given_values():
    assert_identical(fn.init.eye()(0, (3, 4)), nn.init.eye_(torch.empty(3, 4)))
    assert_identical(fn.init.dirac(2)(0, (4, 2, 3)), nn.init.dirac_(torch.empty(4, 2, 3), 2))
    kernel = torch.tensor([[0.1, -2.0], [3.5, 0.0]])
    assert_identical(fn.init.values(kernel)(0, (2, 2)), kernel)
    with pytest.raises(fn.InitError, match=r"have shape \(2, 2\), the declared shape is \(4,\)"):
        fn.init.values(kernel)(0, (4,))


def test_a_param_accepts_every_form_of_first_values():
    def thirds(rng, shape, *, dtype, device):
        return fn.random.uniform(rng, shape, dtype=dtype, device=device) / 3

    for init, expected in [
        (2.5, torch.full((2, 2), 2.5)),
        ([[1, 2], [3, 4]], torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (torch.eye(2), torch.eye(2)),
        (nn.init.ones_, torch.ones(2, 2)),
        (fn.init.zeros, torch.zeros(2, 2)),
        (thirds, fn.random.uniform(fn.random.Stream(0), (2, 2)) / 3),
    ]:
        net = fn.compose(w=fn.Param((2, 2), init))(lambda p, x: x * p.w)
        assert_identical(net.init(0), ({"w": expected}, {}))


@pytest.mark.parametrize("init", ["zeros", None, torch.Tensor, nn.init.calculate_gain])
def test_an_init_that_is_not_a_scheme_is_refused(init):
    with pytest.raises(fn.InitError, match="cannot initialise from"):
        fn.Param((2, 2), init)


def test_a_function_that_makes_another_shape_is_refused():
    net = fn.compose(w=fn.Param((2, 2), lambda rng, shape, **_: torch.ones(3)))(lambda p, x: x)
    with pytest.raises(fn.InitError, match=r"was to make a tensor of shape \(2, 2\), got \(3,\)"):
        net.init(0)


def test_dtype_device_and_their_order_of_precedence():
    net = fn.Sequential(fn.Linear(2, 2, dtype=torch.float64), fn.BatchNorm1d(2))
    params, buffers = net.init(0)
    assert params["0"]["weight"].dtype == torch.float64
    assert params["1"]["weight"].dtype == torch.float32
    params, buffers = net.init(0, dtype=torch.bfloat16, device="meta")
    flat = fn.tree.flatten({**params, "buffers": buffers})
    assert {path: leaf.dtype for path, leaf in flat.items() if "tracked" not in path}.values() == {
        torch.bfloat16
    } or all(leaf.dtype == torch.bfloat16 for path, leaf in flat.items() if "tracked" not in path)
    assert flat["buffers.1.num_batches_tracked"].dtype == torch.int64
    assert all(leaf.is_meta for leaf in flat.values())


def test_keyed_values_depend_on_the_path_alone():
    small = fn.Sequential({"a": fn.Linear(3, 3), "b": fn.Linear(3, 3)})
    large = fn.Sequential({"z": fn.Linear(5, 3), "b": fn.Linear(3, 3), "a": fn.Linear(3, 3)})
    key = fn.random.key(0)
    first, second = small.init(key)[0], large.init(key)[0]
    assert_identical(first["a"], second["a"])
    assert_identical(first["b"], second["b"])
    assert not torch.equal(first["a"]["weight"], first["b"]["weight"])


def test_init_needs_rng():
    with pytest.raises(fn.InitError, match="init needs rng"):
        fn.Linear(2, 2).init(None)
    with pytest.raises(fn.InitError, match="needs rng"):
        partial(fn.init.normal(), None)((2, 2))
