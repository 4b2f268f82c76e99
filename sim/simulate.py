"""One run: a policy, a model, a machine and a cache size, over the requests of a trace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
from policies.types import Future, History, Int, ModelShape, RecordedRequest
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from sim.hardware.machines import Devices, Machine, cost_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the runs of a comparison have in common."""

    model: ModelShape
    hardware: Machine | Devices
    cache_experts: int  # slots of all GPUs together
    batch_size: int = 1
    placement: str = "round-robin"  # which GPU each expert lives on, one of `PLACEMENTS`
    expert_counts: Int | None = field(default=None, compare=False)  # [L, J] to place by, in place of the history
    replicas: int = 1  # GPUs that each expert may live on, one at a time: that one and the next
    seed: int = 0
    check: bool = False  # hold the invariants of the cache after every call
    log: bool = False  # keep the decision log


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came out of one run."""

    policy: str
    setting: Setting
    iterations: pd.DataFrame
    requests: pd.DataFrame
    counts: Counts
    makespan_s: float
    preloaded: bool  # every expert was resident from the start
    expert_slots: int  # of the cache; all experts for a policy that keeps them resident
    peak_slots: int  # the most that were taken at a time
    note: str  # what a reader must know of it
    log: DecisionLog | None
    simulated: bool  # or measured on real devices


def simulate(
    spec: str,
    setting: Setting,
    requests: Iterable[RecordedRequest],
    *,
    history: History | None = None,
    future: Future | None = None,
) -> Run:
    """Replay `requests` under the policy that `spec` names (see `make_policy`)."""
    assert not isinstance(setting.hardware, Devices)  # these are for a real run
    prepared = Prepared(spec, setting, history=history, future=future)
    recorder = Recorder()
    makespan_s = Engine(
        policy=prepared.policy,
        cache=prepared.cache,
        cost=cost_of(setting.model, setting.hardware),
        steps=fixed_batches(requests, setting.batch_size),
        recorder=recorder,
    ).run()
    return prepared.run(recorder, makespan_s, simulated=True)


class Prepared:
    """A policy that has been started, on a cache as it shall begin: what either driver is given.

    Whatever is random draws from one generator seeded with `setting.seed`, so a run does not depend on those beside it.
    """

    def __init__(self, spec: str, setting: Setting, *, history: History | None, future: Future | None) -> None:
        if setting.batch_size < 1:
            raise UserError(f"batch size {setting.batch_size}: at least 1 request is needed")
        self.policy = policy = make_policy(spec)
        self._spec, self._setting = spec, setting
        model, gpus = setting.model, setting.hardware.gpus
        split_slots(model, setting.cache_experts, gpus)  # what cannot be is refused for every policy
        check_replicas(setting.replicas, gpus)
        self.slots = split_slots(model, model.total_experts if policy.preloaded else setting.cache_experts, gpus)
        if "future" in policy.requires and future is None:
            raise UserError(f"policy {spec} needs to be told the future")
        policy.evictor.start(model, future)
        policy.prefetcher.start(model, history, future, np.random.default_rng(setting.seed))
        self._log = DecisionLog() if setting.log else None
        observers: list[Observer] = [self._log] if self._log else []
        if setting.check:
            observers.append(InvariantChecker(preloaded=model.total_experts if policy.preloaded else 0))
        make = partial(ObservedCache, observers=observers) if observers else ExpertCache
        self.cache: ExpertCache = make(
            model,
            policy.evictor,
            slots=self.slots,
            home=place(setting.placement, model, gpus, history, setting.expert_counts),
            replicas=setting.replicas,
            chunk_bytes=policy.chunk_bytes,
        )
        if policy.preloaded:
            self.cache.preload()

    def run(self, recorder: Recorder, makespan_s: float, *, simulated: bool) -> Run:
        """What has come out, once a driver is done."""
        return Run(
            policy=self._spec,
            setting=self._setting,
            iterations=recorder.iterations(),
            requests=recorder.requests(),
            counts=self.cache.counts,
            makespan_s=makespan_s,
            preloaded=self.policy.preloaded,
            expert_slots=sum(self.slots),
            peak_slots=self.cache.peak_slots,
            note=self.policy.prefetcher.note,
            log=self._log,
            simulated=simulated,
        )


def simulated_as(traced: ModelShape, published: ModelShape) -> ModelShape:
    """The traced model with the sizes of a published one; experts per layer and top-k must agree, layers stay."""
    if (traced.experts, traced.top_k) != (published.experts, published.top_k):
        raise UserError(
            f"--as {published.name}: it has top-{published.top_k} of {published.experts} experts, "
            f"the trace of {traced.name} has top-{traced.top_k} of {traced.experts}"
        )
    if traced.layers == published.layers:
        return published
    return replace(published, name=f"{published.name} layers × {traced.layers}", layers=traced.layers)


def slots_for(model: ModelShape, *, experts: int | None, share: float | None, gb: float | None) -> int:
    """Slots of all GPUs together, from a number of experts, gigabytes (1e9 bytes), or a share of L·J, rounded down."""
    if experts is not None:
        return experts
    if gb is not None:
        if not 0 < gb < float("inf"):
            raise UserError(f"--cache-gb {gb}: it is a number of gigabytes above 0")
        fitting = gb * 1e9 / model.expert_bytes
    else:
        assert share is not None
        if not 0 < share <= 1:
            raise UserError(f"--cache-share {share}: it is a share of all experts, above 0 and at most 1")
        fitting = share * model.total_experts
    return min(int(fitting + 1e-6), model.total_experts)  # 35 % of 1440 is 504, whatever binary fractions say


def needed_columns(specs: Sequence[str], *, embedding: bool, lookahead: Sequence[int], where: str) -> None:
    """A `UserError` that names the column if a policy needs one that the trace `where` does not have."""
    for spec in specs:
        requires = make_policy(spec).requires
        if "embedding" in requires and not embedding:
            raise UserError(f"policy {spec} needs embeddings.parquet, which {where} does not have")
        if "lookahead" in requires and 1 not in lookahead:
            raise UserError(f"policy {spec} needs a column lookahead_1, which {where} does not have")
