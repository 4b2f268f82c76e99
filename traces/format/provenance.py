"""Labels that tell in every table and figure what kind of trace it was made from.

Synthetic and fitted traces are labelled in capitals; the kinds are `schema.KINDS`. Traces unlike natural text get the
label REPETITIVE and a `warning` from `traces.analysis.naturalness`. Captured traces also state how the tokens of their
decode steps were chosen: `generation["mode"]` is `greedy`, `sampled` or `text`.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

_CAPITALS = {"synthetic": "SYNTHETIC", "fitted": "FITTED"}
_EXPLAINED = {
    "synthetic": "SYNTHETIC: generated, not recorded",
    "fitted": "FITTED: recorded rows, recombined to other lengths",
}
_TOKENS = {
    "greedy": "generated greedily",
    "sampled": "sampled at temperature {temperature}",
    "text": "the texts' own; nothing was generated",
}
_REPETITIVE = "REPETITIVE"


def label(kind: str, warning: str | None = None) -> str:
    """`captured`, `imported`, `SYNTHETIC` or `FITTED`, followed by `REPETITIVE` if there is a warning."""
    return ", ".join([_CAPITALS.get(kind, kind), *[_REPETITIVE] * bool(warning)])


def explained(kind: str) -> str:
    """The label of a kind; for synthetic and fitted traces with an explanation."""
    return _EXPLAINED.get(kind, kind)


def tokens(generation: Mapping[str, Any]) -> str | None:
    """How the tokens of the decode steps were chosen; None if the trace does not state it."""
    text = _TOKENS.get(generation.get("mode", ""))
    return text and text.format_map(generation)


def routing(kind: str, model: str, warning: str | None = None) -> str:
    """Description of the routing: the trace's label and its model."""
    return f"{label(kind, warning)} routing " + ("in the shape of " if kind == "synthetic" else "of ") + model


def caution(warning: str | None, *, name: str | None = None, width: int = 100) -> list[str]:
    """Lines for below the heading of a table or figure that explain the warning; no lines without one.

    Lines have at most `width` characters; `name` is the trace's name, where several are shown.
    """
    if not warning:
        return []
    effect = "policies that learn look better than they would on real text"
    text = f"{_REPETITIVE}{f' {name}' if name else ''}: {warning}; {effect}"
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
