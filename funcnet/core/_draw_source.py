"""Where the next draw of a net comes from: from a Key by the path of the net, or from the sequence of an int seed.

Layers call :func:`draw_source` with their view. A foreign module's dropout gets its ``rng`` here too, by the path of
the submodule that draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from funcnet._errors import RandomnessError
from funcnet.core._view_root import Call, describe_view
from funcnet.random import Rng, Stream
from funcnet.random.internals import rng_at_path
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._view import View

PASS_RNG = "Pass rng=funcnet.random.key(0), or rng=0 for the draws of torch.manual_seed(0)."


def draw_source(view: View, subpath: str = "") -> Rng:
    """The ``rng`` of the next draw at the path of a view, or at a path under it.

    Raises:
        RandomnessError: if the call has no ``rng``, or is over.
    """
    up, path = view._up, view._name
    if subpath:
        path = join(path, subpath)
    while type(up) is not Call:
        name = up._name
        path, up = f"{name}.{path}" if name else path, up._up
    rng = up.rng
    if rng is None:
        raise RandomnessError(f"{describe_view(view)} draws random numbers and rng is None. {PASS_RNG}")
    if up.closed:
        raise RandomnessError(
            f"{describe_view(view)} draws after its call has ended, as when torch.utils.checkpoint runs a part again: "
            f"the draws would differ from the first run. Checkpoint a function of (params, x, key) that calls the net."
        )
    if type(rng) is Stream:
        return rng
    counts = up.counts
    count = counts.get(path, 0)
    counts[path] = count + 1
    return rng_at_path(rng, path, count)
