"""A captured forward as a program: a net that runs plain ``F`` code, or a text that runs by itself.

trace     writes the forward of a module as plain ``F`` code over params, and runs that code.
source    writes a model as a program that runs by itself.

Both capture the forward once, write it as statements, and return the text only after running it and getting the same
bits as the module. The steps and their files:

* **capture**: ``_inputs`` (example inputs by their parts), ``_capture`` (torch's tracer and its results),
  ``_known_numbers`` (numbers that a branch may look at), ``_code_lines`` (where an operation comes from),
  ``_inplace_writes`` (operations that write to tensors of the caller), ``_size_checks`` and ``_assumptions`` (what a
  call must fulfil);
* **statements**: ``_statements`` (the one representation), ``_graph_to_statements``, ``_vocabulary`` (names of
  functions, classes and values), ``_expressions`` (small expressions, and shorter calls);
* **passes**: ``_simplify``, ``_modes``, ``_folding``, ``_loops``;
* **writing**: ``_writer`` (the lines of a function), ``_value_names`` (the name of each value), ``_text``
  (expressions as formatted text), ``_stateless`` and ``_stateful`` (whole texts), ``_constructors``;
* **public functions**: ``_traced``, ``_source``, and for both ``_build`` (from start to end) and ``_comparison``.

Only ``_traced`` and ``_source`` are imported before the first use: torch's tracer costs seconds.
"""

from funcnet.program._source import source as source
from funcnet.program._traced import Traced as Traced
from funcnet.program._traced import trace as trace

__all__ = ["Traced", "source", "trace"]


def __dir__() -> list[str]:
    return [*__all__]
