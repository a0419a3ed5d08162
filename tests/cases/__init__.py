"""The one table of cases: a module, its net and an input in each row; every promise is tested on every row."""

from tests.cases.basic import BASIC
from tests.cases.models import MODEL_CASES
from tests.cases.parametrized import PARAMETRIZED, PARAMETRIZED_MODELS

LAYER_CASES = [*BASIC, *PARAMETRIZED]
CASES = [*LAYER_CASES, *MODEL_CASES, *PARAMETRIZED_MODELS]
