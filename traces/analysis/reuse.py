"""Reuse distances of experts, and hit rates of caches without prefetching.

There is one accounting event per (iteration, layer), over the distinct experts that it executes. Whether they hit
depends on the cache at the start of the event. Then all of them enter the cache, and only other experts are evicted
(the event's own experts are pinned). Caches are cold at the start of each request. A cache with fewer slots than the
event has experts keeps some of them: with LRU those with the highest numbers, with Belady those needed again first.

LRU remains a stack algorithm in this form: after an event, a cache of C slots contains the first C experts in the order
"latest event first, within an event the higher number first" (the tie-break of `policies.evictors.recency`). So one
pass gives the hit rates of all sizes.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from policies.types import Bool
from traces.analysis.iterations import Counts, Iterations, ratio

_BLOCK = 64  # iterations at once
_SHARED_STEPS = 8  # number of shared-cache sizes for which Belady is computed
_MOST_SIZES = 32  # the same for the cache of a layer, at most

Keys = NDArray[np.int64]


def stack_distances(demands: Bool) -> Counts:
    """`[I, L, J]`: position of each demanded expert in its layer's LRU order at the start of its event, from 1.

    A layer's cache of C slots hits if the distance is at most C. J + 1 marks a first use, 0 an expert that is not
    demanded.
    """
    iterations, layers, experts = demands.shape
    found: Counts = np.zeros(demands.shape, np.int64)
    state: Keys = np.full((layers, experts), -1)  # last event · J + expert
    for first in range(0, iterations, _BLOCK):
        block = demands[first : first + _BLOCK]
        states = _states(block, state, np.arange(first, first + len(block))[:, None, None] * experts)
        step, layer, expert = np.nonzero(block)
        own = states[step, layer, expert]
        nearer = (states[step, layer] > own[:, None]).sum(axis=1)
        found[first + step, layer, expert] = np.where(own < 0, experts, nearer) + 1
        state = states[-1]
    return found


def shared_stack_distances(demands: Bool) -> Counts:
    """`stack_distances` for one cache shared by all layers: distances up to L·J + 1."""
    iterations, layers, experts = demands.shape
    found: Counts = np.zeros(demands.shape, np.int64)
    state: Keys = np.full((layers, experts), -1)
    for first in range(0, iterations, _BLOCK):
        block = demands[first : first + _BLOCK]
        events = np.arange(first, first + len(block))[:, None] * layers + np.arange(layers)
        states = _states(block, state, events[:, :, None] * experts)
        for layer in range(layers):  # earlier layers of this iteration have been used already
            step, expert = np.nonzero(block[:, layer])
            own = states[step, layer, expert]
            nearer = (states[step, layer:] > own[:, None, None]).sum(axis=(1, 2))
            nearer += (states[step + 1, :layer] > own[:, None, None]).sum(axis=(1, 2))
            found[first + step, layer, expert] = np.where(own < 0, layers * experts, nearer) + 1
        state = states[-1]
    return found


def _states(block: Bool, state: Keys, events: Keys) -> Keys:
    """`[B + 1, L, J]`: each expert's last use, before each of the B iterations and after the last."""
    used = np.where(block, events + np.arange(block.shape[2]), -1)
    states: Keys = np.maximum.accumulate(np.concatenate([state[None], used]), axis=0)
    return states


def belady_hits(demands: Bool, sizes: Counts) -> Counts:
    """`[L, sizes]`: hits of Belady's rule (evict the expert needed again last) in caches of `sizes` slots per layer."""
    _, layers, experts = demands.shape
    hits: Counts = np.zeros((layers, len(sizes)), np.int64)
    cached = np.zeros((layers, experts, len(sizes)), bool)
    every = np.arange(layers)[:, None]
    for demanded, following in _with_next_use(demands):
        hits += (cached & demanded[:, :, None]).sum(axis=1)
        cached |= demanded[:, :, None]
        cached = _keep(cached, np.where(demanded, following - 4 * demands.size, following), sizes, every)
    return hits


def shared_belady_hits(demands: Bool, sizes: Counts) -> Counts:
    """`belady_hits` for one cache shared by all layers."""
    _, layers, experts = demands.shape
    hits: Counts = np.zeros((layers, len(sizes)), np.int64)
    cached = np.zeros((1, layers * experts, len(sizes)), bool)
    uses = demands.size + np.arange(layers * experts)
    every = np.zeros((1, 1), np.int64)
    for demanded, following in _with_next_use(demands):
        for layer in range(layers):
            own = layer * experts + np.flatnonzero(demanded[layer])
            hits[layer] += cached[0, own].sum(axis=0)
            cached[0, own] = True
            uses[own] = following.ravel()[own]
            key = uses.copy()
            key[own] -= 4 * demands.size
            cached = _keep(cached, key[None], sizes, every)
    return hits


