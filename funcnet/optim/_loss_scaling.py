"""Loss scaling for gradients in half precision: a loss is multiplied, so that small gradients do not become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from funcnet._context import can_read_numbers
from funcnet._errors import bullet_list
from funcnet._torch import register_constant
from funcnet._typing import Tree, TreeLike
from funcnet.optim._clipping import replace_leaves, scale_tensors
from funcnet.tree import map
from funcnet.tree.internals import collect_inexact


class HasStep(Protocol):
    """What steps params by gradients: an optimizer of ``funcnet.optim``, or one with master params."""

    def step(
        self, params: TreeLike, grads: TreeLike, state: TreeLike, *, donate: bool = False, **hyperparameters: Any
    ) -> tuple[Tree, Tree]: ...


@dataclass(frozen=True)
class GradScaler:
    """The rule of :class:`torch.amp.GradScaler`, with the scale as a value.

    The scale grows after ``growth_interval`` steps without an overflow, and shrinks at each overflow, whose step is
    left out. Its state, ``{"scale": ..., "growth_tracker": ...}``, is two tensors of shape (), which are saved with the
    rest of a run.

    Args:
        init_scale: the first scale.
        growth_factor: factor of each growth, above 1.
        backoff_factor: factor after an overflow, below 1.
        growth_interval: number of steps without an overflow before each growth.

    >>> scaler = GradScaler(init_scale=8.0)
    >>> scaling = scaler.init()
    >>> params = {"w": torch.tensor(3.0)}
    >>> grads = torch.func.grad(lambda params: scaler.scale(params["w"] ** 2, scaling))(params)
    >>> grads, found_inf = scaler.unscale(grads, scaling)
    >>> grads, found_inf
    ({'w': tensor(6.)}, tensor(0.))
    >>> scaler.update(scaling, found_inf)
    {'scale': tensor(8.), 'growth_tracker': tensor(1, dtype=torch.int32)}
    """

    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        problems = []
        if self.growth_factor <= 1.0:
            problems.append(f"growth_factor is above 1, got {self.growth_factor}")
        if self.backoff_factor >= 1.0:
            problems.append(f"backoff_factor is below 1, got {self.backoff_factor}")
        if problems:
            raise ValueError(f"GradScaler: {'; '.join(problems)}.")

    def init(self, *, device: torch.device | str | None = None) -> Tree:
        """The state before the first step: the scale, float32, and the number of steps since it last changed, int32."""
        return {
            "scale": torch.full((), self.init_scale, dtype=torch.float32, device=device),
            "growth_tracker": torch.zeros((), dtype=torch.int32, device=device),
        }

    def scale(self, value: Tensor, state: Mapping[str, Any]) -> Tensor:
        """A loss times the scale, to be differentiated."""
        scale: Tensor = state["scale"]
        return value * scale.to(value.device)

    def unscale(self, grads: TreeLike, state: Mapping[str, Any], *, donate: bool = False) -> tuple[Tree, Tensor]:
        """The gradients divided by the scale, and whether one of them is infinite or NaN.

        Args:
            grads: gradients of a scaled loss; integer leaves, ``None`` and ``ABSENT`` stay as they are.
            state: the state whose scale the loss was multiplied by.
            donate: whether the memory of ``grads`` may be written over and returned.

        Returns:
            The gradients, and ``found_inf``, float32 of shape (): 1 if a number is not finite, else 0.

        Raises:
            ValueError: if a gradient is float16, in which small numbers would become zero again; names all of them.
        """
        leaves = collect_inexact(grads, "unscale")
        problems = [f"{path!r} is {leaf.dtype}" for path, leaf in leaves.items() if leaf.dtype == torch.float16]
        if problems:
            raise ValueError(
                f"gradients in float16 lose by unscaling what they won by scaling:{bullet_list(problems)}\n"
                "Cast them first, for params that are kept in float32: funcnet.tree.to(grads, torch.float32)."
            )
        inverse = state["scale"].double().reciprocal().float()
        tensors = list(leaves.values())
        is_finite = torch.ones((), dtype=torch.bool, device=inverse.device)
        for tensor in tensors:
            is_finite = is_finite & torch.isfinite(tensor).all().to(inverse.device)
        found_inf = (~is_finite).float()
        return replace_leaves(grads, tensors, scale_tensors(tensors, inverse, donate)), found_inf

    def step(
        self,
        optimizer: HasStep,
        params: TreeLike,
        grads: TreeLike,
        state: TreeLike,
        found_inf: Tensor,
        *,
        donate: bool = False,
        **hyperparameters: Any,
    ) -> tuple[Tree, Tree]:
        """``optimizer.step(params, grads, state)``, or params and state as they are where a gradient was not finite.

        In compiled code and under vmap the step is computed in any case, and then chosen or not; there params and state
        must have the tensors that the step returns, as they do from the second step of every optimizer on.

        Args:
            optimizer: what steps.
            params, grads, state: what it steps; ``grads`` are those of :meth:`unscale`.
            found_inf: from :meth:`unscale`.
            donate, hyperparameters: passed to ``optimizer.step``.
        """
        if can_read_numbers():
            if found_inf.item():
                return dict(params), dict(state)
            return optimizer.step(params, grads, state, donate=donate, **hyperparameters)
        new_params, new_state = optimizer.step(params, grads, state, **hyperparameters)

        def choose_leaf(old: Any, new: Any) -> Any:
            return torch.where(found_inf != 0, old, new) if isinstance(new, Tensor) else new

        return map(choose_leaf, params, new_params), map(choose_leaf, state, new_state)

    def update(self, state: Mapping[str, Any], found_inf: Tensor) -> Tree:
        """The state after a step; its scale changes if it is time, or if a gradient was not finite."""
        scale, tracker = state["scale"], state["growth_tracker"]
        overflows = found_inf.to(scale.device) != 0
        steps = tracker + 1
        grown = (scale.double() * self.growth_factor).float()  # torch's kernel has the factors in double precision
        is_time = steps == self.growth_interval
        scale_if_finite = torch.where(is_time & torch.isfinite(grown), grown, scale)
        shrunk = (scale.double() * self.backoff_factor).float()
        return {
            **state,
            "scale": torch.where(overflows, shrunk, scale_if_finite),
            "growth_tracker": torch.where(overflows | is_time, torch.zeros_like(tracker), steps),
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> tuple[Self, Tree]:
        """The rule and the state in the ``state_dict`` of a scaler of torch.

        >>> GradScaler.from_state_dict(torch.amp.GradScaler("cpu").state_dict())[0]
        GradScaler(init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000)
        """
        missing = [name for name in _STATE_NAMES if name not in state_dict]
        if missing:
            raise ValueError(
                f"the state_dict of a GradScaler has {', '.join(_STATE_NAMES)}; missing: {', '.join(missing)}. "
                "That of a scaler that is not enabled is empty."
            )
        scaler = cls(*(state_dict[name] for name in _STATE_NAMES[:4]))
        state = scaler.init()
        return scaler, {
            **state,
            "growth_tracker": torch.full_like(state["growth_tracker"], state_dict["_growth_tracker"]),
        }

    def to_state_dict(self, state: Mapping[str, Any]) -> dict[str, float]:
        """What ``torch.amp.GradScaler.load_state_dict`` takes."""
        values = (state["scale"].item(), self.growth_factor, self.backoff_factor, self.growth_interval)
        return dict(zip(_STATE_NAMES, (*values, int(state["growth_tracker"])), strict=True))


_STATE_NAMES = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")

register_constant(GradScaler)
