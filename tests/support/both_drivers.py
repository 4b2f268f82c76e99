"""One run by both drivers: the simulator's engine, and the validator's driver under a fake clock."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import pytest

from policies.base import Policy
from policies.cache.decision_log import DecisionLog, LoggedCall, transfers
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.cache.placement import split_slots
from policies.checked_policy import to_run
from policies.hooks import Hooks
from policies.types import Demand, RecordedRequest, Setup
from sim.engine.batching import Step, fixed_batches, gates_of
from sim.engine.contended_engine import engine_for
from sim.engine.layer_times import LayerTimes
from sim.engine.recorder import Recorder
from sim.hardware.costs import Cost, rates_of
from sim.hardware.effects import Effects
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.fake_clock import FakeClock
from tests.support.fake_machine import FakeMachine
from validate.driver.threaded_driver import Driver

SLOW = 1e7  # bytes/s: a copy takes about as long as attention
TICK = 2.0**-40  # about a picosecond: sums of such times are exact, in whatever order they are taken


STRETCH = {
    "dense_s": 1.0,
    "expert_s": 1.001134,
    "exchange_s": 1.001719,
    "head_s": 1.002306,
    "copy_s": 1.003141,
    "copy_latency_s": 1.003727,
    "search_s": 1.004782,
}


NONE = Effects()


class ExactCost:
    """A cost model rounded to ticks, so that two drivers that add the same times get the same bits.

    Each cost is stretched a little, so that unrelated things do not happen at the same moment by chance.
    """

    launch_s = driving_s = 0.0  # the driver can tell neither these nor exchange from computing

    def __init__(self, cost: Cost, effects: Effects) -> None:
        self._cost = cost
        self.effects = effects

    def __getattr__(self, name):
        method, stretch = getattr(self._cost, name), STRETCH[name]
        return lambda *given: max(1, round(method(*given) * stretch / TICK)) * TICK


class _Launching(Driver):
    """A driver whose model spends CPU time on launching a layer's experts, once no search keeps it waiting."""

    def __init__(self, expert_host_s: float, **given) -> None:
        super().__init__(**given)
        self._launch_s = expert_host_s
        self._times = _LaunchedTimes([device.slots for device in self.cache.devices], given["processors"])

    def _ready(self, demand: Demand) -> Iterator[int]:
        self._times.launching_s = self._launch_s * len(self._experts)
        if self._launch_s:
            self._clock.sleep(self._times.launching_s)
        yield from super()._ready(demand)


class _LaunchedTimes(LayerTimes):
    """Waits count from when the experts of a layer have been launched."""

    def ended(self, demand: Demand, start_s: float, *, at_once: bool) -> float:
        return super().ended(demand, start_s + self.launching_s, at_once=at_once)


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
        effects=NONE,
        copy_bytes_per_s=1e9,
        name="",
    ) -> None:
        policy = to_run(policy, name, check=False) if name else policy
        self.hooks, self.requests, self.model = Hooks(policy), requests, model
        self.cost = ExactCost(machine(gpus, bytes_per_s=copy_bytes_per_s, latency_s=1e-7).cost(model), effects)
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
        engine = engine_for(self.cost)
        engine(hooks=self.hooks, cache=self.cache, cost=self.cost, steps=steps, recorder=self.recorder).run()
        return self

    def run(self, batch_size: int) -> "Played":
        """The same by the validator's driver."""
        clock = FakeClock(self.cost.search_s)
        machine = FakeMachine(clock, self.cost, len(self.cache.devices))
        with _Launching(
            self.cost.effects.expert_host_s,
            hooks=self.hooks,
            cache=self.cache,
            move=machine.move,
            processors=range(len(self.cache.devices)),
            recorder=self.recorder,
            clock=clock,
        ) as driver:
            for step in fixed_batches(self.requests, batch_size):
                self._iterate(driver, clock, machine, step)
        return self

    def _iterate(self, driver: Driver, clock: FakeClock, machine: FakeMachine, step: Step) -> None:
        """What a model and its GPUs do, each GPU computing its experts one after the other."""
        gates, tokens, gpus = gates_of(step), len(step.batch.token), len(self.cache.devices)
        driver.begin_iteration(step.batch, step.starting)
        clock.sleep(0.0)  # others hear of it before the first layer begins
        for layer, experts in enumerate(step.demands):
            driver.begin_layer(layer)
            dense_s, host_s = self.cost.dense_s(tokens, step.context, step.attended), self.cost.effects.layer_host_s
            machine.work(layer % gpus, dense_s, after_s=host_s)
            loads = dict(zip(experts, step.loads[layer] if step.loads else [1] * len(experts), strict=True))
            for expert in driver.gated(gates[layer], experts):
                gpu = self.cache.home[layer * self.model.experts + expert]
                machine.queue(gpu, self.cost.expert_s(loads[expert]), partial(driver.computed, expert))
            clock.sleep(self.cost.exchange_s(tokens))
        machine.work((self.model.layers - 1) % gpus, self.cost.head_s(len(step.batch.request)))
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
    assert_same_scores(simulated, run)
    assert simulated.recorder.requests().equals(run.recorder.requests())
    pd.testing.assert_frame_equal(run.recorder.iterations(), as_measured(simulated), check_exact=True)


