"""Models as source text: ``source`` writes a module or a net down as Python that runs by itself."""

from funcnet.emit._source import source as source
