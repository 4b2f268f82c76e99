"""Mixtral-Offloading: the next layer's router, applied one layer early (baseline of paper §6.1).

Source: Eliseev, Mazur, "Fast Inference of Mixture-of-Experts Language Models with Offloading", arXiv 2312.17238. While
a layer runs, the next layer's router is applied to the hidden state that this layer began with. Its top-k experts are
copied, and the least recently used ones are evicted.

Two systems have that name, and both are here:

    what                 `mixtral-offloading`: as papers compare it     `mixtral-offloading-released`: as published
    ----                 ------------------------------------------     -------------------------------------------
    prefetches           the next layer's experts, synchronously: a     nothing: speculation is announced, but is not in
                         layer's experts wait for the early router,     the code
                         and the next layer starts when its
                         predicted experts have arrived
    cache                one LRU cache for all layers                   an LRU cache of the same size for each layer

How ours differs from both: the published code quantises experts; ours copies them as they are. The published code fills
its cache before the first token and has a few spare slots for exchanging experts; ours starts empty. If a layer of a
prefill needs more experts than its share, it borrows slots of other layers (`lru-by-layer`); a strict share hit up to
1.2 points more (demo, one GPU, 24 slots). No layer comes before layer 0, so its experts are copied on demand.
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
    """Prefetch the top-k experts that the next layer's router chooses for this layer's hidden state."""

    requires = frozenset({"lookahead_1"})

    def __init__(self) -> None:
        super().__init__(stride=1, learned=False)

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        if 1 not in gate.lookahead:
            raise UserError("mixtral-offloading needs a column lookahead_1, which the trace does not have")
        return super().on_gate(batch, gate)


def mixtral_offloading(chunk_bytes: ChunkBytes | None = None) -> Policy:
    """Apply the next layer's router early, prefetch synchronously, evict by LRU: as papers compare it."""
    return Policy(
        prefetcher=NextLayerRouter(),
        evictor=LeastRecentlyUsed(),
        blocking_prediction=True,
        blocking_prefetch=True,
        chunk_bytes=chunk_bytes,
    )


def mixtral_offloading_released() -> Policy:
    """Copy on demand only, with an LRU cache of the same size for each layer: as its code was released."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsedByLayer())
