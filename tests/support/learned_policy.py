"""A learned policy that needs all that the contract offers, without a workaround.

Prefetcher and evictor share what is believed; the prefetcher's start trains both, from history, slots and rates. It
fetches what is absent, orders its own copies, guards what it believes in, and charges the work of both parts.
"""

import math

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.types import Likely, Prefetch, Search


class Beliefs:
    """How probable each expert is at its layer's next turn, and the scores that follow from that."""

    def start(self, model):
        self.model, self.layer_now = model, -1
        self.probs = np.full((model.layers, model.experts), model.top_k / model.experts)
        self.scores = np.zeros(model.total_experts)
        self.score()

    def score(self):
        """The chance of a use for each layer that the slot is held: p / distance."""
        distance = (np.arange(self.model.layers) - self.layer_now - 1) % self.model.layers + 1
        self.scores[:] = (self.probs / distance[:, None]).ravel()


class Learned(Prefetcher):
    """Token table for all layers, a ridge regression per layer for the next one."""

    def __init__(self, beliefs, *, least_p):
        self.beliefs, self.least_p = beliefs, least_p

    def start(self, setup):
        self.model, self.residency = setup.model, setup.residency
        self.beliefs.start(setup.model)
        layers = self.model.layers
        self.reach = (
            layers if setup.rates is None else 1 + math.ceil(self._copy_s(setup.rates) / setup.rates.layer_s(1))
        )
        self.room = sum(setup.slots)
        learned = setup.learned(lambda: self._trained(setup.history or ()))
        known = zip(*(learned[name].tolist() for name in ("tokens", "times")), learned["ran"], strict=True)
        self.table = {token: [ran.copy(), times] for token, times, ran in known}  # token: [executed [L, J], how often]
        self.slopes = learned["slopes"]

    def _trained(self, history):
        layers, experts = self.model.layers, self.model.experts
        table = {}
        records = [(each.token, np.sqrt(each.gate.astype(np.float64)), each.experts) for each in history]
        for tokens, _, executed in records:
            self._learn(table, tokens, executed)
        slopes = np.zeros((layers - 1, experts, experts))
        if records:
            roots = np.concatenate([roots for _, roots, _ in records])
            ran = np.concatenate([self._ran(executed) for _, _, executed in records])
            for layer in range(layers - 1):
                gram = roots[:, layer].T @ roots[:, layer] + np.eye(experts)
                slopes[layer] = np.linalg.solve(gram, roots[:, layer].T @ ran[:, layer + 1])
        return {
            "tokens": np.array(list(table), np.int64),
            "times": np.array([times for _, times in table.values()], np.int64),
            "ran": np.array([ran for ran, _ in table.values()]).reshape(-1, layers, experts),
            "slopes": slopes,
        }

    def _copy_s(self, rates):
        return rates.copy_s(self.model.expert_bytes)

    def _ran(self, executed):
        """`[N, L, J]` 1 where a token executed the expert."""
        ran = np.zeros((len(executed), self.model.layers, self.model.experts))
        np.put_along_axis(ran, executed.astype(np.int64), 1.0, axis=2)
        return ran

    def _learn(self, table, tokens, executed):
        for token, ran in zip(tokens.tolist(), self._ran(executed), strict=True):
            known = table.setdefault(token, [np.zeros_like(ran), 0])
            known[0] += ran
            known[1] += 1

    def on_batch(self, batch):
        self.tokens = batch.token.tolist()
        return [Search("speculate", -1, len(self.tokens), self.model.experts, self.model.layers)]

    def on_gate(self, batch, gate):
        if gate.layer + 1 == self.model.layers:
            return ()
        self.gate = gate
        return [Search("speculate", gate.layer, len(gate.probs), self.model.experts, self.model.experts)]

    def search(self, search):
        if search.layer >= 0:
            likely = np.sqrt(self.gate.probs) @ self.slopes[search.layer]
            return Likely(np.array([search.layer + 1]), likely.clip(0, 1)[:, None])
        unknown = [self.beliefs.probs, 1]
        rows = [ran / count for ran, count in (self.table.get(token, unknown) for token in self.tokens)]
        return Likely(np.arange(self.model.layers), np.stack(rows))

    def on_found(self, batch, layer_now, search, found):
        probs = 1 - np.prod(1 - found.probs, axis=0)  # any of the tokens
        for layer, row in zip(found.layers.tolist(), probs, strict=True):
            if layer > layer_now:
                self.beliefs.probs[layer] = row
        self.beliefs.score()
        absent = ~(self.residency.resident | self.residency.copying)
        wanted = absent & (self.beliefs.probs >= self.least_p)
        busy = self.residency.queued_bytes.sum() > self.room * self.model.expert_bytes
        last = layer_now + 1 if busy else min(layer_now + self.reach, self.model.layers - 1)
        for layer in range(layer_now + 1, min(last + 1, self.model.layers)):
            experts = np.flatnonzero(wanted[layer])
            yield Prefetch(layer, experts, self.beliefs.probs[layer, experts], self.beliefs.probs[layer].copy())

    def on_batch_end(self, batch, maps, experts):
        self._learn(self.table, batch.token, experts)
        return [Search("update", self.model.layers - 1, len(experts), self.model.total_experts, 1)]


class Density(Evictor):
    """Drop what is least worth its slot by the shared beliefs, and nothing for what is worth less."""

    guards = True

    def __init__(self, beliefs, *, margin):
        self.beliefs, self.margin = beliefs, margin

    def start(self, setup):
        self.experts, self.scores = setup.model.experts, self.beliefs.scores

    def on_batch(self, batch):
        return self._scored(-1)

    def touched(self, layer, experts, now_s):
        return self._scored(layer)

    def _scored(self, layer):
        self.beliefs.layer_now = layer
        self.beliefs.score()
        return [Search("update", layer, 1, self.experts, self.beliefs.model.layers)]

    def foreseen(self, fetched, occupants):
        return self.scores[occupants] * self.margin


def own_order(layer, expert, weight, distance):
    """The likeliest first, and of those the nearest."""
    return weight / math.sqrt(distance)


def learned(least_p: float = 0.1, margin: float = 1.5, chunk_bytes: int | None = 7) -> Policy:
    """Learned prediction, and eviction by what it believes."""
    beliefs = Beliefs()
    return Policy(
        prefetcher=Learned(beliefs, least_p=least_p),
        evictor=Density(beliefs, margin=margin),
        copy_key=own_order,
        chunk_bytes=chunk_bytes,
    )
