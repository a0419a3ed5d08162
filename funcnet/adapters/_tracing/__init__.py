"""A forward of any nn.Module, captured once and written down as plain ``F.*`` code over params.

Reading order: ``_traced`` (the net it gives), ``_code`` (what that holds), ``_steps`` (a trace from start to end),
``_inputs`` (example inputs taken apart), ``_capture`` (torch's tracer and what it says), ``_writes`` (what is written
in place), ``_emit`` (the graph as statements), ``_scope`` (names and lines), ``_calls`` and ``_words`` (calls and
values as text), ``_conditions`` (what must hold), ``_source`` (the text of a function), ``_same`` (the comparison with
the module). Only ``_traced`` and ``_code`` are imported before the first trace: torch's tracer costs seconds.
"""
