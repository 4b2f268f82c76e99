"""How every table and picture says what kind of trace it was made from: one place decides, so that none forgets.

Synthetic and fitted traces are labelled in capitals; the kinds are `schema.KINDS`. A captured trace also says where the
tokens of its decode steps come from: `generation["mode"]` is `greedy`, `sampled` or `text`.
"""

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


def label(kind: str) -> str:
    """One word: `captured`, `imported`, `SYNTHETIC` or `FITTED`."""
    return _CAPITALS.get(kind, kind)


def explained(kind: str) -> str:
    """The word, and what it means where that matters."""
    return _EXPLAINED.get(kind, kind)


def tokens(generation: Mapping[str, Any]) -> str | None:
    """Where the tokens of the decode steps come from; None if the trace does not say."""
    said = _TOKENS.get(generation.get("mode", ""))
    return said and said.format_map(generation)


def routing(kind: str, model: str) -> str:
    """Whose routing it is."""
    return f"{label(kind)} routing " + ("in the shape of " if kind == "synthetic" else "of ") + model
