"""How every table and picture says what kind of trace it was made from: one place decides, so that none forgets.

Synthetic and fitted traces are labelled in capitals; the kinds are `schema.KINDS`.
"""

_CAPITALS = {"synthetic": "SYNTHETIC", "fitted": "FITTED"}
_EXPLAINED = {
    "synthetic": "SYNTHETIC: drawn, not recorded",
    "fitted": "FITTED: recorded rows, put together anew at other lengths",
}


def label(kind: str) -> str:
    """One word: `captured`, `imported`, `SYNTHETIC` or `FITTED`."""
    return _CAPITALS.get(kind, kind)


def explained(kind: str) -> str:
    """The word, and what it means where that matters."""
    return _EXPLAINED.get(kind, kind)


def routing(kind: str, model: str) -> str:
    """Whose routing it is."""
    return f"{label(kind)} routing " + ("in the shape of " if kind == "synthetic" else "of ") + model
