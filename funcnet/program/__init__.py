"""Models as programs: ``trace`` captures a forward as a net of ``F.*`` code, ``source`` as text that runs alone."""

from funcnet.program._source_source import source as source
from funcnet.program._trace import trace as trace
from funcnet.program._traced import Traced as Traced
