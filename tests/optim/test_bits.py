"""Steps have the bits of torch.optim, in params and in every entry of the state."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize
from tests.optim.table import Row, rows

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
STEPS = 12


class Twin:
    """An optimizer of torch beside params in a tree."""

    def __init__(self, row: Row, params: dict[str, Any], **arguments: Any) -> None:
        self.flat = {path: leaf.clone().requires_grad_() for path, leaf in fn.tree.flatten(params).items()}
        self.optimizer = row.theirs(list(self.flat.values()), **arguments)

    def step(self, grads: dict[str, Any]) -> None:
        for param, grad in zip(self.flat.values(), fn.tree.flatten(grads).values(), strict=True):
            param.grad = None if grad is None else grad.clone()
        self.optimizer.step()

    def params(self) -> dict[str, Any]:
        return fn.tree.unflatten({path: param.detach() for path, param in self.flat.items()})

    def state(self) -> dict[str, Any]:
        return {path: dict(self.optimizer.state.get(param, {})) for path, param in self.flat.items()}


def entries_by_path(params: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    return {path: fn.tree.get(state, path) for path in fn.tree.paths(params)}


def assert_steps_are_equal(row: Row, params: Any, draw_grads: Any, ours: Any, twin: Twin, donate: Any) -> None:
    state = ours.init(params)
    for index in range(STEPS):
        grads = draw_grads(index)
        before = clone((params, grads, state))
        new_params, new_state = ours.step(params, grads, state, donate=donate(index))
        if not donate(index):
            assert_identical((params, grads, state), before)
        params, state = new_params, new_state
        twin.step(grads)
        assert_identical(params, twin.params())
        assert_identical(entries_by_path(params, state), twin.state())


def is_rounded_by_torch(row: Row, dtype: torch.dtype) -> bool:
    """Whether torch computes with a learning rate that it has rounded to float32, though the params are float64."""
    return row.class_name == "Muon" and isinstance(row.arguments.get("lr"), Tensor) and dtype == torch.float64


def supports(row: Row, dtype: torch.dtype) -> bool:
    return row.info.supports_complex or not dtype.is_complex


@parametrize(row=rows(), dtype=DTYPES, donates=["pure", "donated", "in turn"])
def test_steps_have_torchs_bits(row, dtype, donates):
    if not supports(row, dtype):
        pytest.skip("torch takes no complex params here")
    if is_rounded_by_torch(row, dtype):
        row = dataclasses.replace(row, arguments={**row.arguments, "lr": row.arguments["lr"].double()})
    donate = {"pure": lambda index: False, "donated": lambda index: True, "in turn": lambda index: index % 3 == 1}
    params = row.params(dtype)
    assert_steps_are_equal(
        row, params, lambda index: row.params(dtype, seed=index + 1), row.ours(), Twin(row, params), donate[donates]
    )


def with_tensors(row: Row, dtype: torch.dtype, names: tuple[str, ...]) -> Row:
    """A row whose hyperparameters of these names are 0-d tensors."""
    defaults = {field.name: field.default for field in dataclasses.fields(row.ours())}
    values = {name: row.arguments.get(name, defaults[name]) for name in names if defaults.get(name) is not None}
    tensors = {
        name: tuple(torch.tensor(number, dtype=dtype) for number in value)
        if isinstance(value, tuple)
        else torch.as_tensor(value, dtype=dtype)
        for name, value in values.items()
    }
    return dataclasses.replace(row, arguments={**row.arguments, **tensors})


def assert_steps_of_tensors_are_equal(row: Row, dtype: torch.dtype, donated: bool) -> None:
    params = row.params(dtype)
    draw = lambda index: row.params(dtype, seed=index + 1)  # noqa: E731
    assert_steps_are_equal(row, params, draw, row.ours(), Twin(row, params), lambda index: donated)


@parametrize(row=rows(), dtypes=["single", "bfloat", "single, by double", "double"])
def test_learning_rates_and_decays_in_tensors_have_torchs_bits(row, dtypes):
    dtype = {"bfloat": torch.bfloat16, "double": torch.float64}.get(dtypes, torch.float32)
    if row.class_name == "ASGD" and dtype == torch.float64:
        pytest.skip("torch rounds its eta to float32")
    of_tensors = torch.float64 if "double" in dtypes else torch.float32
    row = with_tensors(row, of_tensors, ("lr", "weight_decay"))
    assert_steps_of_tensors_are_equal(row, dtype, donated=dtypes in ("double", "bfloat"))


@parametrize(row=[row for row in rows() if row.class_name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")])
def test_betas_in_tensors_have_torchs_bits(row):
    if row.arguments.get("fused"):
        pytest.skip("torch's fused kernels take numbers")
    assert_steps_of_tensors_are_equal(with_tensors(row, torch.float32, ("lr", "betas")), torch.float32, False)


@parametrize(row=[row for row in rows() if row.class_name not in ("Adafactor", "Muon")], donates=["pure", "donated"])
def test_large_tensors_have_torchs_bits(row, donates, monkeypatch):
    """They are updated chunk by chunk, with the bits of an update of the whole."""
    monkeypatch.setattr("funcnet.optim._chunks.CHUNK_SIZE", 4096)

    def draw(seed: int) -> dict[str, Tensor]:
        return {"w": torch.randn(100_007, generator=torch.Generator().manual_seed(seed))}

    params = draw(0)
    state, ours, twin = row.ours().init(params), row.ours(), Twin(row, params)
    for index in range(4):
        grads = draw(index + 1)
        before = clone((params, state))
        new_params, new_state = ours.step(params, grads, state, donate=donates == "donated")
        if donates == "pure":
            assert_identical((params, state), before)
        params, state = new_params, new_state
        twin.step(grads)
        assert_identical(params, twin.params())
        assert_identical(state, twin.state())


def is_fused_sgd_wrong_in_half() -> bool:
    """Whether torch's fused SGD moves bfloat16 params by something else than the gradient, as that of 2.13 does."""
    param = torch.ones(32, dtype=torch.bfloat16, requires_grad=True)
    param.grad = torch.ones_like(param)
    torch.optim.SGD([param], lr=1.0, fused=True).step()
    return bool(param.any())


