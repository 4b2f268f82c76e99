"""The validator's own loop, driven by a fake clock, writes the simulator's decision log byte for byte."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from policies.base import Evictor, Policy, Prefetcher
from policies.cache.decision_log import DecisionLog
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.cache.placement import split_slots
from policies.checked_policy import to_run
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.registry import make_policy, policy_names
from policies.types import Likely, Prefetch, RecordedRequest, Search, Setup
from sim.engine.batching import Step, fixed_batches, gates_of
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from sim.hardware.costs import Cost, rates_of
from sim.hardware.effects import Effects
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.fake_clock import FakeClock
from tests.support.policy_helpers import OUTSIDE
from validate.driver.threaded_driver import Driver

LEARNED = "tests.support.learned_policy:learned"  # shares state, reads residency and rates, charges both parts

TICK = 2.0**-40  # about a picosecond: sums of such times are exact, in whatever order they are taken


STRETCH = {
    "dense_s": 1.0,
    "expert_s": 1.0011,
    "exchange_s": 1.0017,
    "head_s": 1.0023,
    "copy_s": 1.0031,
    "search_s": 1.0047,
}


class ExactCost:
    """A cost model rounded to ticks, so that two drivers that add the same times get the same bits.

    Each cost is stretched a little, so that unrelated things do not happen at the same moment by chance.
    """

    effects = Effects()
    launch_s = driving_s = 0.0  # the driver can tell neither these nor exchange from computing

    def __init__(self, cost: Cost) -> None:
        self._cost = cost

    def __getattr__(self, name):
        method, stretch = getattr(self._cost, name), STRETCH[name]
        return lambda *given: max(1, round(method(*given) * stretch / TICK)) * TICK


class Played:
    """A policy and its cache, fresh for each driver."""

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[RecordedRequest],
        model,
        slots,
        gpus,
        *,
        history=(),
        replicas=1,
        serial_demand=False,
        name="",
    ) -> None:
        policy = to_run(policy, name, check=False) if name else policy
        self.hooks, self.requests, self.model = Hooks(policy), requests, model
        self.cost = ExactCost(machine(gpus).cost(model))
        self.log, self.recorder = DecisionLog(), Recorder()
        total = model.total_experts if policy.preloaded else slots
        self.cache = ObservedCache(
            model,
            policy.evictor,
            slots=split_slots(model, total, gpus),
            replicas=replicas,
            chunk_bytes=policy.chunk_bytes or "whole",
            copy_key=policy.copy_key,
            refused_blocks=policy.refused_blocks,
            serial_demand=serial_demand,
            observers=[self.log, InvariantChecker(model.total_experts if policy.preloaded else 0)],
        )
        if policy.preloaded:
            self.cache.preload()
        policy.start(
            Setup(
                model=model,
                slots=split_slots(model, total, gpus),
                rng=np.random.default_rng(5),
                residency=self.cache.view,
                history=list(history),
                rates=rates_of(self.cost, model, gpus),
                future=KnownFuture(model, requests),
            )
        )

    def simulated(self, batch_size: int) -> "Played":
        steps = fixed_batches(self.requests, batch_size)
        Engine(hooks=self.hooks, cache=self.cache, cost=self.cost, steps=steps, recorder=self.recorder).run()
        return self

    def run(self, batch_size: int) -> "Played":
        """The same by the validator's driver."""
        clock = FakeClock(self.cost.search_s)
        with Driver(
            hooks=self.hooks,
            cache=self.cache,
            move=lambda copy: clock.sleep(self.cost.copy_s(copy.bytes)),
            processors=range(len(self.cache.devices)),
            recorder=self.recorder,
            clock=clock,
        ) as driver:
            for step in fixed_batches(self.requests, batch_size):
                self._iterate(driver, clock, step)
        return self

    def _iterate(self, driver: Driver, clock: FakeClock, step: Step) -> None:
        """What a model and its GPUs do, each GPU computing its experts one after the other."""
        gates, tokens = gates_of(step), len(step.batch.token)
        driver.begin_iteration(step.batch, step.starting)
        clock.sleep(0.0)  # others hear of it before the first layer begins
        for layer, experts in enumerate(step.demands):
            driver.begin_layer(layer)
            clock.sleep(self.cost.dense_s(tokens, step.context, step.attended))
            loads = dict(zip(experts, step.loads[layer] if step.loads else [1] * len(experts), strict=True))
            busy_s = [clock.now_s()] * len(self.cache.devices)
            for expert in driver.gated(gates[layer], experts):
                gpu = self.cache.home[layer * self.model.experts + expert]
                busy_s[gpu] = max(busy_s[gpu], clock.now_s()) + self.cost.expert_s(loads[expert])
                clock.at(busy_s[gpu], partial(driver.computed, expert))
            clock.sleep(self.cost.exchange_s(tokens))
        clock.sleep(self.cost.head_s(len(step.batch.request)))
        driver.end_iteration(step.maps, step.experts, step.ending)
        clock.sleep(0.0)  # others hear of it before the next iteration begins

    def bytes(self) -> bytes:
        return "\n".join(map(repr, self.log.in_time())).encode()


