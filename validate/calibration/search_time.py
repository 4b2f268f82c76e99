"""Measure how long FineMoE's searches take on this machine, with the predictor's own code."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from policies.cache.setup_without_cache import setup_without_cache
from policies.systems.finemoe import ExpertMapPrefetcher
from policies.types import Batch, Gate, ModelShape, Prefetch, RecordedRequest, Search

_CAPACITIES = (16, 1000)
_REPEATS = 15
_ROWS = 64  # of a search that compares many queries at once
_LEAST_S = 1e-15  # per byte or operation, if noise hides it


@dataclass(frozen=True, slots=True)
class SearchTime:
    """A search takes the overhead plus the longer of reading the store and computing with it (`CostModel.search_s`)."""

    overhead_s: float
    bytes_per_s: float
    flops_per_s: float


def search_time(model: ModelShape) -> SearchTime:
    """Time searches and updates in small and large stores of random maps, and fit the formula to them."""
    rng = np.random.default_rng(0)
    points = [point for capacity in _CAPACITIES for point in _points(model, capacity, 1, rng)]
    slope, overhead_s = np.polyfit([size for size, _ in points], [seconds for _, seconds in points], 1)
    overhead_s = max(float(overhead_s), 0.0)
    size, seconds = _points(model, _CAPACITIES[-1], _ROWS, rng)[0]  # the semantic search
    operations = 2 * _ROWS * size / 4
    return SearchTime(
        overhead_s=overhead_s,
        bytes_per_s=1 / max(float(slope), _LEAST_S),
        flops_per_s=operations / max(seconds - overhead_s, operations * _LEAST_S),
    )


def _points(model: ModelShape, capacity: int, rows: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """(Bytes read from the store, seconds) of a semantic search, of trajectory searches and of an update."""
    history = _random_request(model, capacity, rng)
    prefetcher = ExpertMapPrefetcher(capacity=capacity, prefetch_distance=min(3, model.layers))
    prefetcher.start(setup_without_cache(model, rng, history=[history]))
    some = _random_request(model, rows, rng)
    assert some.embedding is not None
    batch = Batch(
        iteration=0,
        request=np.arange(rows),
        row=np.arange(rows),
        prefill=np.zeros(rows, bool),
        token=np.zeros(rows, np.int32),
        embedding=some.embedding.astype(np.float32),
    )
    maps = some.gate.astype(np.float32)
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, float] = {}

    def timed(layer_now: int, hook: Callable[..., Iterable[Prefetch | Search]], *given: object) -> None:
        begun_s = time.perf_counter()
        for action in hook(batch, *given):
            assert isinstance(action, Search)
            if action.kind != "update":
                list(prefetcher.on_found(batch, layer_now, action, prefetcher.search(action)))
            seconds.setdefault(action.kind, []).append(time.perf_counter() - begun_s)
            sizes[action.kind] = 4.0 * action.entries * action.dims

    gates = [Gate(layer, maps[:, layer], some.experts[:, layer]) for layer in range(model.layers)]
    for _ in range(_REPEATS):
        timed(-1, prefetcher.on_batch)
        for gate in gates:
            timed(gate.layer, prefetcher.on_gate, gate)
        timed(model.layers, prefetcher.on_batch_end, maps, some.experts)
    return [(sizes[kind], float(np.median(seconds[kind]))) for kind in sizes]


def _random_request(model: ModelShape, tokens: int, rng: np.random.Generator) -> RecordedRequest:
    gate = rng.random((tokens, model.layers, model.experts), np.float32)
    gate /= gate.sum(axis=2, keepdims=True)
    return RecordedRequest(
        request=0,
        source="random",
        iteration=np.arange(1, tokens + 1, dtype=np.int32),
        position=np.arange(tokens, dtype=np.int32),
        token=np.zeros(tokens, np.int32),
        gate=gate.astype(np.float16),
        experts=np.argsort(-gate, axis=2)[:, :, : model.top_k].astype(np.int16),
        embedding=rng.normal(size=(tokens, model.hidden)).astype(np.float16),
    )
