"""What a call of a model does besides computing its output, as the first thing of a report in the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from funcnet.compare import FoundEffect, NotPossible

MOST_OF_A_KIND = 8
UNSEEN = (
    "Seen in one call in each mode. Branches that did not run, what is computed from a number after item() has read "
    "it, threads and extensions in C cannot be seen so."
)


def effects_list(effects: tuple[FoundEffect, ...] | NotPossible) -> RenderableType:
    """The effects by kind: each with its line and what it does there, and below them what to write instead."""
    if isinstance(effects, NotPossible):
        return Text(f"What a call does besides computing its output could not be looked at: {effects.reason}.\n")
    if not effects:
        return Text(f"A call does nothing besides computing its output. {UNSEEN}\n")
    lines: list[RenderableType] = [Text("What a call does besides computing its output", "bold")]
    for kind, found in groupby(effects, lambda effect: effect.kind):
        group = list(found)
        lines.append(Text(f"  {kind}", "bold yellow"))
        lines.extend(Padding(_describe_effect(effect), (0, 0, 0, 4)) for effect in group[:MOST_OF_A_KIND])
        if len(group) > MOST_OF_A_KIND:
            lines.append(Text(f"    and in {len(group) - MOST_OF_A_KIND} more lines, all in --json"))
        lines.append(Padding(Text(f"instead: {group[0].instead}", "green"), (0, 0, 0, 4)))
    return Group(*lines, Text(f"{UNSEEN}\n", "dim"))


def _describe_effect(effect: FoundEffect) -> Text:
    paths = [path for path in effect.paths if path]
    parts = (
        f"in {', '.join(paths[:3])}{f' and {len(paths) - 3} more parts' if len(paths) > 3 else ''}: " if paths else ""
    )
    mode = "" if len(effect.modes) > 1 else f", in {effect.modes[0]} mode"
    more = f", and {len(effect.details) - 1} more such" if len(effect.details) > 1 else ""
    line = f"{effect.location}  {effect.code}\n  " if effect.location else ""
    return Text.assemble((line, "bold"), f"{parts}{effect.details[0]}{more}{mode}")
