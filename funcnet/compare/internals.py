"""Machinery of the comparison that other packages of funcnet use. It is not for users, and may change."""

from funcnet.compare._found_effects import judge_effects, needs_mending
from funcnet.compare._lab._forms import CALL, COMPILED, FORM_NAMES, MODULE, NATIVE, TRACED
from funcnet.compare._lab._vmap_curves import LOOP
from funcnet.compare._shorten_code import shorten_code
from funcnet.compare._target import call_target, import_target, parse_target

__all__ = [
    "CALL",
    "COMPILED",
    "FORM_NAMES",
    "LOOP",
    "MODULE",
    "NATIVE",
    "TRACED",
    "call_target",
    "import_target",
    "judge_effects",
    "needs_mending",
    "parse_target",
    "shorten_code",
]
