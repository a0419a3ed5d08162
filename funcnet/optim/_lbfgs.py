"""L-BFGS; the counterpart of torch/optim/lbfgs.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from funcnet._context import under_vmap
from funcnet._errors import TransformError, TreeError
from funcnet._typing import Tree, TreeLike
from funcnet.optim._flat_params import FlatParams
from funcnet.optim._groups import Hyperparameters
from funcnet.optim._line_search import Trial, search_line
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import Scalar, as_scalar
from funcnet.optim._update_operations import add
from funcnet.transforms import value_and_grad
from funcnet.tree import get


@dataclass(frozen=True, eq=False, repr=False)
class LBFGS(Optimizer):
    """L-BFGS: moves by an estimate of the inverse Hessian, made of the last moves and changes of the gradient.

    A step takes the loss as a function, for it computes the loss many times: ``optimizer.step(params, loss, state)``.

    Args:
        lr: the length of moves, or the first that the line search tries.
        max_iter: the most moves of a step.
        max_eval: the most evaluations of the loss in a step; by default 1.25 times ``max_iter``.
        tolerance_grad: a step ends when no element of the gradient is larger.
        tolerance_change: a step ends when no param, or not the loss, changes by more.
        history_size: how many moves the estimate is made of.
        line_search_fn: None, or "strong_wolfe".
        maximize: go up the gradient.
        groups: none; L-BFGS has the same hyperparameters for all params.

    State: at the first param func_evals, n_iter, al, d, t, old_dirs, old_stps, ro, H_diag, prev_flat_grad, prev_loss,
        where tensors have all params in a row; at the others nothing.
    Raises: what torch.optim.LBFGS raises for values that it does not take; TransformError under vmap and in compiled
        code, for how many moves there are depends on the loss.
    Source: torch.optim.LBFGS; Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.5 and 3.5.

    >>> loss = lambda params: (params["w"] - torch.tensor([1.0, 2.0])).square().sum()
    >>> optimizer = LBFGS(line_search_fn="strong_wolfe")
    >>> params = {"w": torch.zeros(2)}
    >>> params, state = optimizer.step(params, loss, optimizer.init(params))
    >>> params, state["w"]["n_iter"]
    ({'w': tensor([1.0000, 2.0000])}, 3)
    """

    lr: float | Tensor = 1
    max_iter: int = 20
    max_eval: int | None = None
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    history_size: int = 100
    line_search_fn: str | None = None
    _: KW_ONLY
    maximize: bool = False

    def _check_hyperparameters(self, values: Hyperparameters, groups: Mapping[Any, Hyperparameters]) -> None:
        if groups:
            raise ValueError("LBFGS doesn't support per-parameter options: it has one group with all params.")
        if values["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS only supports the line search 'strong_wolfe', got {values['line_search_fn']!r}.")
        super()._check_hyperparameters(values, groups)

    def _init_entry(self, param: Tensor) -> Tree:
        return {}

    def step(  # type: ignore[override]
        self,
        params: TreeLike,
        loss: Callable[[Any], Tensor],
        state: TreeLike,
        *,
        donate: bool = False,
        **hyperparameters: Any,
    ) -> tuple[Tree, Tree]:
        """The params and the state after one step of up to ``max_iter`` moves.

        Args:
            params: nested dicts of tensors; absent leaves and integers are passed through.
            loss: a function of such params that returns a scalar tensor.
            state: what :meth:`init` or the last step returned.
            donate: accepted as by all optimizers, and of no effect: moves are computed in new memory.
            hyperparameters: values of this step in place of the record's own.

        Raises:
            TypeError: if ``loss`` is not a function.
            TreeError: if the state does not fit the params.
        """
        if not callable(loss):
            raise TypeError(
                f"LBFGS.step takes the loss as a function of params, not {type(loss).__name__}: "
                f"optimizer.step(params, loss, state)."
            )
        if under_vmap() or torch.compiler.is_compiling():
            raise TransformError(
                "LBFGS decides by the loss how many moves a step has, which vmap and torch.compile cannot follow: "
                "loop over the members, or compile the loss."
            )
        record = (self.replace(**hyperparameters) if hyperparameters else self)._as_scalars(as_scalar)
        flat = FlatParams(params)
        entry = get(state, flat.first_path)
        if not isinstance(entry, Mapping):
            raise TreeError(f"state at {flat.first_path!r}: expected the dict of LBFGS, got {type(entry).__name__}.")
        new_params, new_entry = record._make_moves(_Loss(flat, loss, record.maximize), params, entry)
        return {**new_params}, _put(state, flat.first_path.split("."), new_entry)

    def _make_moves(self, loss: _Loss, params: TreeLike, entry: TreeLike) -> tuple[TreeLike, Tree]:
        """The params after the moves of one step, and the state."""
        counts = {"func_evals": entry.get("func_evals", 0) + 1, "n_iter": entry.get("n_iter", 0)}
        value, grad = loss.evaluate(params)
        if _is_small(grad, self.tolerance_grad):
            return params, {**entry, **counts}
        history = _History(entry, self.history_size)
        lr: Any = self.lr
        direction: Any = entry.get("d")
        t: Any = entry.get("t")
        old_grad: Any = entry.get("prev_flat_grad")
        old_value: Any = entry.get("prev_loss")
        max_eval = self.max_iter * 5 // 4 if self.max_eval is None else self.max_eval
        evaluations = 1
        for move in range(1, self.max_iter + 1):
            counts["n_iter"] += 1
            if counts["n_iter"] == 1:
                direction = -grad
                reach = 1.0 / grad.abs().sum()
                t = (reach if bool(reach < 1.0) else 1.0) * lr
            else:
                history.append(grad - old_grad, direction * t)
                direction = history.find_direction(grad)
                t = self.lr
            old_grad, old_value = grad, value
            slope = grad.dot(direction)
            if slope > -self.tolerance_change:
                break
            if self.line_search_fn is not None:
                trial, count = search_line(
                    loss.on_line(params, direction), Trial(0, value, grad, slope), t, direction, max_eval - evaluations
                )
                value, grad, t = trial.loss, trial.grad, trial.t
                params = loss.flat.move(params, direction, t)
            else:
                params = loss.flat.move(params, direction, t)
                count = 0
                if move < self.max_iter:
                    value, grad = loss.evaluate(params)
                    count = 1
            evaluations += count
            counts["func_evals"] += count
            if (
                evaluations >= max_eval
                or _is_small(grad, self.tolerance_grad)
                or _is_small(direction * t, self.tolerance_change)
                or abs(value - old_value) < self.tolerance_change
            ):
                break
        of_moves = {"d": direction, "t": t, **history.entries(), "prev_flat_grad": old_grad, "prev_loss": old_value}
        return params, {**entry, **counts, **history.scratch(), **of_moves}  # names in the order in which they came


class _Loss:
    """The loss and its gradient, as a number and a vector."""

    def __init__(self, flat: FlatParams, function: Callable[[Any], Tensor], is_negated: bool) -> None:
        self.flat = flat
        self._compute = value_and_grad(function)
        self._is_negated = is_negated

    def evaluate(self, params: TreeLike) -> tuple[Scalar, Tensor]:
        value, grads = self._compute(params)
        value, grad = as_scalar(value), self.flat.join_grads(grads)
        return (-value, -grad) if self._is_negated else (value, grad)

    def on_line(self, params: TreeLike, direction: Tensor) -> Callable[[Scalar], Trial]:
        """Makes the trial at a distance from params along a direction."""

        def evaluate(t: Scalar) -> Trial:
            value, grad = self.evaluate(self.flat.move(params, direction, t))
            return Trial(t, value, grad, grad.dot(direction))

        return evaluate


class _History:
    """The last moves and the changes of the gradient in them, from which the next direction is made."""

    def __init__(self, entry: TreeLike, size: int) -> None:
        self._size = size
        self._changes = list(entry.get("old_dirs", []))
        self._moves = list(entry.get("old_stps", []))
        self._inverses = list(entry.get("ro", []))
        self._scale = entry.get("H_diag", 1)
        self._weights = list(entry.get("al", []))

    def append(self, change: Tensor, move: Tensor) -> None:
        """Take up a move and the change of the gradient, if the loss is curved upwards along the move."""
        curvature = change.dot(move)
        if curvature > 1e-10:
            if len(self._changes) == self._size:
                self._changes, self._moves, self._inverses = self._changes[1:], self._moves[1:], self._inverses[1:]
            self._changes.append(change)
            self._moves.append(move)
            self._inverses.append(1.0 / curvature)
            self._scale = curvature / change.dot(change)

    def find_direction(self, grad: Tensor) -> Tensor:
        """The estimate of the inverse Hessian, times minus the gradient, by the two loops over the history."""
        self._weights = self._weights or [None] * self._size
        rows = list(zip(self._changes, self._moves, self._inverses, strict=True))
        direction = -grad
        for at, (change, move, inverse) in reversed(list(enumerate(rows))):
            self._weights[at] = move.dot(direction) * inverse
            direction = add(direction, change, as_scalar(-self._weights[at]))
        direction = direction * self._scale
        for at, (change, move, inverse) in enumerate(rows):
            direction = add(direction, move, as_scalar(self._weights[at] - change.dot(direction) * inverse))
        return direction

    def scratch(self) -> Tree:
        """The weights of the first loop, which torch keeps outside of the state."""
        return {"al": self._weights} if self._weights else {}

    def entries(self) -> Tree:
        """The history as torch has it in a state."""
        return {
            "old_dirs": self._changes,
            "old_stps": self._moves,
            "ro": self._inverses,
            "H_diag": self._scale,
        }


def _is_small(tensor: Tensor, tolerance: float) -> bool:
    return bool(tensor.abs().max() <= tolerance)


def _put(tree: TreeLike, keys: list[str], value: Tree) -> Tree:
    return {**tree, keys[0]: _put(tree[keys[0]], keys[1:], value) if keys[1:] else value}
