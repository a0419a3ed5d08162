"""The one table of cases: a module, its net and an input in each row; every promise is tested on every row."""

from tests.cases.attention import ATTENTION
from tests.cases.basic import BASIC
from tests.cases.models import MODEL_CASES

LAYER_CASES = [*BASIC, *ATTENTION]
CASES = [*LAYER_CASES, *MODEL_CASES]