def _keep(cached: Bool, key: Keys, sizes: Counts, every: Counts) -> Bool:
    """The cached experts `[L, J, sizes]` after eviction: those with the smallest keys `[L, J]`, up to `sizes`."""
    order = key.argsort(axis=1)
    ordered = cached[every, order]
    ordered &= ordered.cumsum(axis=1, dtype=np.int32) <= sizes
    kept = np.empty_like(ordered)
    kept[every, order] = ordered
    return kept


def _with_next_use(demands: Bool) -> Iterator[tuple[Bool, Keys]]:
    """Demands of each iteration, and for each expert a key `[L, J]` that increases with the time of its next use.

    Keys are distinct, also across layers; experts that are never used again have the largest.
    """
    iterations, layers, experts = demands.shape
    place = np.arange(layers * experts).reshape(layers, experts)  # within an iteration, layers run in order
    never = demands.size + place
    uses = np.where(demands, np.arange(iterations)[:, None, None] * (layers * experts) + place, never)
    nearest = np.minimum.accumulate(uses[::-1], axis=0)[::-1]
    for now in range(iterations):
        yield demands[now], nearest[now + 1] if now + 1 < iterations else never


def belady_sizes(slots: int, steps: int) -> Counts:
    """Up to `steps` evenly spaced cache sizes from 1 to `slots`, plus a quarter, a half and three quarters."""
    spaced = np.linspace(1, slots, min(steps, slots)).round().astype(np.int64)
    quarters = [max(1, slots * part // 4) for part in (1, 2, 3)]
    sizes: Counts = np.unique(np.concatenate([spaced, quarters]))
    return sizes


class Reuse:
    """Reuse distances and hit-rate curves of caches per layer, or of one `shared` cache, summed over requests."""

    def __init__(self, layers: int, experts: int, *, shared: bool = False) -> None:
        self.shared = shared
        self.slots = layers * experts if shared else experts
        self.sizes = belady_sizes(self.slots, _SHARED_STEPS if shared else _MOST_SIZES)
        self._distances: Counts = np.zeros((layers, self.slots + 2), np.int64)  # occurrences of each distance
        self._belady: Counts = np.zeros((layers, len(self.sizes)), np.int64)

    def add(self, request: Iterations) -> None:
        """Add a request; its caches start cold."""
        distances = (shared_stack_distances if self.shared else stack_distances)(request.demands)
        for layer, counts in enumerate(self._distances):
            counts += np.bincount(distances[:, layer].ravel(), minlength=len(counts))
        self._belady += (shared_belady_hits if self.shared else belady_hits)(request.demands, self.sizes)

    def distances(self) -> pd.DataFrame:
        """One row per layer and stack distance from 1; distance null counts the first uses in a request."""
        layers = len(self._distances)
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), self.slots + 1),
                "distance": pd.array(np.tile(np.arange(1, self.slots + 2), layers)).astype("Int64"),
                "uses": self._distances[:, 1:].ravel(),
            }
        ).assign(distance=lambda frame: frame["distance"].where(frame["distance"] <= self.slots))

    def curves(self) -> pd.DataFrame:
        """One row per layer (null: all) and cache size with the hit rates; Belady's is null for sizes not computed.

        Size is the number of slots of a layer's cache, or of the shared cache.
        """
        layers = len(self._distances)
        demands = np.append(self._distances[:, 1:].sum(axis=1), self._distances[:, 1:].sum())
        lru = self._distances[:, 1:-1].cumsum(axis=1)
        belady = np.full((layers + 1, self.slots), np.nan)
        belady[:, self.sizes - 1] = np.vstack([self._belady, self._belady.sum(axis=0)])
        sizes = np.tile(np.arange(1, self.slots + 1), layers + 1)
        return pd.DataFrame(
            {
                "cache": "shared" if self.shared else "per layer",
                "layer": pd.array(np.repeat([*range(layers), -1], self.slots)).astype("Int64"),
                "size": sizes,
                "size_share": sizes / self.slots,
                "lru_hit_rate": ratio(np.vstack([lru, lru.sum(axis=0)]), demands[:, None]).ravel(),
                "belady_hit_rate": ratio(belady, demands[:, None]).ravel(),
                "demands": np.repeat(demands, self.slots),
            }
        ).assign(layer=lambda frame: frame["layer"].where(frame["layer"] >= 0))
