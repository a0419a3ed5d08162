"""Rules found from names and shapes: those of known conventions, and proposals for a person to look at.

``_families`` writes numbered names as patterns, ``_words`` says how alike two names are, ``_links`` lists the ways in
which tensors of one layout can be those of another, ``_assign`` chooses among them, ``_match`` puts it all together.
"""

from funcnet.checkpoint._matching._flax import flax_rules as flax_rules
from funcnet.checkpoint._matching._match import Match as Match
from funcnet.checkpoint._matching._match import Proposal as Proposal
from funcnet.checkpoint._matching._match import match as match
