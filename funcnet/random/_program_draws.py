"""Draws by path in written programs, outside of a net: :class:`ByPath` is their ``rng``."""

from __future__ import annotations

from funcnet._errors import RandomnessError
from funcnet.random._generators import Rng, RngArgument, Stream, as_rng, rng_at_path


class ByPath:
    """Lets plain code draw as a net does: ``rng("h.0.drop")`` returns the rng of the next draw at that path.

    Args:
        rng: a Key, or an int seed for the draws that ``torch.manual_seed(seed)`` and the module would make.

    Raises:
        RandomnessError: if it is None or anything else.

    >>> from funcnet.random import dropout, key
    >>> import torch
    >>> rng = ByPath(key(0))
    >>> dropout(torch.ones(3), 0.5, rng=rng("drop")).shape
    torch.Size([3])
    """

    def __init__(self, rng: RngArgument) -> None:
        checked = as_rng(rng)
        if checked is None:
            raise RandomnessError(
                "this call draws random numbers and rng is None. Pass rng=funcnet.random.key(0), or rng=0 for the "
                "draws of torch.manual_seed(0)."
            )
        self._rng = checked
        self._counts: dict[str, int] = {}

    def __call__(self, path: str) -> Rng:
        if isinstance(self._rng, Stream):
            return self._rng
        count = self._counts.get(path, 0)
        self._counts[path] = count + 1
        return rng_at_path(self._rng, path, count)
