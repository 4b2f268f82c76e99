"""Costs that are drawn, so that no two events of a run coincide by chance."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from policies.types import ModelShape
from sim.hardware.effects import Effects


class JitteredCost:
    """Seconds drawn anew for each question, the same for equal questions. The unit is about a layer's attention."""

    launch_s = 0.0

    def __init__(self, seed: int, gpus: int, effects: Effects) -> None:
        rng = np.random.default_rng((seed, 1))
        self.seed, self.gpus, self.effects = seed, gpus, effects
        self.copy_rate = 50 * math.exp(rng.uniform(-2.0, 1.5))  # bytes per second
        self.latency_s = float(rng.choice([0.0, 0.02, 0.3]))
        self.compute_s = math.exp(rng.uniform(-2.0, 0.5))  # of an expert
        self.find_s = math.exp(rng.uniform(-5.0, 0.7))  # of a search
        self.driving_s = float(rng.choice([0.0, 0.0123]))
        self.drawn = cache(self._drawn)

    def _drawn(self, *question: Any) -> float:
        """Around 1, by ± 30 %."""
        number = abs(hash(question)) % 2**32
        return float(np.random.default_rng((self.seed, number)).uniform(0.7, 1.3))

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        return (1 + 0.1 * tokens) * self.drawn(1, tokens, context, attended)

    def expert_s(self, tokens: int) -> float:
        return self.compute_s * (1 + 0.1 * tokens) * self.drawn(2, tokens)

    def exchange_s(self, tokens: int) -> float:
        return 0.0 if self.gpus == 1 else 0.2 * self.drawn(3, tokens)

    def head_s(self, rows: int) -> float:
        return 0.7 * self.drawn(4, rows)

    def copy_s(self, size_bytes: int) -> float:
        return self.copy_latency_s(size_bytes) + size_bytes / self.copy_rate * self.drawn(5, size_bytes)

    def copy_latency_s(self, size_bytes: int) -> float:
        return self.latency_s * self.drawn(6, size_bytes) if self.latency_s else 0.0

    def least_copy_s(self, size_bytes: int) -> float:
        return self.copy_s(size_bytes)

    def search_s(self, search: Any) -> float:
        work = search.rows * search.dims * search.entries
        return self.find_s * (1 + 1e-4 * work) * self.drawn(7, search.rows, search.dims, search.entries)


@dataclass(frozen=True, kw_only=True)
class JitteredMachine:
    """A machine of GPUs whose costs are drawn."""

    seed: int
    gpus: int
    effects: Effects
    demand_loading: str
    name: str = "jittered"
    gpu_memory_bytes: float | None = None
    digest: str | None = None

    @property
    def links(self) -> int:
        return self.gpus

    def cost(self, model: ModelShape) -> JitteredCost:
        return JitteredCost(self.seed, self.gpus, self.effects)

    def describe(self) -> str:
        return self.name
