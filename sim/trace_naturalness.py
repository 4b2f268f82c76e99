"""Measures how natural a trace is, and keeps the answer."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.hashing import canonical_json
from sim.artefacts import NOTHING_KEPT, Artefacts
from traces.analysis.naturalness import naturalness_of
from traces.format.reader import Trace

FIGURES = ("distinct_tokens", "repeated_4grams", "repeated_rows", "nearest_map_recall")


def naturalness(trace: Trace, artefacts: Artefacts = NOTHING_KEPT) -> dict[str, Any]:
    """The naturalness of a trace (`traces.analysis.naturalness`), as plain data."""

    def measured() -> dict[str, Any]:
        return {"json": np.frombuffer(canonical_json(naturalness_of(trace).to_data()), np.uint8)}

    kept = artefacts.made("naturalness", artefacts.key("naturalness", {"trace": trace.digest}), measured)
    found: dict[str, Any] = json.loads(kept["json"].tobytes())
    return found


def trace_columns(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that describe a row's trace, its kind and naturalness, from the `trace` facts of a result."""
    decode = trace["naturalness"]["decode"]
    figures = {f"trace_{name}": decode[name] for name in FIGURES}
    return {"trace_kind": trace["kind"], "trace_warning": trace["warning"], **figures}


def history_columns(history: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns that describe a separate history trace; none without one."""
    return {"history_trace": history["name"], "history_warning": history["warning"]} if history else {}
