"""One model in two forms, stateful and stateless: what is the same, and what each form costs.

compare_articles   trains small models in both forms on real data.
compare_module     compares any importable module with its net, without training.
study              measures every form that the models of a comparison can take, and tries what each form can do.
built_target       builds a module and its inputs from their descriptions as text.
to_json            turns a result into dicts, lists, numbers and strings.

Results are records of plain values, which ``funcnet.cli`` and ``funcnet.report`` show. Differences are computed from
the tensors of two runs that share nothing but their inputs. ``CompareError`` says what could not be compared.
"""

from funcnet.compare._built_target import built_target as built_target
from funcnet.compare._compare_articles import compare_articles as compare_articles
from funcnet.compare._compare_module import compare_module as compare_module
from funcnet.compare._errors import CompareError as CompareError
from funcnet.compare._lab._records import Capability as Capability
from funcnet.compare._lab._records import Curve as Curve
from funcnet.compare._lab._records import Laboratory as Laboratory
from funcnet.compare._lab._records import Listing as Listing
from funcnet.compare._lab._records import Outcome as Outcome
from funcnet.compare._lab._records import Spread as Spread
from funcnet.compare._lab._records import Study as Study
from funcnet.compare._lab._records import TensorEntry as TensorEntry
from funcnet.compare._lab._study import study as study
from funcnet.compare._results import Articles as Articles
from funcnet.compare._results import Compared as Compared
from funcnet.compare._results import FoundEffect as FoundEffect
from funcnet.compare._results import GradientCheck as GradientCheck
from funcnet.compare._results import MissingMode as MissingMode
from funcnet.compare._results import NotPossible as NotPossible
from funcnet.compare._results import PerSample as PerSample
from funcnet.compare._results import Programs as Programs
from funcnet.compare._results import Sides as Sides
from funcnet.compare._results import Trained as Trained
from funcnet.compare._results import Untrained as Untrained
from funcnet.compare._results import to_json as to_json
from funcnet.compare._time_limit import TIME_LIMIT as TIME_LIMIT

Entry = TensorEntry  # the earlier name of the class

__all__ = [
    "TIME_LIMIT",
    "Articles",
    "Capability",
    "CompareError",
    "Compared",
    "Curve",
    "Entry",
    "FoundEffect",
    "GradientCheck",
    "Laboratory",
    "Listing",
    "MissingMode",
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


def __dir__() -> list[str]:
    return sorted(__all__)
