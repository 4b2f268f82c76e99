"""Keeps the decoded rows of traces, so that each trace is decoded once."""

from sim.artefacts import Artefacts
from traces.format.reader import Trace

LARGEST_BYTES = 2_000_000_000  # larger traces are streamed, because keeping one needs all its rows in memory once


def with_decoded(trace: Trace, artefacts: Artefacts) -> Trace:
    """The same trace, read from kept arrays if it is small enough and artefacts are kept."""
    if not artefacts.kept or trace.decoded_bytes > LARGEST_BYTES:
        return trace
    key = artefacts.key("routing", {"trace": trace.digest})
    return trace.with_decoded(artefacts.made("routing", key, trace.decoded))