def both(make, *, name="", model=None, gpus=1, slots=8, batch_size=1, seed=0, prefill_tokens=5, **choices):
    """The same run by both drivers."""
    model = model or shape(layers=4, experts=6, top_k=2)
    rng = np.random.default_rng(seed)
    requests = random_requests(model, rng, requests=4, decoded=5, prefill_tokens=prefill_tokens, hidden=3)
    requests = [with_lookahead(recorded, 1) for recorded in requests]
    history = random_requests(model, rng, requests=3, hidden=3)
    given = {"name": name, "model": model, "slots": slots, "gpus": gpus, "history": history, **choices}
    return Played(make(), requests, **given).simulated(batch_size), Played(make(), requests, **given).run(batch_size)


def assert_same(simulated: Played, run: Played) -> None:
    for expected, got in zip(simulated.log.in_time(), run.log.in_time(), strict=False):
        assert expected == got
    assert simulated.bytes() == run.bytes()
    assert simulated.cache.counts == run.cache.counts
    assert simulated.recorder.requests().equals(run.recorder.requests())
    expected = simulated.recorder.iterations()
    expected["compute_s"] += expected["exchange_s"]  # which a real run cannot tell apart
    expected["exchange_s"] = 0.0
    pd.testing.assert_frame_equal(run.recorder.iterations(), expected, check_exact=True)


@pytest.mark.parametrize(("gpus", "replicas"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("slots", [4, 9, 16])
@pytest.mark.parametrize("name", [*policy_names(), *OUTSIDE, LEARNED])
def test_both_drivers_write_the_same_log(name: str, slots: int, batch_size: int, gpus: int, replicas: int) -> None:
    simulated, run = both(
        lambda: make_policy(name), name=name, gpus=gpus, replicas=replicas, slots=slots, batch_size=batch_size
    )
    assert_same(simulated, run)
    assert len(run.log.rows) > 200 or name == "no-offload"


class Guarding(Evictor):
    """Guards by scores that are drawn anew at each event, and charges for it."""

    guards = True

    def start(self, setup):
        super().start(setup)
        self._rng = np.random.default_rng(7)

    def touched(self, layer, experts, now_s):
        self.scores[:] = self._rng.random(len(self.scores))
        return [Search("update", layer, 1, 3, int(self._rng.integers(1, 900)))]

    def foreseen(self, fetched, occupants):
        return self.scores[occupants]


class Restless(Prefetcher):
    """Wishes and searches at random at every moment, and lets what it finds mean anything."""

    def __init__(self, seed: int, model) -> None:
        self._rng, self._model = np.random.default_rng(seed), model

    def _wishes(self):
        for _ in range(self._rng.integers(3)):
            count = int(self._rng.integers(1, self._model.experts + 1))
            experts = self._rng.permutation(self._model.experts)[:count].tolist()
            yield Prefetch(int(self._rng.integers(self._model.layers)), experts, self._rng.random(count).tolist())

    def _acts(self):
        yield from self._wishes()
        for _ in range(self._rng.integers(3)):
            yield Search("speculate", 0, 1, int(self._rng.integers(1, 20)), int(self._rng.integers(1, 2000)))
        yield from self._wishes()

    def on_batch(self, batch):
        return self._acts()

    def on_layer(self, batch, layer):
        return self._acts()

    def on_gate(self, batch, gate):
        return self._acts()

    def search(self, search):
        layers = self._rng.integers(self._model.layers, size=1)
        return Likely(layers, self._rng.random((1, 1, self._model.experts)))

    def on_found(self, batch, layer_now, search, found):
        return list(self._wishes())

    def on_batch_end(self, batch, maps, experts):
        return [Search("update", 0, 1, 5, int(self._rng.integers(1, 2000)))]


def nearest_first(layer, expert, weight, distance):
    return -distance + weight / 2


@pytest.mark.parametrize(
    ("seed", "replicas"), [(seed, replicas) for seed in range(60) for replicas in (1, 2 + seed // 6 % 2)]
)
def test_both_drivers_write_the_same_log_whatever_a_policy_does(seed: int, replicas: int) -> None:
    """Random plans, searches, choices and machines; a link that finds no slot, waves, late answers and promotions."""
    rng = np.random.default_rng(seed)
    model = shape(int(rng.integers(1, 5)), int(rng.integers(3, 7)), top_k=int(rng.integers(1, 3)))
    if seed % 5 == 0:  # as under mixed quantisation
        sizes = np.random.default_rng([seed, 1]).integers(5, 40, model.layers)
        model = replace(model, expert_bytes_by_layer=tuple(sizes.tolist()))
    gpus = max(int(rng.integers(1, 4)), replicas)
    least = max(model.top_k, gpus)
    choices = {
        "blocking_prediction": bool(rng.integers(2)),
        "blocking_prefetch": bool(rng.integers(2)),
        "compute_on_arrival": bool(rng.integers(2)),
        "chunk_bytes": ["whole", 7, 12][int(rng.integers(3))],
        "refused_blocks": bool(rng.integers(2)),
        "copy_key": [None, nearest_first][int(rng.integers(2))],
    }

    def restless() -> Policy:
        evictor = [LeastRecentlyUsed, BeliefAndFrequency, Evictor, Guarding][seed % 4]()
        return Policy(prefetcher=Restless(seed, model), evictor=evictor, **choices)

    simulated, run = both(
        restless,
        model=model,
        gpus=gpus,
        replicas=replicas,
        slots=int(rng.integers(least, model.total_experts + 1)),
        batch_size=1 + seed % 2,
        seed=seed,
        prefill_tokens=int(rng.integers(0, 4)),
        serial_demand=bool(np.random.default_rng([seed, 2]).integers(2)),
    )
    assert_same(simulated, run)
    assert len(run.log.rows) > 100
