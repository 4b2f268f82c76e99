"""The policy and cache that a driver runs, and what the driver returns."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from common.errors import UserError
from policies.cache.decision_log import DecisionLog
from policies.cache.expert_cache import ExpertCache
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache, Observer
from policies.cache.placement import check_replicas, place, split_slots
from policies.cache.residency import Counts
from policies.registry import make_policy
from sim.engine.recorder import Recorder
from sim.inputs import Inputs
from sim.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a driver returns."""

    simulated: bool  # or measured on real devices
    iterations: pd.DataFrame
    requests: pd.DataFrame
    counts: Counts
    makespan_s: float
    preloaded: bool  # every expert was resident from the start
    expert_slots: int  # of the cache; all experts for a policy that keeps them resident
    peak_slots: int  # the most that were taken at a time
    note: str  # what a reader must know of it
    log: DecisionLog | None


class StartedPolicy:
    """A started policy and its initial cache.

    All randomness comes from one generator seeded by the scenario, so runs do not affect each other.
    """

    def __init__(self, scenario: Scenario, inputs: Inputs) -> None:
        self.policy = policy = make_policy(scenario.policy)
        model, gpus, size = inputs.model, inputs.machine.gpus, scenario.cache.slots(inputs.model)
        split_slots(model, size, gpus)  # refuse an impossible size even for policies that ignore it
        check_replicas(scenario.replicas, gpus)
        self.slots = split_slots(model, model.total_experts if policy.preloaded else size, gpus)
        if "future" in policy.requires and inputs.future is None:
            raise UserError(f"policy {scenario.policy} needs the recorded future")
        policy.evictor.start(model, inputs.future)
        policy.prefetcher.start(model, inputs.history, inputs.future, np.random.default_rng(scenario.seed))
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
            chunk_bytes=policy.chunk_bytes,
            copy_key=policy.copy_key,
            refused_blocks=policy.refused_blocks,
            whole_demands=policy.whole_demands,
        )
        if policy.preloaded:
            self.cache.preload()

    def outcome(self, recorder: Recorder, makespan_s: float, *, simulated: bool) -> Outcome:
        """What has come out, once a driver is done."""
        return Outcome(
            simulated=simulated,
            iterations=recorder.iterations(),
            requests=recorder.requests(),
            counts=self.cache.counts,
            makespan_s=makespan_s,
            preloaded=self.policy.preloaded,
            expert_slots=sum(self.slots),
            peak_slots=self.cache.peak_slots,
            note=self.policy.prefetcher.note,
            log=self._log,
        )
