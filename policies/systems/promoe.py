"""ProMoE: stride speculation, asynchronous (baseline of paper §6.1).

Source: Song et al., "ProMoE: Fast MoE-based LLM Serving using Proactive Caching", arXiv 2410.22134. A small network per
layer is trained to tell, from that layer's hidden state, which experts the layer one stride further on will run; copies
go in chunks, so that a demand need not wait for a whole prefetch, and experts are computed in the order of arrival.

How ours differs: chunks are those of the run, the same for every system. A trace has gates, not hidden states, so a
ridge regression per (layer, stride) learns from square roots of the gate; where the trace has the later router's own
answer (`lookahead`), that is used, as an upper bound of what such a network can learn. The first layers are guided from
layer 0 by shorter strides, layer 0 by nothing. Without history and lookahead it predicts nothing and says so: the
network is trained offline. Neither paper names the eviction that the comparison gave it: LRU.
"""

from policies.base import Policy
from policies.evictors.recency import LeastRecentlyUsed
from policies.prediction.speculation import Speculator
from policies.types import ChunkBytes


def promoe(
    prefetch_distance: int = 3,
    lookahead: bool = True,
    regularisation: float = 1.0,
    train_tokens: int = 20_000,
    chunk_bytes: ChunkBytes | None = None,
) -> Policy:
    """Stride speculation by a learned predictor, asynchronous, LRU."""
    prefetcher = Speculator(
        stride=prefetch_distance, lookahead=lookahead, regularisation=regularisation, train_tokens=train_tokens
    )
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed(), chunk_bytes=chunk_bytes)
