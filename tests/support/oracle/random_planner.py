"""A system that plans, searches and scores at random, in two forms: a `Policy`, and a system of the oracle.

Both draw from the same functions of (seed, moment, iteration, layer), so no plan depends on time. Scores depend on all
that an evictor has heard of an expert, so a missing, doubled or displaced notice changes victims.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.types import Likely, Prefetch, Search, Setup
from tests.support.oracle import evictors, planners
from tests.support.oracle.placement import Expert
from tests.support.oracle.systems import System


@dataclass(frozen=True)
class Choices:
    """What the planner of one seed is like."""

    seed: int
    plans: float  # how often it plans at each moment
    searches: float
    many: int  # experts of a plan
    equal_weights: bool
    equal_scores: bool
    blocking_prediction: bool
    blocking_prefetch: bool
    compute_on_arrival: bool
    refused_blocks: bool
    own_key: bool
    chunk_bytes: Any

    @classmethod
    def drawn(cls, seed: int) -> "Choices":
        rng = np.random.default_rng((seed, 2))
        likely = rng.random(8)
        return cls(
            seed=seed,
            plans=rng.choice([0.1, 0.4, 0.8]),
            searches=rng.choice([0.0, 0.2, 0.5]),
            many=int(rng.integers(1, 5)),
            equal_weights=bool(likely[0] < 0.3),
            equal_scores=bool(likely[1] < 0.3),
            blocking_prediction=bool(likely[2] < 0.3),
            blocking_prefetch=bool(likely[3] < 0.3),
            compute_on_arrival=bool(likely[4] < 0.7),
            refused_blocks=bool(likely[5] < 0.3),
            own_key=bool(likely[6] < 0.2),
            chunk_bytes=[None, "whole", 11][rng.integers(3)],
        )

    def key(self, layer: int, expert: int, weight: float, distance: int) -> float:
        return weight - 0.3 * distance + 0.01 * expert

    def score(self, heard: int) -> float:
        return float(heard % 3 if self.equal_scores else heard)

    def wishes(self, model: Any, moment: str, iteration: int, layer: int, gated: int) -> list[dict[str, Any]]:
        """Plans and searches of a moment, as dicts; mostly for layers behind the last gated one."""
        rng = np.random.default_rng((self.seed, zlib.crc32(moment.encode()), iteration, layer + 1))
        answer: list[dict[str, Any]] = []
        while rng.random() < self.plans and moment != "end":
            ahead = range(max(0, gated + 1), model.layers)
            planned = int(rng.integers(model.layers)) if rng.random() < 0.2 or not ahead else int(rng.choice(ahead))
            experts = rng.permutation(model.experts)[: int(rng.integers(0, min(self.many, model.experts) + 1))]
            weights = rng.integers(1, 3, len(experts)) if self.equal_weights else rng.uniform(0.1, 1, len(experts))
            plan = {"layer": planned, "experts": experts.tolist(), "weights": [float(one) for one in weights]}
            answer.append({"belief": None, **plan})
            if len(answer) == 2:
                break
        while rng.random() < self.searches and not moment.startswith("found"):
            kind = "update" if moment == "end" else "speculate"
            rows, dims, entries = (int(one) for one in rng.integers(1, 30, 3))
            answer.append({"search": Search(kind, gated, rows=rows, dims=dims, entries=entries)})
            if len(answer) == 3:
                break
        return answer


def heard_of(before: int, what: str) -> int:
    return zlib.crc32(what.encode(), before)


class RandomPlanner(Prefetcher):
    def __init__(self, choices: Choices) -> None:
        self.choices = choices

    def start(self, setup: Setup) -> None:
        self.model = setup.model

    def on_batch(self, batch):
        return self._said("batch", batch, -1, -1)

    def on_layer(self, batch, layer):
        return self._said("layer", batch, layer, layer - 1)

    def on_gate(self, batch, gate):
        return self._said("gate", batch, gate.layer, gate.layer)

    def search(self, search):
        return Likely(np.arange(self.model.layers), np.zeros((search.rows, self.model.layers, self.model.experts)))

    def on_found(self, batch, layer_now, search, found):
        return self._said(f"found {search.rows} {search.dims}", batch, search.layer, layer_now)

    def on_batch_end(self, batch, maps, experts):
        self.ended = batch
        return self._said("end", batch, 0, self.model.layers - 1)

    def _said(self, moment, batch, layer, gated):
        return [
            wish["search"] if "search" in wish else Prefetch(wish["layer"], wish["experts"], wish["weights"])
            for wish in self.choices.wishes(self.model, moment, batch.iteration, layer, gated)
        ]


class HearingEvictor(Evictor):
    """Scores by all that it has heard of an expert."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices

    def start(self, setup: Setup) -> None:
        self.experts = setup.model.experts
        self.heard = [0] * setup.model.total_experts
        self.scores = np.zeros(setup.model.total_experts)

    def touched(self, layer, experts, now_s):
        for expert in experts:
            self._hear(layer, expert, "touched")

    def loaded(self, layer, expert, now_s):
        self._hear(layer, expert, "loaded")

    def evicted(self, layer, expert, now_s):
        self._hear(layer, expert, "evicted")

    def believe(self, layer, probs):
        for expert in range(self.experts):
            self._hear(layer, expert, "believe")

    def _hear(self, layer, expert, what):
        flat = layer * self.experts + int(expert)
        self.heard[flat] = heard_of(self.heard[flat], what)
        self.scores[flat] = self.choices.score(self.heard[flat])


