"""Random small instances, and what the project's own simulator says of them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.types import ModelShape, RecordedRequest
from sim.hardware.effects import Effects
from sim.inputs import Inputs
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulated_run
from sim.started_policy import Outcome
from tests.support.builders import KnownFuture, random_requests, shape
from tests.support.oracle.costs import JitteredCost, JitteredMachine
from tests.support.oracle.placement import Expert, balanced, round_robin

COLUMNS = ("iteration", "position", "token", "gate", "experts", "embedding")  # of a request, a row per token


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What both simulators are given."""

    seed: int
    model: ModelShape
    requests: list[RecordedRequest]
    history: list[RecordedRequest]
    gpus: int
    effects: Effects
    demand_loading: str
    cache_experts: int
    batch_size: int
    placement: str
    replicas: int
    chunk_bytes: Any
    prefetch: bool
    policy: str

    @property
    def machine(self) -> JitteredMachine:
        return JitteredMachine(seed=self.seed, gpus=self.gpus, effects=self.effects, demand_loading=self.demand_loading)

    @property
    def cost(self) -> JitteredCost:
        return self.machine.cost(self.model)

    def home(self) -> dict[Expert, int]:
        if self.placement == "balanced":
            return balanced(self.model, self.gpus, self.history)
        return round_robin(self.model, self.gpus)

    def simulated(self) -> Outcome:
        """What the project's own simulator says."""
        scenario = Scenario(
            "in-memory.trace",
            policy=self.policy,
            cache=CacheSize(experts=self.cache_experts),
            batch_size=self.batch_size,
            placement=self.placement,
            replicas=self.replicas,
            chunk_bytes=self.chunk_bytes,
            prefetch=self.prefetch,
            seed=self.seed,
        )
        inputs = Inputs(
            model=self.model,
            machine=self.machine,
            requests=self.requests,
            history=self.history or None,
            future=KnownFuture(self.model, self.requests),
        )
        return simulated_run(scenario, inputs)


def drawn_instance(seed: int, policy: str) -> Instance:
    """The instance of a seed, whatever its policy."""
    rng = np.random.default_rng((seed, 0))

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    layers, experts, gpus = int(rng.integers(2, 6)), int(rng.integers(3, 8)), int(rng.integers(1, 4))
    model = shape(layers, experts, int(rng.integers(1, 4)), hidden=4)
    sizes = rng.choice(range(20, 60), layers, replace=False)  # equal ones make sums of times that differ in order alone
    model = replace(model, expert_bytes_by_layer=tuple(int(size) for size in sizes))
    requests, history = _requests(model, rng, pick), _requests(model, rng, pick)
    history = history if rng.random() < 0.8 else []
    least = max(gpus, model.top_k)
    some = round(least * (model.total_experts / least) ** rng.random())
    return Instance(
        seed=seed,
        model=model,
        requests=requests,
        history=history,
        gpus=gpus,
        effects=_effects(rng, seed, gpus),
        demand_loading=pick("parallel", "parallel", "serial"),
        cache_experts=pick(some, some, some, some, some, least, model.total_experts),
        batch_size=int(rng.integers(1, 4)),
        placement=pick("round-robin", "round-robin", "balanced") if history else "round-robin",
        replicas=1 if gpus == 1 else pick(1, 2),
        chunk_bytes=pick(7, 16, 25, 40, "whole"),
        prefetch=bool(rng.random() < 0.9),
        policy=policy,
    )


def _requests(model: ModelShape, rng: np.random.Generator, pick: Any) -> list[RecordedRequest]:
    """One to four, with or without a prefill."""
    made = random_requests(
        model,
        rng,
        requests=int(rng.integers(1, 5)),
        decoded=int(rng.integers(1, 6)),
        prefill_tokens=pick(0, 1, 3, 7),
        hidden=model.hidden,
    )
    passing_by = rng.random() < 0.15
    made = [_passing_by(each, rng) for each in made] if passing_by else made
    return [_shortened(_looking_ahead(each, rng, model.layers), rng) for each in made]


def _effects(rng: np.random.Generator, seed: int, gpus: int) -> Effects:
    """Each of four is on in a third of the instances; of contention, in some of them, only one of its two sides."""
    host, layer, expert, contention = rng.random(4) < 0.33
    links = gpus * JitteredCost(seed, gpus, Effects()).copy_rate
    effects = Effects(
        host_bytes_per_s=links * float(rng.uniform(0.15, 1.3)) if host else math.inf,
        layer_host_s=float(rng.uniform(0.05, 1.5)) if layer else 0.0,
        expert_host_s=float(rng.uniform(0.02, 0.5)) if expert else 0.0,
        compute_slowdown=float(rng.uniform(1, 2.5)) if contention else 1.0,
        copy_slowdown=float(rng.uniform(1, 2.5)) if contention else 1.0,
    )
    one_sided = {3: {"compute_slowdown": 1.0}, 4: {"copy_slowdown": 1.0}}
    return replace(effects, **one_sided.get(seed % 5, {}))


def _passing_by(each: RecordedRequest, rng: np.random.Generator) -> RecordedRequest:
    """Some tokens of a prefill pass some layers by, but not the first one; its last token goes through all."""
    passes = rng.random(each.gate.shape[:2]) < 0.3
    passes[:, 0] = False
    passes[np.diff(each.iteration, append=-1) != 0] = False
    experts, gate = each.experts.copy(), each.gate.copy()
    experts[passes], gate[passes] = -1, 0
    return replace(each, experts=experts, gate=gate)


def _looking_ahead(each: RecordedRequest, rng: np.random.Generator, layers: int) -> RecordedRequest:
    """With what later routers say early, which is not quite what they say later."""
    ahead = {}
    for distance in range(1, min(3, layers)):
        said = np.zeros_like(each.gate)
        said[:, :-distance] = each.gate[:, distance:] * rng.uniform(0.3, 1.7, each.gate[:, distance:].shape)
        ahead[distance] = said
    return replace(each, lookahead=ahead)


def _shortened(each: RecordedRequest, rng: np.random.Generator) -> RecordedRequest:
    """Requests end after different numbers of iterations."""
    keep = each.iteration <= rng.integers(each.iteration.min(), each.iteration.max() + 1)
    columns = {name: getattr(each, name)[keep] for name in COLUMNS}
    return replace(each, **columns, lookahead={distance: gates[keep] for distance, gates in each.lookahead.items()})
