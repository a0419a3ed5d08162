"""A report about a laboratory: programs side by side, measurements with their spread, and what follows from them.

page    writes one HTML text, complete in itself: it loads nothing from a network, and no fonts, images or scripts.

For example, ``page(study(compare_module("torch.nn:Linear(3, 4)", ["float32[2,3]"])))``.
"""

from funcnet.report._page import page as page

__all__ = ["page"]


def __dir__() -> list[str]:
    return sorted(__all__)
