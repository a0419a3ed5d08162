"""A forward of any nn.Module, captured once and written down as plain ``F.*`` code over params.

Reading order: ``_trace`` (the verb), ``_traced`` (the net it gives), ``_inputs`` (what a call may be made with),
``_capture`` (torch's tracer and what it says), ``_writes`` (in-place code as new values), ``_emit`` (the graph as
statements), ``_words`` (values as Python expressions), ``_source`` (the text of a function), ``_same`` (bits compared).
"""

from funcnet.adapters._tracing._trace import trace as trace
from funcnet.adapters._tracing._traced import Traced as Traced