def random_planner(seed: int) -> Policy:
    """The policy of a seed."""
    choices = Choices.drawn(seed)
    return Policy(
        prefetcher=RandomPlanner(choices),
        evictor=HearingEvictor(choices),
        blocking_prediction=choices.blocking_prediction,
        blocking_prefetch=choices.blocking_prefetch,
        compute_on_arrival=choices.compute_on_arrival,
        refused_blocks=choices.refused_blocks,
        copy_key=choices.key if choices.own_key else None,
        chunk_bytes=choices.chunk_bytes,
    )


class OraclePlanner(planners.Planner):
    """The same for the oracle."""

    def __init__(self, instance: Any, choices: Choices) -> None:
        super().__init__(instance)
        self.choices = choices

    def on_batch(self, iteration):
        return self._said("batch", iteration, -1, -1)

    def on_layer(self, iteration, layer):
        return self._said("layer", iteration, layer, layer - 1)

    def on_gate(self, iteration, layer):
        return self._said("gate", iteration, layer, layer)

    def on_batch_end(self, iteration):
        return self._said("end", iteration, 0, self.model.layers - 1)

    def copy_key(self, key, weight, distance):
        if self.choices.own_key:
            return self.choices.key(*key, weight, distance)
        return super().copy_key(key, weight, distance)

    def _said(self, moment, iteration, layer, gated):
        wishes = self.choices.wishes(self.model, moment, iteration["number"], layer, gated)
        for wish in wishes:
            if "search" in wish and moment != "end":
                wish["found"] = self._found(wish["search"], iteration)
        return wishes

    def _found(self, search, iteration):
        moment = f"found {search.rows} {search.dims}"
        return lambda layer_now: self._said(moment, iteration, search.layer, layer_now)


class OracleEvictor(evictors.Evictor):
    def __init__(self, instance: Any, choices: Choices) -> None:
        super().__init__(instance)
        self.choices = choices
        self.heard: dict[Expert, int] = {}

    def touched(self, layer, experts, now_s):
        for expert in experts:
            self._hear((layer, expert), "touched")

    def loaded(self, key, now_s):
        self._hear(key, "loaded")

    def evicted(self, key):
        self._hear(key, "evicted")

    def believe(self, layer, belief):
        for expert in range(self.model.experts):
            self._hear((layer, expert), "believe")

    def _hear(self, key, what):
        self.heard[key] = heard_of(self.heard.get(key, 0), what)

    def score(self, key):
        return self.choices.score(self.heard.get(key, 0))


def random_system(instance: Any) -> System:
    choices = Choices.drawn(instance.seed)
    return System(
        planner=OraclePlanner(instance, choices),
        evictor=OracleEvictor(instance, choices),
        blocking_prediction=choices.blocking_prediction,
        blocking_prefetch=choices.blocking_prefetch,
        compute_on_arrival=choices.compute_on_arrival,
        refused_blocks=choices.refused_blocks,
        chunk_bytes=choices.chunk_bytes,
    )
