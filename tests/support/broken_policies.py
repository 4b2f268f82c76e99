"""Policies that break a rule on purpose, each one rule: what the conformance suite must catch."""

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Found, Prefetch, Search


def with_lru(prefetcher):
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed())


class Planner(Prefetcher):
    """Plans the likeliest expert of the next layer by what `seen` says of it, `[J]`."""

    def start(self, model, history, future, rng):
        self.layers, self.experts = model.layers, model.experts

    def on_gate(self, batch, gate):
        layer = gate.layer + 1
        return () if layer == self.layers else (Prefetch(layer, [int(self.seen(batch, gate).argmax())], [1.0]),)

    def seen(self, batch, gate):
        return gate.probs[0]


class BlockPeeker(Planner):
    """Hears of iterations to come and lets each layer know of the next."""

    block = 4

    def predict_block(self, batches, maps):
        self.known = {batch.iteration: each for batch, each in zip(batches, maps, strict=True)}

    def seen(self, batch, gate):
        return self.known[batch.iteration][0, gate.layer + 1]


class IterationPeeker(BlockPeeker):
    """Lets each layer know what the last iteration of the block will see of it: of this one it knows what it may."""

    def seen(self, batch, gate):
        return self.known[max(self.known)][0, gate.layer]


class GatePeeker(Planner):
    """Looks behind the gate that it is given, at the array of all layers of which that is a view."""

    def seen(self, batch, gate):
        return gate.probs.base[0, gate.layer + 1]


class Gambler(Planner):
    """Draws from a generator of its own."""

    def seen(self, batch, gate):
        return np.random.default_rng().random(self.experts)


class Hashing(Planner):
    """Depends on the hash of a text, which another process has otherwise."""

    def seen(self, batch, gate):
        return np.random.default_rng(abs(hash(f"{batch.iteration} {gate.layer}"))).random(self.experts)


class Forgetful(Planner):
    """What it prepared for a block is not what its callbacks say."""

    block = 4

    def start(self, model, history, future, rng):
        super().start(model, history, future, rng)
        self.known = {}

    def predict_block(self, batches, maps):
        self.known = {batch.iteration: each[0].argmin(axis=1) for batch, each in zip(batches, maps, strict=True)}

    def seen(self, batch, gate):
        known = self.known.get(batch.iteration)
        return super().seen(batch, gate) if known is None else np.eye(self.experts)[known[gate.layer]]


class Hasty(Planner):
    """Learns from each gate at once, not when its iteration has ended, and never forgets whose it was."""

    def start(self, model, history, future, rng):
        super().start(model, history, future, rng)
        self.sum = np.zeros(model.experts)

    def seen(self, batch, gate):
        self.sum += gate.probs[0]
        return self.sum


class Greedy(Planner):
    """Asks for columns that it may not get."""

    requires = frozenset({"embedding", "lookahead", "future"})


FAULTS = {
    "a weight that is not a number": Prefetch(0, [0, 1], [1.0, np.nan]),
    "an infinite weight": Prefetch(0, [0, 1], [np.inf, 1.0]),
    "a negative weight": Prefetch(0, [0, 1], [0.5, -0.5]),
    "an expert twice": Prefetch(0, [1, 1], [0.5, 0.5]),
    "an expert too many": Prefetch(0, [6], [0.5]),
    "an expert before the first": Prefetch(0, [-1], [0.5]),
    "a layer too many": Prefetch(4, [0], [0.5]),
    "a layer before the first": Prefetch(-1, [0], [0.5]),
    "a weight too few": Prefetch(0, [0, 1], [0.5]),
    "a belief of another shape": Prefetch(0, [0], [0.5], np.full(5, 0.2)),
    "a belief that is not a number": Prefetch(0, [0], [0.5], np.full(6, np.nan)),
    "a search without rows": Search("match", -1, 0, 4, 1),
    "something else": Found(np.zeros(1, int), np.zeros(1)),
}


class Faulty(Prefetcher):
    """Wishes for what cannot be: a fault of `FAULTS`."""

    def __init__(self, fault):
        self.fault = fault

    def on_batch(self, batch):
        return (FAULTS[self.fault],)


class Scoreless(Evictor):
    """Scores an expert by what is not a number."""

    def touched(self, layer, experts, now_s):
        self.scores[layer * self.experts + experts[0]] = np.nan


def block_peeker():
    """Peeks through a block at the layers to come."""
    return with_lru(BlockPeeker())


def iteration_peeker():
    """Peeks through a block at the iterations to come."""
    return with_lru(IterationPeeker())


def gate_peeker():
    """Peeks through a view."""
    return with_lru(GatePeeker())


def gambler():
    """Random without a seed."""
    return with_lru(Gambler())


def hashing():
    """Different in each process."""
    return with_lru(Hashing())


def forgetful():
    """Blocks unlike callbacks."""
    return with_lru(Forgetful())


def hasty():
    """Learns too early."""
    return with_lru(Hasty())


def greedy():
    """Needs everything."""
    return with_lru(Greedy())


def faulty(fault: str = "an expert twice"):
    """Wishes for the impossible."""
    return with_lru(Faulty(fault))


def scoreless():
    """Scores that are not numbers."""
    return Policy(prefetcher=Prefetcher(), evictor=Scoreless())
