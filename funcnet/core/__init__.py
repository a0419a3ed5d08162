"""The idea itself: a net is a value, a view is one call's look at it.

``Net`` is an immutable record of hyperparameters and named parts with a body ``forward(p, *inputs)``. It holds no
tensor and has no mode. ``View`` is the ``p`` of one call: the params, buffers, mode and rng at the body's path. A body
may equally be handed an ``nn.Module`` with the same names: that is how one body runs both ways.

The functions:

* :func:`compose`: a net from named parts and the function below it;
* :func:`supports`: whether a net works under a transform;
* :func:`as_net`: a net, or a plain function as one;
* :func:`draw_source`: the rng of the next draw at the path of a view.

Reading order: ``_entries`` (what a net declares), ``_net`` (the record and its verbs), ``_init_context`` (first
values), ``_draw_source``, ``_view``, ``_view_classes`` and ``_buffer_recording`` (what a body sees, what its draws come
from, and how it assigns a new buffer), ``_call`` (one call from start to end), ``_check`` (trees against declarations),
``_body_errors`` (an error of a body gets its path), ``_traits`` and ``_facts`` (what is known of a body before it
runs), ``_global_draws`` (how draws are contained), ``_limits`` (which transforms a net supports), ``_ties`` and
``_edits``, ``_lazy`` (shapes from inputs), ``_compose`` (nets from functions) and ``_module_body`` (the same body as an
``nn.Module``).
"""

from funcnet.core._compose import Composed as Composed
from funcnet.core._compose import compose as compose
from funcnet.core._draw_source import draw_source as draw_source
from funcnet.core._entries import Buffer as Buffer
from funcnet.core._entries import Entry as Entry
from funcnet.core._entries import Param as Param
from funcnet.core._function import Function as Function
from funcnet.core._function import as_net as as_net
from funcnet.core._init_context import InitContext as InitContext
from funcnet.core._lazy import Lazy as Lazy
from funcnet.core._limits import TRANSFORMS as TRANSFORMS
from funcnet.core._limits import supports as supports
from funcnet.core._module_body import Body as Body
from funcnet.core._module_body import FunctionModule as FunctionModule
from funcnet.core._net import Net as Net
from funcnet.core._view import View as View

__all__ = [
    # nets
    "Net",
    "Composed",
    "Function",
    "Lazy",
    "compose",
    "as_net",
    # what they declare, and what a call sees of it
    "Param",
    "Buffer",
    "Entry",
    "View",
    "draw_source",
    # first values
    "InitContext",
    # transforms
    "TRANSFORMS",
    "supports",
    # their modules
    "Body",
    "FunctionModule",
]


def __dir__() -> list[str]:
    return [*__all__]
