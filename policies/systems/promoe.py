"""ProMoE: stride speculation, asynchronous, with copies in chunks (baseline of paper §6.1).

Source: Song et al., "ProMoE: Fast MoE-based LLM Serving using Proactive Caching", arXiv 2410.22134. A small network per
layer is trained to tell, from that layer's hidden state, which experts the layer one stride further on will run; copies
go in chunks, so that a demand need not wait for a whole prefetch, and experts are computed in the order of arrival.

How ours differs: a trace has gates, not hidden states, so a ridge regression per (layer, stride) learns from square
roots of the gate; where the trace has the later router's own answer (`lookahead`), that is used, as an upper bound of
what such a network can learn. The first layers are guided from layer 0 by shorter strides, layer 0 by nothing. Without
history and lookahead it predicts nothing and says so: the network is trained offline. Neither paper names the eviction
that the comparison gave it: LRU.
"""

from common.errors import UserError
from policies.base import Policy
from policies.evictors.recency import LeastRecentlyUsed
from policies.prediction.speculation import Speculator


def promoe(
    prefetch_distance: int = 3,
    chunk_bytes: int = 16_000_000,
    lookahead: bool = True,
    regularisation: float = 1.0,
    train_tokens: int = 20_000,
) -> Policy:
    """Stride speculation by a learned predictor, copies in chunks, LRU.

    A chunk takes half a millisecond over PCIe 4.0, the longest that a demand waits: from a whole expert of
    Qwen1.5-MoE to a twentieth of one of Mixtral-8x7B.
    """
    if chunk_bytes < 1:
        raise UserError(f"promoe: chunk_bytes {chunk_bytes}: a chunk has at least 1 byte")
    prefetcher = Speculator(
        stride=prefetch_distance, lookahead=lookahead, regularisation=regularisation, train_tokens=train_tokens
    )
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed(), chunk_bytes=chunk_bytes)
