"""Inspect a net or module before using it.

summary    shows paths, types, output shapes, parameters and bytes of a net or module.
effects    runs copies and lists what a call does besides computing its output.
"""

from funcnet.inspect._effect_report import Effect as Effect
from funcnet.inspect._effect_report import Effects as Effects
from funcnet.inspect._effects import effects as effects
from funcnet.inspect._summary import Summary as Summary
from funcnet.inspect._summary import SummaryRow as SummaryRow
from funcnet.inspect._summary import summary as summary

__all__ = ["Effect", "Effects", "Summary", "SummaryRow", "effects", "summary"]


def __dir__() -> list[str]:
    return [*__all__]
