"""ProMoE: asynchronous stride speculation (baseline of paper §6.1).

Source: Song et al., "ProMoE: Fast MoE-based LLM Serving using Proactive Caching", arXiv 2410.22134. A small network per
layer is trained to predict, from that layer's hidden state, which experts the layer one stride ahead will run. Copies
go in chunks, so that a demand need not wait for a whole prefetch, and experts are computed in the order of arrival.

How ours differs: all systems use the chunk size of the run. A trace has gates, not hidden states, so a ridge regression
per (layer, stride) learns from square roots of the gate. If the trace has the later router's own output (`lookahead`),
that is used instead, as an upper bound of what such a network can learn. Shorter strides from layer 0 guide the first
layers; nothing guides layer 0. The network is trained offline, so without history and lookahead it predicts nothing and
says so. Neither paper names the eviction rule of the comparison; ours is LRU.
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
    """Predict the layer at the prefetch distance with a learned predictor, prefetch asynchronously, evict by LRU."""
    prefetcher = Speculator(
        stride=prefetch_distance, lookahead=lookahead, regularisation=regularisation, train_tokens=train_tokens
    )
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed(), chunk_bytes=chunk_bytes)
