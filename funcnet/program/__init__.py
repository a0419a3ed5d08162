"""A captured forward as a program: a net that runs plain ``F`` code, or a text that runs by itself.

trace     writes the forward of a module down as plain ``F`` code over params, and runs that.
source    writes a model as a program that runs by itself.

Both capture the forward once, write it down as statements, and hand out only text that was run beside the module and
gave its bits. What happens in between, and where:

* **capture**: ``_inputs`` (example inputs by their parts), ``_capture`` (torch's tracer and what it says), ``_writes``
  (which operations write in place to what belongs to the caller), ``_size_checks`` (what a call must fulfil);
* **statements**: ``_statements`` (the one representation), ``_record`` (a graph as statements), ``_expressions``
  (values and functions in them), ``_author_names`` (what the lines of the author's code call values);
* **passes**: ``_short_calls``, ``_simplify``, ``_masks``, ``_modes``, ``_folding``, ``_loops``, ``_inline``;
* **writing**: ``_writer`` (the lines of a function), ``_value_names`` (which value has which name), ``_text``
  (expressions as formatted text), ``_stateless`` and ``_stateful`` (whole modules), ``_imports``, ``_constructors``;
* **doors**: ``_traced`` and ``_build_traced``, ``_source`` and ``_build_source``, ``_comparison``.

Only ``_traced`` and ``_source`` are imported before the first use: torch's tracer costs seconds.
"""

from funcnet.program._source import source as source
from funcnet.program._traced import Traced as Traced
from funcnet.program._traced import trace as trace

__all__ = ["Traced", "source", "trace"]


def __dir__() -> list[str]:
    return [*__all__]
