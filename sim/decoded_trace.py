"""Traces whose rows are decoded once and kept."""

from sim.artefacts import Artefacts
from traces.format.reader import Trace

LARGEST_BYTES = 2_000_000_000  # of the rows of a trace, which must be in memory once to be kept; larger ones stream


def with_decoded(trace: Trace, artefacts: Artefacts) -> Trace:
    """The same trace, read from kept arrays if it is small enough and there is a place to keep them."""
    if not artefacts.kept or trace.decoded_bytes > LARGEST_BYTES:
        return trace
    key = artefacts.key("routing", {"trace": trace.digest})
    return trace.with_decoded(artefacts.made("routing", key, trace.decoded))
