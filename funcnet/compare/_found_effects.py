"""What a call of a model does besides computing its output, in both modes: one record for each line of its code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

import funcnet as fn
from funcnet._format import join_words
from funcnet.compare._errors import summarize_error
from funcnet.compare._results import FoundEffect, NotPossible
from funcnet.inspect import Effect

MODES = {"eval": False, "training": True}
WORDS_OF_KINDS = {
    "mutates input": "it writes to its input",
    "keeps state": "it keeps state between calls",
    "differs if repeated": "a second call gives something else",
    "reaches outside": "it reaches outside of its arguments",
    "changes setting": "it changes a setting of the process",
    "branches on data": "it branches on data",
    "reads outside tensor": "it reads a tensor that is no argument",
    "draws": "it draws random numbers",
    "writes buffer": "it writes to its buffers",
    "mixes examples": "it mixes the examples of a batch",
    "wrong kernel": "it calls a kernel that may be wrong",
}
"""The kinds of effects in the order in which readers need them: what no form of a model mends comes first."""
IMPURITIES = {
    "keeps state": "what it keeps outside of its buffers is no value that a call returns",
    "differs if repeated": "equal arguments do not give equal results",
    "reaches outside": "the result depends on more than the arguments",
    "reads outside tensor": "gradients, vmap and checkpoints pass that tensor by",
}
"""The kinds that every form has, because the net runs the code of the module, with what that means."""
TAKEN_CARE_OF = {
    "mutates input": "writes to a copy",
    "changes setting": "puts the setting back",
    "draws": "draws from rng",
    "writes buffer": "returns new buffers",
    "wrong kernel": "computes it rightly",
}
"""The kinds that a net has not, with what it does instead."""


def find_effects(
    module: nn.Module, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> tuple[FoundEffect, ...] | NotPossible:
    """What calls in both modes do besides computing their output, by kind and line; or why it cannot be seen.

    >>> import torch
    >>> found = find_effects(nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)), [torch.ones(4, 2)], {})
    >>> [(effect.kind, effect.paths, effect.modes) for effect in found]
    [('mutates input', ('1',), ('eval',)), ('draws', ('0',), ('training',))]
    """
    groups: dict[tuple[str, str], list[tuple[str, Effect]]] = {}
    for mode, train in MODES.items():
        try:
            report = fn.effects(module, *args, train=train, rng=0, **kwargs)
        except Exception as error:  # a forward may raise anything
            return NotPossible(f"in {mode} mode the call raised {summarize_error(error, 200)}")
        for effect in report:
            place = effect.location or effect.path
            groups.setdefault((effect.kind, place), []).append((mode, effect))
    order = list(WORDS_OF_KINDS)
    return tuple(
        _merge_effects(kind, entries)
        for (kind, _), entries in sorted(groups.items(), key=lambda group: order.index(group[0][0]))
    )


def _merge_effects(kind: str, entries: list[tuple[str, Effect]]) -> FoundEffect:
    first = entries[0][1]
    return FoundEffect(
        kind=kind,
        location=first.location,
        code=first.code,
        details=tuple(dict.fromkeys(effect.detail for _, effect in entries)),
        paths=tuple(dict.fromkeys(effect.path for _, effect in entries)),
        modes=tuple(dict.fromkeys(mode for mode, _ in entries)),
        instead=first.instead,
    )


def effects_of(effects: tuple[FoundEffect, ...] | NotPossible, *kinds: str) -> list[FoundEffect]:
    """The effects of these kinds; none if effects could not be looked for."""
    return [] if isinstance(effects, NotPossible) else [effect for effect in effects if effect.kind in kinds]


def describe_places(effects: Iterable[FoundEffect], most: int = 4) -> str:
    """Where effects are, as part of a sentence: the first places, and how many more there are."""
    places = list(dict.fromkeys(effect.place for effect in effects))
    shown = [*places[:most], *([f"{len(places) - most} more places"] if len(places) > most else [])]
    return join_words(shown)


def judge_effects(effects: tuple[FoundEffect, ...] | NotPossible, title: str) -> list[str]:
    """What follows from the effects for someone who chooses a form, as sentences; the most important one first."""
    if isinstance(effects, NotPossible):
        return [f"What else {title} does could not be looked at: {effects.reason}."]
    sentences = []
    impurities = [
        f"{WORDS_OF_KINDS[kind]} ({describe_places(found)}), so {meaning}"
        for kind, meaning in IMPURITIES.items()
        if (found := effects_of(effects, kind))
    ]
    if impurities:
        sentences.append(
            f"{title} is no function of its arguments yet, in any form: {'; '.join(impurities)}. Mend that first."
        )
    if branches := effects_of(effects, "branches on data"):
        sentences.append(
            f"It branches on data ({describe_places(branches)}), so vmap cannot run it in any form, and a trace or a "
            f"compiled graph cannot follow it: mend that before you transform it."
        )
    cared = [
        f"{WORDS_OF_KINDS[kind]} ({describe_places(found)}), where the net {action}"
        for kind, action in TAKEN_CARE_OF.items()
        if (found := effects_of(effects, kind))
    ]
    if cared:
        sentences.append(f"What the module does and its net does not: {'; '.join(cared)}.")
    if mixing := effects_of(effects, "mixes examples"):
        sentences.append(
            f"It mixes the examples of a batch ({describe_places(mixing)}): per-sample gradients and vmap over "
            f"examples give other numbers there than the batch."
        )
    return sentences


def needs_mending(effects: tuple[FoundEffect, ...] | NotPossible) -> bool:
    """Whether the model does something that stands in the way of transforms in its net too."""
    return bool(effects_of(effects, *IMPURITIES, "branches on data"))


def explain_failure(error_text: str, effects: tuple[FoundEffect, ...] | NotPossible, mode: str = "eval") -> str:
    """Why a transform failed: the lines that no transform can follow, if there are any, before the error itself."""
    causes = [effect for effect in effects_of(effects, "branches on data") if mode in effect.modes]
    if not causes:
        return error_text
    first = causes[0]
    return f"it branches on data at {describe_places(causes)} ({first.details[0]}). The error was {error_text}"
