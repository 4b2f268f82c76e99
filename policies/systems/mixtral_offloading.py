"""Mixtral-Offloading: the next layer's router, applied one layer early (baseline of paper §6.1).

Source: Eliseev, Mazur, "Fast Inference of Mixture-of-Experts Language Models with Offloading", arXiv 2312.17238. While
a layer runs, the next layer's router is applied to the hidden state that this one began with; its top-k experts are
copied, and the least recently used go.

There are two systems of that name, and both are here:

    what                 `mixtral-offloading`: as papers compare it     `mixtral-offloading-released`: as published
    ----                 ------------------------------------------     -------------------------------------------
    prefetches           the next layer's experts, in the way of        nothing: speculation is announced, but is not in
                         inference: the early router holds up the       the code
                         experts of its layer, and the next layer
                         starts when what was predicted is there
    cache                one LRU cache for all layers                   an LRU cache of the same size for each layer

How ours differs from both: the published code quantises experts; ours copies them as they are. It fills its cache
before the first token and has a few slots more, through which experts pass while they are exchanged; ours begins empty.
A layer of a prefill that needs more experts than its share borrows slots of others (`lru-by-layer`); a strict share hit
up to 1.2 points more (demo, one GPU, 24 slots). Layer 0 has no layer before it and is copied on demand.
"""

from collections.abc import Iterable

from typing_extensions import override

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.evictors.recency_by_layer import LeastRecentlyUsedByLayer
from policies.prediction.speculation import Speculator
from policies.types import Batch, ChunkBytes, Gate, Prefetch, Search


class NextLayerRouter(Speculator):
    """Prefetch the top-k of what the next layer's router says to this layer's hidden state."""

    requires = frozenset({"lookahead_1"})

    def __init__(self) -> None:
        super().__init__(stride=1, learned=False)

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        """Apply the next layer's router."""
        if 1 not in gate.lookahead:
            raise UserError("mixtral-offloading needs a column lookahead_1, which the trace does not have")
        return super().on_gate(batch, gate)


def mixtral_offloading(chunk_bytes: ChunkBytes | None = None) -> Policy:
    """The next layer's router applied early, synchronous prefetch, LRU: as papers compare it."""
    return Policy(
        prefetcher=NextLayerRouter(),
        evictor=LeastRecentlyUsed(),
        blocking_prediction=True,
        blocking_prefetch=True,
        chunk_bytes=chunk_bytes,
    )


def mixtral_offloading_released() -> Policy:
    """As its code was released: copy on demand only, with an LRU cache of the same size for each layer."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsedByLayer())
