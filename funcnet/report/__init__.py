"""Writes a page about a laboratory: programs side by side, measurements with their spread, and what follows from them.

``page(study(comparison))`` returns one HTML text that is complete in itself: it loads nothing from a network, and no
fonts, images or scripts of others.
"""

from funcnet.report._page import page

__all__ = ["page"]
