"""How every table and picture says what kind of trace it was made from: one place decides, so that none forgets.

Synthetic and fitted traces are labelled in capitals; the kinds are `schema.KINDS`. So are traces unlike text: where a
`warning` is given, `traces.analysis.naturalness` has found in what they are. A captured trace also says where the
tokens of its decode steps come from: `generation["mode"]` is `greedy`, `sampled` or `text`.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

_CAPITALS = {"synthetic": "SYNTHETIC", "fitted": "FITTED"}
_EXPLAINED = {
    "synthetic": "SYNTHETIC: drawn, not recorded",
    "fitted": "FITTED: recorded rows, put together anew at other lengths",
}
_TOKENS = {
    "greedy": "generated greedily: always the likeliest",
    "sampled": "sampled at temperature {temperature}",
    "text": "the texts' own; nothing was generated",
}
_REPETITIVE = "REPETITIVE"


def label(kind: str, warning: str | None = None) -> str:
    """One word: `captured`, `imported`, `SYNTHETIC` or `FITTED`; a second one if there is a warning."""
    return ", ".join([_CAPITALS.get(kind, kind), *[_REPETITIVE] * bool(warning)])


def explained(kind: str) -> str:
    """The word, and what it means where that matters."""
    return _EXPLAINED.get(kind, kind)


def tokens(generation: Mapping[str, Any]) -> str | None:
    """Where the tokens of the decode steps come from; None if the trace does not say."""
    said = _TOKENS.get(generation.get("mode", ""))
    return said and said.format_map(generation)


def routing(kind: str, model: str, warning: str | None = None) -> str:
    """Whose routing it is."""
    return f"{label(kind, warning)} routing " + ("in the shape of " if kind == "synthetic" else "of ") + model


def caution(warning: str | None, *, name: str | None = None, width: int = 100) -> list[str]:
    """Lines below the heading of a table or picture: in what the trace of that name is unlike text; none if it is not.

    No line has more than `width` characters.
    """
    if not warning:
        return []
    said = f"{_REPETITIVE}{f' {name}' if name else ''}: {warning}; policies that learn look better on it than on text"
    return textwrap.wrap(said, width, break_long_words=False, break_on_hyphens=False)
