"""DeepSpeed-Inference: whole layers, fetched when they begin (baseline of paper §6.1).

Source: Aminabadi et al., "DeepSpeed-Inference", SC '22, with its ZeRO-Inference. Parameters are fetched by layer,
whatever the router will choose, and nothing is fetched before its layer begins: no expert misses, the worst latency.

How ours differs: as in the paper's comparison it is given an expert cache, so that only the experts of a layer that are
not there are copied. The paper names no eviction; ours keeps what ran last, as plain LRU would keep nothing: every
expert comes in turn. A cache with less room than a layer takes what fits, and what else the router asks for is copied
on demand.
"""

from collections.abc import Iterable

from typing_extensions import override

from policies.base import Evictor, Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Batch, Prefetch, Search, Setup


class WholeLayers(Prefetcher):
    """Fetch all experts of a layer when it begins."""

    @override
    def start(self, setup: Setup) -> None:
        """Nothing to learn."""
        model = setup.model
        self._experts, self._weights = range(model.experts), [1.0] * model.experts

    @override
    def on_layer(self, batch: Batch, layer: int) -> Iterable[Prefetch | Search]:
        """Ask for the whole layer."""
        return (Prefetch(layer, self._experts, self._weights),)


class LastRun(LeastRecentlyUsed):
    """Keep what ran last; an expert that has only come with its layer goes first."""

    steady = True

    # Having come is no use: all experts come, in turn, and a cache smaller than the model would keep none.
    loaded = Evictor.loaded


def deepspeed() -> Policy:
    """Whole layers before they run, nothing ahead of them, LRU.

    Its experts are needed as they are copied, so they move whole, as demanded ones do.
    """
    return Policy(prefetcher=WholeLayers(), evictor=LastRun(), blocking_prefetch=True, chunk_bytes="whole")
