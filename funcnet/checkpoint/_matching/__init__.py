"""Rules that nobody has to write: those of known conventions, and proposals for a person to look at.

``_layouts`` reads names and shapes on both sides, ``_families`` makes numbered names patterns, ``_name_similarity``
compares names, ``_candidates`` lists the ways in which tensors of one layout can become those of another,
``_assignment`` chooses among them, and ``_match`` writes the choice down as proposals.
"""

from funcnet.checkpoint._matching._flax_rules import flax_rules as flax_rules
from funcnet.checkpoint._matching._match import Match as Match
from funcnet.checkpoint._matching._match import Proposal as Proposal
from funcnet.checkpoint._matching._match import match as match
