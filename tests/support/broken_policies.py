"""Policies that break a rule on purpose, each one rule: what the conformance suite must catch."""

import numpy as np

from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Prefetch


def with_lru(prefetcher):
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed())


class Planner(Prefetcher):
    """Plans the likeliest expert of the next layer by what `seen` says of it, `[J]`."""

    def start(self, setup):
        self.layers, self.experts = setup.model.layers, setup.model.experts

    def on_gate(self, batch, gate):
        layer = gate.layer + 1
        return () if layer == self.layers else (Prefetch(layer, [int(self.seen(batch, gate).argmax())], [1.0]),)

    def seen(self, batch, gate):
        return gate.probs[0]


class BlockPeeker(Planner):
    """Hears of iterations to come and lets each layer know of the next."""

    block = 4

    def predict_block(self, iterations):
        self.known = {each.batch.iteration: each.maps for each in iterations}

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

    def start(self, setup):
        super().start(setup)
        self.known = {}

    def predict_block(self, iterations):
        self.known = {each.batch.iteration: each.maps[0].argmin(axis=1) for each in iterations}

    def seen(self, batch, gate):
        known = self.known.get(batch.iteration)
        return super().seen(batch, gate) if known is None else np.eye(self.experts)[known[gate.layer]]


class Hasty(Planner):
    """Learns from each gate at once, not when its iteration has ended, and never forgets whose it was."""

    def start(self, setup):
        super().start(setup)
        self.sum = np.zeros(setup.model.experts)

    def seen(self, batch, gate):
        self.sum += gate.probs[0]
        return self.sum


class Greedy(Planner):
    """Asks for columns that it may not get."""

    requires = frozenset({"embedding", "lookahead_1", "future"})


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
