"""DeepSpeed-Inference: fetch whole layers when they begin (baseline of paper §6.1).

Source: Aminabadi et al., "DeepSpeed-Inference", SC '22, with its ZeRO-Inference. Parameters are fetched by layer,
whatever the router will choose, and nothing is fetched before its layer begins. No expert misses, but latency is worst.

How ours differs: as in the paper's comparison it has an expert cache, so only a layer's absent experts are copied. The
paper names no eviction rule. Ours keeps what ran last: plain LRU would keep nothing, since every expert arrives in
turn. If a cache has less room than a layer, the layer takes what fits, and the router's other experts are copied on
demand.
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
        model = setup.model
        self._experts, self._weights = range(model.experts), [1.0] * model.experts

    @override
    def on_layer(self, batch: Batch, layer: int) -> Iterable[Prefetch | Search]:
        return (Prefetch(layer, self._experts, self._weights),)


class LastRun(LeastRecentlyUsed):
    """Evict first what arrived with its layer but did not run, then what ran longest ago."""

    steady = True

    # Arriving does not count as a use: all experts arrive in turn, and a cache smaller than the model would keep none.
    loaded = Evictor.loaded


def deepspeed() -> Policy:
    """Fetch each layer whole when it begins and nothing earlier; keep the experts that ran last.

    Its experts are needed as soon as they are copied, so they move whole, as demanded ones do.
    """
    return Policy(prefetcher=WholeLayers(), evictor=LastRun(), blocking_prefetch=True, chunk_bytes="whole")
