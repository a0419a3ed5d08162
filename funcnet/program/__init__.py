"""A captured forward as a program: a net that runs plain ``F`` code, or a text that runs by itself.

trace     writes the forward of a module down as plain ``F`` code over params, and runs that.
source    writes a model as a program that runs by itself.

Both capture the forward once, write it down as statements, and hand out only text that was run beside the module and
gave its bits. What happens in between, and where:

* **capture**: ``_inputs`` (example inputs by their parts), ``_capture`` (torch's tracer and what it says), ``_writes``
  (which operations write in place to what belongs to the caller), ``_size_checks`` (what a call must fulfil);
* **statements**: ``_statements`` (the one representation), ``_record`` (a graph as statements), ``_vocabulary`` (what
  functions, classes and values are called in them), ``_expressions`` (small expressions, and shorter calls);
* **passes**: ``_simplify``, ``_modes``, ``_folding``, ``_loops``;
* **writing**: ``_writer`` (the lines of a function), ``_value_names`` (which value has which name), ``_text``
  (expressions as formatted text), ``_stateless`` and ``_stateful`` (whole texts), ``_constructors``;
* **doors**: ``_traced``, ``_source``, and for both ``_build`` (from start to end) and ``_comparison``.

Only ``_traced`` and ``_source`` are imported before the first use: torch's tracer costs seconds.
"""

from funcnet.program._source import source as source
from funcnet.program._traced import Traced as Traced
from funcnet.program._traced import trace as trace

__all__ = ["Traced", "source", "trace"]


def __dir__() -> list[str]:
    return [*__all__]
