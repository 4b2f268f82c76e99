"""The started policy and cache that a driver runs, and the outcome that it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from policies.cache.decision_log import DecisionLog
from policies.cache.expert_cache import ExpertCache
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache, Observer
from policies.cache.placement import place, split_slots
from policies.cache.residency import Counts
from policies.checked_policy import to_run
from policies.hooks import Hooks
from policies.registry import make_policy
from policies.types import Learned, PastRequests, Rates, Setup, learned_at_once
from policies.validity import future_for
from sim.engine.prediction_tape import PredictionTape
from sim.engine.recorder import Recorder
from sim.inputs import Inputs
from sim.scenario import Scenario

Learning: TypeAlias = Callable[[np.random.Generator], Callable[[Callable[[], Learned]], Learned]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a run, as a driver returns it."""

    simulated: bool  # False: measured on real devices
    iterations: pd.DataFrame
    requests: pd.DataFrame
    counts: Counts
    makespan_s: float
    preloaded: bool  # every expert was resident from the start
    expert_slots: int  # of the cache; all experts for a policy that keeps them resident
    peak_slots: int  # the most slots used at a time
    chunk_bytes: int  # size of the largest piece of a prefetch
    prediction_charged: bool | None  # whether predicting took time; None for a policy that plans nothing
    search_score_semantic: float | None  # mean cosine of the entries that these searches found; None without any
    search_score_trajectory: float | None
    note: str  # a warning for readers
    log: DecisionLog | None


class StartedPolicy:
    """A started policy and its initial cache.

    All randomness comes from one generator seeded by the scenario, so runs do not affect each other. `rates` are the
    times of the machine that the policy may know. `learning` makes `Setup.learned` for that generator, which may return
    what the policy learned before. `tape` records the predictions of the run or replays them.
    """

    def __init__(
        self,
        scenario: Scenario,
        inputs: Inputs,
        rates: Rates | None = None,
        learning: Learning | None = None,
        tape: PredictionTape | None = None,
    ) -> None:
        made = make_policy(scenario.policy)
        made = made if scenario.prefetch else made.without_waiting()
        self.policy = policy = to_run(made, scenario.policy, check=scenario.check)
        self.hooks = Hooks(policy)
        model, gpus, size = inputs.model, inputs.machine.gpus, scenario.cache.slots(inputs.model, inputs.memory)
        self.slots = split_slots(model, model.total_experts if policy.preloaded else size, gpus)
        future = future_for(policy, scenario.policy, inputs.future)
        self._log = DecisionLog() if scenario.detail == "events" else None
        observers: list[Observer] = [self._log] if self._log else []
        if scenario.check:
            observers.append(InvariantChecker(preloaded=model.total_experts if policy.preloaded else 0))
        make = partial(ObservedCache, observers=observers) if observers else ExpertCache
        self.cache: ExpertCache = make(
            model,
            policy.evictor,
            slots=self.slots,
            home=place(scenario.placement, model, gpus, inputs.history, inputs.expert_counts),
            replicas=scenario.replicas,
            chunk_bytes=scenario.chunk_bytes if policy.chunk_bytes is None else policy.chunk_bytes,
            copy_key=policy.copy_key,
            refused_blocks=policy.refused_blocks,
            prefetch=scenario.prefetch,
            serial_demand=inputs.machine.demand_loading == "serial",
        )
        if policy.preloaded:
            self.cache.preload()
        rng = np.random.default_rng(scenario.seed)
        setup = Setup(
            model=model,
            slots=tuple(self.slots),
            rng=rng,
            residency=self.cache.view,
            history=PastRequests(inputs.history) if inputs.history is not None else None,
            rates=rates,
            future=future,
            learned=learning(rng) if learning else learned_at_once,
        )
        if tape is None:
            policy.start(setup)
        else:
            tape.start(policy, setup)

    def outcome(self, recorder: Recorder, makespan_s: float, *, simulated: bool) -> Outcome:
        """The outcome, once a driver has finished."""
        return Outcome(
            simulated=simulated,
            iterations=recorder.iterations(),
            requests=recorder.requests(),
            counts=self.cache.counts,
            makespan_s=makespan_s,
            preloaded=self.policy.preloaded,
            expert_slots=sum(self.slots),
            peak_slots=self.cache.peak_slots,
            chunk_bytes=max(chunks[0] for chunks in self.cache.chunk_bytes),
            prediction_charged=self.hooks.charged if self.cache.plans else None,
            search_score_semantic=self.hooks.scores["semantic"].mean,
            search_score_trajectory=self.hooks.scores["trajectory"].mean,
            note=self.policy.prefetcher.note,
            log=self._log,
        )
