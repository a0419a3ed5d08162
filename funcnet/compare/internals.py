"""Machinery of the comparison that other rooms of funcnet use. It is not for users, and may change."""

from funcnet.compare._shorten_code import shorten_code
from funcnet.compare._target import call_target, import_target, parse_target

__all__ = ["call_target", "import_target", "parse_target", "shorten_code"]
