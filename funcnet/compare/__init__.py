"""One model, stateful and stateless, side by side: what is the same, and what it costs.

``compare_articles`` trains small models both ways on real data; ``compare_module`` takes any importable module. Both
return records of plain values, which ``to_json`` writes out and ``funcnet.cli`` draws. Differences are computed from
the tensors of two runs that share nothing but their inputs. ``study`` goes further with what was compared: it measures
every form a model can take, and tries what each can do.
"""

from funcnet.compare._built_target import built_target as built_target
from funcnet.compare._compare_articles import compare_articles as compare_articles
from funcnet.compare._compare_module import compare_module as compare_module
from funcnet.compare._errors import CompareError as CompareError
from funcnet.compare._lab._records import Capability as Capability
from funcnet.compare._lab._records import Curve as Curve
from funcnet.compare._lab._records import Entry as Entry
from funcnet.compare._lab._records import Laboratory as Laboratory
from funcnet.compare._lab._records import Listing as Listing
from funcnet.compare._lab._records import Outcome as Outcome
from funcnet.compare._lab._records import Spread as Spread
from funcnet.compare._lab._records import Study as Study
from funcnet.compare._lab._study import study as study
from funcnet.compare._results import Articles as Articles
from funcnet.compare._results import Compared as Compared
from funcnet.compare._results import NotPossible as NotPossible
from funcnet.compare._results import PerSample as PerSample
from funcnet.compare._results import Programs as Programs
from funcnet.compare._results import Sides as Sides
from funcnet.compare._results import Trained as Trained
from funcnet.compare._results import Untrained as Untrained
from funcnet.compare._results import to_json as to_json
