"""The table of layers and transforms that users read, rendered from what the layers of all cases declare."""

from __future__ import annotations

from pathlib import Path

import funcnet as fn
from funcnet.core import TRANSFORMS
from tests.cases import COMPOSED_CASES, LAYER_CASES

FILE = Path(fn.__file__).parent / "layers" / "TRANSFORMS.md"

HEAD = """# Layers and transforms

What each layer of funcnet can be put through, in eval and in training mode. Every cell is run by the tests
(`tests/test_transforms.py`) on every case of the layer; `fn.supports(net, "vmap", train=True)` answers from the same
declarations, for any net. A cell without a tick has a note: calling the layer under that transform raises
`TransformError` with the path of the layer and the same words.

"""


def rendered() -> str:
    """The text of the file."""
    nets: dict[str, list[fn.Net]] = {}
    for case in [*LAYER_CASES, *COMPOSED_CASES]:
        net = case.net()
        nets.setdefault(type(net).__name__, []).append(net)
    notes: list[str] = []
    lines = [f"| Layer | {' | '.join(TRANSFORMS)} |", f"| --- | {' | '.join(':-:' for _ in TRANSFORMS)} |"]
    lines += [
        f"| {name} | {' | '.join(_cell(nets[name], transform, notes) for transform in TRANSFORMS)} |"
        for name in sorted(nets)
    ]
    what = "\n".join(f"- **{name}**: {words}." for name, words in TRANSFORMS.items())
    told = "\n".join(f"{number}. {note}." for number, note in enumerate(notes, 1))
    return f"{HEAD}{what}\n\n" + "\n".join(lines) + (f"\n\n{told}\n" if told else "\n")


def _cell(nets: list[fn.Net], transform: str, notes: list[str]) -> str:
    """A tick, or the numbers of the notes that say when not and what to do."""
    found = []
    for net in nets:
        modes = {train: below.limits(train) for train in (False, True) for _, below in net.named_nets()}
        for train, limits in modes.items():
            if transform in limits:
                only = " (training only)" if train and transform not in modes[False] else ""
                found.append(limits[transform] + only)
    if not found:
        return "✓"
    for note in dict.fromkeys(found):
        if note not in notes:
            notes.append(note)
    always = all(not fn.supports(net, transform, train=False) for net in nets)
    numbers = ", ".join(str(notes.index(note) + 1) for note in dict.fromkeys(found))
    return f"[{numbers}]" if always else f"✓ [{numbers}]"
