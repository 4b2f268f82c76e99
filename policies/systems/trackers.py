"""Trackers of figure 14a: other ways to choose what to prefetch, asynchronous, with FineMoE's distance and cache.

| name | what it prefetches by |
|---|---|
| `hit-count` | counts of the whole request: its own so far and those of the nearest past request |
| `speculate` | the later layer's router on this layer's hidden state, if the trace has that; else a learned map |
| `map-t` | trajectory search only, top-K of the map found |
| `map-ts` | trajectory and semantic search, top-K of the map found |
| `map-ts-delta` | the same with the threshold δ: FineMoE |
"""

from policies.base import Policy
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.prediction.speculation import Speculator
from policies.systems.finemoe import finemoe
from policies.systems.moe_infinity import ActivationMatrixPrefetcher


def hit_count(prefetch_distance: int = 3, capacity: int = 1000) -> Policy:
    """Predict by counts of the request and of the most similar past one, with FineMoE's distance and cache."""
    prefetcher = ActivationMatrixPrefetcher(
        prefetch_distance=prefetch_distance, capacity=capacity, own_counts=True, every_layer_ahead=False
    )
    return Policy(prefetcher=prefetcher, evictor=BeliefAndFrequency())


def speculate(
    prefetch_distance: int = 3, lookahead: bool = True, regularisation: float = 1.0, train_tokens: int = 20_000
) -> Policy:
    """Predict the layer at FineMoE's distance by lookahead gates or learned maps, with FineMoE's cache."""
    prefetcher = Speculator(
        stride=prefetch_distance, lookahead=lookahead, regularisation=regularisation, train_tokens=train_tokens
    )
    return Policy(prefetcher=prefetcher, evictor=BeliefAndFrequency())


def map_t(prefetch_distance: int = 3, capacity: int = 1000, learn: bool = True) -> Policy:
    """FineMoE with trajectory search only and without δ: it predicts nothing for the first layers."""
    return finemoe(prefetch_distance, capacity, learn, semantic=False, threshold="top-k")


def map_ts(prefetch_distance: int = 3, capacity: int = 1000, learn: bool = True) -> Policy:
    """FineMoE without δ: exactly K experts of each map found."""
    return finemoe(prefetch_distance, capacity, learn, threshold="top-k")


def map_ts_delta(prefetch_distance: int = 3, capacity: int = 1000, learn: bool = True) -> Policy:
    """FineMoE with its default settings: trajectory and semantic search with δ."""
    return finemoe(prefetch_distance, capacity, learn)