def assert_same_scores(simulated: Played, run: Played) -> None:
    """Of searches, but for the last bits: a simulation answers them in blocks."""
    for one, other in zip(simulated.hooks.scores.values(), run.hooks.scores.values(), strict=True):
        assert one.searches == other.searches
        assert one.total == pytest.approx(other.total, rel=1e-5)


def as_measured(simulated: Played) -> pd.DataFrame:
    """The iterations of a simulation as a real run sees them: it cannot tell what its model does between two calls."""
    found = simulated.recorder.iterations()
    host_s = simulated.cost.effects.layer_host_s * simulated.model.layers
    found["compute_s"] += found["exchange_s"] + host_s
    found["exchange_s"] = 0.0
    found["overhead_s"] -= host_s
    return found


def alike(simulated: Played, run: Played) -> bool:
    """As `assert_same`, but for the last digits of times, which are rounded differently where speeds change.

    So at one moment the links may come in another order. False if the logs are equal up to a moment at which two things
    happen that have nothing to do with each other, and decisions depend on which comes first.
    """
    end_s = simulated.recorder.iterations()["end_s"].max()  # a real run lets copies land that are still on their way
    logs = [by_moment(row for row in played.log.in_time() if row.time_s <= end_s) for played in (simulated, run)]
    for expected, got in zip(*logs, strict=False):
        if got._replace(time_s=expected.time_s) != expected and len(happening(logs[0], expected.time_s)) > 1:
            return False
        assert got._replace(time_s=expected.time_s) == expected
        assert got.time_s == pytest.approx(expected.time_s, rel=1e-12)
    assert len(logs[0]) == len(logs[1])
    assert_same_scores(simulated, run)
    pd.testing.assert_frame_equal(run.recorder.requests(), simulated.recorder.requests(), rtol=1e-9, atol=0.0)
    pd.testing.assert_frame_equal(run.recorder.iterations(), as_measured(simulated), rtol=1e-9, atol=1e-12)
    return True


def by_moment(rows: Iterable[LoggedCall]) -> list[LoggedCall]:
    """Rows in time, those of a moment by their link."""
    found: list[tuple[float, int, LoggedCall]] = []
    moment_s = -1.0
    for row in rows:
        moment_s = moment_s if row.time_s - moment_s < TICK / 2 else row.time_s
        found.append((moment_s, row.gpu, row))
    return [row for _, _, row in sorted(found, key=lambda each: each[:2])]


def happening(rows: Sequence[LoggedCall], at_s: float) -> set[object]:
    """What happens at a moment of its own accord; copies of one layer that began together land together."""
    landing = {(each.start_s, each.layer) for each in transfers(rows) if abs(each.end_s - at_s) < TICK / 2}
    others = {row.call for row in rows if abs(row.time_s - at_s) < TICK / 2 and row.call in ("demand", "release")}
    return landing | others
