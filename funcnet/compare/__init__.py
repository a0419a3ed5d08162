"""Compares one model in two forms, stateful and stateless: what is the same, and what each form costs.

- ``compare_articles`` trains small models in both forms on real data.
- ``compare_module`` compares any importable module with its net, without training.
- ``study`` takes the result of either, measures every form that the models can take, and tries what each can do.
- ``built_target`` builds a module and its inputs from their descriptions as text.
- ``to_json`` turns a result into dicts, lists, numbers and strings.

Results are records of plain values, which ``funcnet.cli`` and ``funcnet.report`` show. Differences are computed from
the tensors of two runs that share nothing but their inputs. ``CompareError`` says what could not be compared.
"""

from funcnet.compare._built_target import built_target
from funcnet.compare._compare_articles import compare_articles
from funcnet.compare._compare_module import compare_module
from funcnet.compare._errors import CompareError
from funcnet.compare._lab._records import Capability, Curve, Laboratory, Listing, Outcome, Spread, Study
from funcnet.compare._lab._records import TensorEntry as TensorEntry
from funcnet.compare._lab._study import study
from funcnet.compare._results import (
    Articles,
    Compared,
    NotPossible,
    PerSample,
    Programs,
    Sides,
    Trained,
    Untrained,
    to_json,
)

Entry = TensorEntry  # the name that it had first

__all__ = [
    "Articles",
    "Capability",
    "CompareError",
    "Compared",
    "Curve",
    "Entry",
    "Laboratory",
    "Listing",
    "NotPossible",
    "Outcome",
    "PerSample",
    "Programs",
    "Sides",
    "Spread",
    "Study",
    "TensorEntry",
    "Trained",
    "Untrained",
    "built_target",
    "compare_articles",
    "compare_module",
    "study",
    "to_json",
]
