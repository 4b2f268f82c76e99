"""Runs without files: a policy, a model, a machine and requests that lie in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.types import Future, History, Int, ModelShape, RecordedRequest
from sim.hardware.machine import Machine
from sim.inputs import Inputs
from sim.results.bounds import makespan_lower_bound_s
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulated_run
from sim.started_policy import Outcome, StartedPolicy


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the runs of a test have in common."""

    model: ModelShape
    hardware: Machine
    cache_experts: int
    batch_size: int = 1
    placement: str = "round-robin"
    expert_counts: Int | None = None
    replicas: int = 1
    seed: int = 0
    check: bool = False
    log: bool = False

    def scenario(self, spec: str) -> Scenario:
        return Scenario(
            "in-memory.trace",
            policy=spec,
            cache=CacheSize(experts=self.cache_experts),
            batch_size=self.batch_size,
            placement=self.placement,
            replicas=self.replicas,
            seed=self.seed,
            check=self.check,
            detail="events" if self.log else "iterations",
        )

    def inputs(
        self,
        requests: Iterable[RecordedRequest] = (),
        history: History | None = None,
        future: Future | None = None,
    ) -> Inputs:
        return Inputs(
            model=self.model,
            machine=self.hardware,
            requests=list(requests),
            history=history,
            future=future,
            expert_counts=self.expert_counts,
        )


def simulate(
    spec: str,
    setting: Setting,
    requests: Iterable[RecordedRequest],
    *,
    history: History | None = None,
    future: Future | None = None,
) -> Outcome:
    return simulated_run(setting.scenario(spec), setting.inputs(requests, history, future))


def started(
    spec: str, setting: Setting, *, history: History | None = None, future: Future | None = None
) -> StartedPolicy:
    return StartedPolicy(setting.scenario(spec), setting.inputs((), history, future))


def lower_bound_s(
    setting: Setting, requests: Sequence[RecordedRequest], resident: Outcome, history: History | None = None
) -> float:
    inputs = setting.inputs(requests, history)
    return makespan_lower_bound_s(setting.scenario("no-offload"), inputs, resident.iterations["end_s"].to_numpy())