IS_FUSED_SGD_WRONG_IN_HALF = is_fused_sgd_wrong_in_half()
FUSED = [row for row in rows() if "cpu" in row.info.supports_fused_on]


@parametrize(row=FUSED, dtype=[torch.float32, torch.float64, torch.bfloat16], donated=[False, True])
def test_fused_steps_have_the_bits_of_the_fused_kernels(row, dtype, donated):
    params = row.params(dtype)
    is_broken = row.class_name == "SGD" and dtype == torch.bfloat16 and IS_FUSED_SGD_WRONG_IN_HALF
    assert_steps_are_equal(
        row,
        params,
        lambda index: row.params(dtype, seed=index + 1),
        row.ours(fused=True),
        Twin(row, params, fused=not is_broken),
        lambda index: donated,
    )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own Adagrad makes sparse tensors so
@parametrize(
    row=[row for row in rows(sparse=None) if row.info.supports_sparse or row.is_sparse()], donated=[False, True]
)
def test_sparse_gradients_have_torchs_bits(row, donated):
    if row.arguments.get("weight_decay"):
        pytest.skip("torch takes no weight decay of sparse gradients")
    params = {"embedding": torch.randn(6, 3, generator=torch.Generator().manual_seed(0))}

    def draw(index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index + 1)
        indices = torch.randint(6, (1, 4), generator=generator)  # some rows twice
        return {
            "embedding": torch.sparse_coo_tensor(
                indices, torch.randn(4, 3, generator=generator), (6, 3), check_invariants=True
            )
        }

    state, ours, twin = row.ours().init(params), row.ours(), Twin(row, params)
    for index in range(STEPS):
        params, state = ours.step(params, draw(index), state, donate=donated)
        twin.step(draw(index))
        assert_identical(params, twin.params())
        for name, value in twin.state()["embedding"].items():
            ours_too = state["embedding"][name]
            if isinstance(value, Tensor) and value.is_sparse:
                value, ours_too = value.to_dense(), ours_too.to_dense()
            assert_identical(ours_too, value)
