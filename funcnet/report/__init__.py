"""A page about a laboratory: programs side by side, measurements with their spread, and what follows from them.

``page(study(comparison))`` is one HTML text that needs nothing else: no network, fonts, images or scripts of others.
"""

from funcnet.report._page import page as page
