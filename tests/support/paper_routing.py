"""A small recording for the figures that are drawn from routing alone."""

from pathlib import Path
from typing import Any

from tests.support.trace_helpers import random_request, small_meta, small_shape, write_trace
from traces.format.reader import Trace

SETTINGS: dict[str, Any] = {"prompts": 6, "seed": 0, "steps": 4, "tested": 20, "train_split": 0.7}


def routing_trace(folder: Path) -> Trace:
    """Ten requests of 24 iterations on six layers."""
    meta = small_meta(shape=small_shape(layers=6))
    requests = [random_request(number, meta, output=24) for number in range(10)]
    return Trace.open(write_trace(folder / "small.trace", meta, [requests]))
