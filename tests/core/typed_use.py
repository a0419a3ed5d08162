"""What a type checker says about the use of funcnet; ``test_types`` runs one over this file, and nothing runs it.

An expected error has a ``type: ignore`` with its code: without the error, the comment itself becomes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import assert_type

import funcnet as fn
from funcnet.core import Composed

if TYPE_CHECKING:
    Params = dict[str, Any]
    x = torch.ones(2, 3)

    # --- layers ---

    lin = fn.Linear(3, 4)
    assert_type(lin.in_features, int)
    assert_type(lin.weight, fn.Param)
    assert_type(fn.LayerNorm(3).weight, fn.Param | None)
    assert_type(fn.BatchNorm1d(3).running_mean, fn.Buffer | None)
    misspelt = lin.out_featurs  # type: ignore[attr-defined]
    lin.parameters()  # type: ignore[attr-defined]
    fn.Linear("3", 4)  # type: ignore[arg-type]
    fn.Linear(3)  # type: ignore[call-arg]

    # --- first values ---

    assert_type(lin.init(0), tuple[Params, Params])
    assert_type(lin.init(fn.random.key(0)), tuple[Params, Params])
    assert_type(lin.init(0, example_inputs=(x,)), tuple[fn.Net, Params, Params])
    lin.init("0")  # type: ignore[call-overload]
    params, buffers = lin.init(0)

    # --- calls ---

    assert_type(lin(params, x), Tensor)
    assert_type(lin(params, input=x), Tensor)
    assert_type(lin.apply(params, buffers, x), tuple[Tensor, Params])
    assert_type(lin.apply(params, buffers, x, train=["**", "!bn"], rng=fn.random.key(0)), tuple[Tensor, Params])
    assert_type(lin(params, x, method="forward"), Any)
    lin(params, "x")  # type: ignore[call-overload]
    lin(params, x, x)  # type: ignore[call-overload]
    lin(x, x)  # type: ignore[call-overload]
    lin.apply(params, buffers, x, rng="0")  # type: ignore[call-overload]

    # --- nets that users write ---

    class Scaled(fn.Net):
        features: int
        scale: float = 2.0

        def parts(self) -> dict[str, fn.Param]:
            return {"weight": fn.Param(self.features)}

        @staticmethod
        def forward(p: fn.View, x: Tensor, *, power: int = 1) -> Tensor:
            return x**power * p.weight * p.scale

    assert_type(Scaled(3, scale=1.0)(params, x, power=2), Tensor)
    assert_type(Scaled(3).freeze("weight"), Scaled)
    assert_type(Scaled(3).tie({}), Scaled)
    Scaled(features="3")  # type: ignore[arg-type]
    Scaled(3)(params, x, power="2")  # type: ignore[call-overload]
    Scaled(3).scale = 3.0  # type: ignore[misc]

    @fn.compose(fc1=lin, fc2=fn.Linear(4, 2))
    def mlp(p: fn.View, x: Tensor) -> Tensor:
        y: Tensor = p.fc2(F.relu(p.fc1(x)))
        return y

    def untyped(p, x):  # type: ignore[no-untyped-def]
        return p.fc(x)

    assert_type(mlp(params, x), Tensor)
    assert_type(mlp.apply(params, buffers, x), tuple[Tensor, Params])
    assert_type(mlp.fc1, Any)
    assert_type(fn.compose(fc=lin)(untyped)(params, x), Any)
    mlp(params, "x")  # type: ignore[call-overload]
    composed: Composed[..., Tensor] = mlp

    # --- containers ---

    seq = fn.Sequential(lin, F.relu, fn.Dropout(0.5))
    assert_type(seq[0], fn.Net)
    assert_type(seq[1:], fn.Sequential)
    assert_type(seq + seq, fn.Sequential)
    assert_type(list(seq), list[fn.Net])
    assert_type(fn.ModuleList([lin])[0], fn.Net)
    assert_type(fn.ModuleList([lin])[:1], fn.ModuleList)
    assert_type(fn.ModuleDict({"a": lin})["a"], fn.Net)
    assert_type(fn.ParameterList([x])[0], fn.Param)
    fn.Sequential(3)  # type: ignore[arg-type]

    # --- gradients ---

    def loss(params: Params, x: Tensor, scale: float = 1.0) -> Tensor:
        return (lin(params, x) * scale).sum()

    def loss_and_output(params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        y = lin(params, x)
        return y.sum(), y

    assert_type(fn.value_and_grad(loss)(params, x), tuple[Tensor, Params])
    assert_type(fn.value_and_grad(loss)(params, x, scale=2.0), tuple[Tensor, Params])
    assert_type(fn.value_and_grad(loss, 1)(params, x), tuple[Tensor, Any])
    assert_type(fn.value_and_grad(loss, (0, 1))(params, x), tuple[Tensor, tuple[Any, ...]])
    assert_type(fn.value_and_grad(loss_and_output, has_aux=True)(params, x), tuple[tuple[Tensor, Tensor], Params])
    fn.value_and_grad(loss)(params, "x")  # type: ignore[arg-type]
    fn.value_and_grad(loss)(params, x, scales=2.0)  # type: ignore[call-arg]

    # --- modules and programs ---

    module: torch.nn.Module = torch.nn.Linear(3, 4)
    assert_type(fn.from_module(module), tuple[fn.Net, Params, Params])
    assert_type(fn.to_module(lin, params, buffers), torch.nn.Module)
    assert_type(fn.source(module, x, style="stateful"), str)
    assert_type(fn.trace(module, x)[0](params, x), Any)
    fn.source(module, x, style="statefull")  # type: ignore[arg-type]

    # --- trees and keys ---

    assert_type(fn.tree.flatten(params), dict[str, Any])
    assert_type(fn.tree.partition(params, "weight"), tuple[Params, Params])
    assert_type(fn.random.key(0), Tensor)
    select: Callable[[str], bool] = fn.tree.select("*.weight")
