"""Similarity of the nearest stored expert map over the number of stored maps, for the theory of paper §4.4."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from common.threads import one_thread
from policies.prediction.expert_map_store import ExpertMapStore
from traces.analysis.iterations import iterations_of
from traces.analysis.similarity import Sample, Sampler, coverage, draw, theory
from traces.format.reader import Trace, split

RANDOM_SAMPLE, REPLACEMENT = "random sample", "replacement (eq. 9)"
REPLACED_AT = 0.75  # replacement is tested for this promise only, since it takes longest
_COLUMNS = (
    "store",
    "asked_maps",
    "maps",
    "theory",
    "similarity_mean",
    "similarity_p50",
    "similarity_p05",
    "share_at_least_0.75",
    "share_at_least_0.98",
    "test_iterations",
)


def nearest_of_stored(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """A row per number of stored maps, as in `traces.analysis.similarity.coverage`; no row without test requests."""
    promised = theory(trace.shape.layers, trace.shape.experts)
    history, tested = split(trace.request_ids, settings["train_split"], np.random.default_rng(settings["seed"]))
    rng = np.random.default_rng([settings["seed"], 1])
    stored = _sample(trace, history, max(*promised.values(), 2 * promised[REPLACED_AT]), rng)
    test = _sample(trace, tested, settings["tested"], rng)
    if stored is None or test is None:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in _COLUMNS})
    with one_thread():
        found = coverage(test, stored, promised).assign(store=RANDOM_SAMPLE)
        size = promised[REPLACED_AT]
        if len(stored) >= 2 * size:
            kept = _after_replacement(stored.first(2 * size), size)
            row = coverage(test, kept, {REPLACED_AT: size}).iloc[-1:].assign(store=REPLACEMENT)
            found = pd.concat([found, row], ignore_index=True)
    return found[list(_COLUMNS)]


def _after_replacement(sample: Sample, capacity: int) -> Sample:
    """The maps that a store of this capacity keeps, by trajectory alone, after all were added."""
    layers, experts = sample.maps.shape[1:]
    store = ExpertMapStore(layers, experts, capacity=capacity, prefetch_distance=1)
    for first in range(0, len(sample), 32):
        store.add(sample.maps[first : first + 32], None)
    return replace(sample.first(capacity), maps=store.arrays()["maps"])


def _sample(trace: Trace, requests: Sequence[int], count: int, rng: np.random.Generator) -> Sample | None:
    """Up to `count` decode steps of the requests, in random order; None if there are none."""
    lengths = {request: trace.infos[request].output_tokens for request in requests}
    picks = draw(lengths, count, rng, skip=int(trace.meta.prefill))
    sampler = Sampler(picks)
    for request in picks:
        sampler.add(iterations_of(trace.read(request), trace.meta.prefill))
    return sampler.sample(rng)
