"""Ready rules for well-known models and layers."""

from funcnet.checkpoint._ready._catalog import list_layouts as list_layouts
from funcnet.checkpoint._ready._catalog import ready_rules as ready_rules
from funcnet.checkpoint._ready._layer_rules import keras_rules as keras_rules
from funcnet.checkpoint._ready._layer_rules import parametrization_rules as parametrization_rules
