"""Which requests of a trace the figures about routing are drawn from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace
from traces.format.reader import Trace

PROMPTS = 64  # that the paper samples of each set (§6.1)
SEED = 0


def sampled(trace: Trace, settings: Mapping[str, Any]) -> list[int]:
    """Up to `prompts` of the requests, drawn by `seed`, in the trace's order."""
    ids = trace.request_ids
    rng = np.random.default_rng(settings["seed"])
    chosen = rng.choice(len(ids), min(settings["prompts"], len(ids)), replace=False)
    return [ids[place] for place in sorted(chosen)]


def of_second_prompts(study: Study) -> Sequence[PaperTrace]:
    """The traces of all sets of prompts but the first."""
    first = study.of_first_prompts()
    return [trace for trace in study.traces if trace not in first]
