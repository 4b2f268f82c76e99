"""The requests of a trace that figures about routing sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from traces.format.reader import Trace

PROMPTS = 64  # the paper samples as many of each set (§6.1)
SEED = 0


def sampled(trace: Trace, settings: Mapping[str, Any]) -> list[int]:
    """Up to `prompts` requests, drawn with `seed`, in the trace's order."""
    ids = trace.request_ids
    rng = np.random.default_rng(settings["seed"])
    chosen = rng.choice(len(ids), min(settings["prompts"], len(ids)), replace=False)
    return [ids[place] for place in sorted(chosen)]
