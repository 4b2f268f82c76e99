"""The validator's loop with real threads: nothing is lost, and whatever fails ends the run at once."""

import queue
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.cache.expert_cache import ExpertCache
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.checked_policy import to_run
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.registry import make_policy
from policies.types import Prefetch
from sim.engine.batching import fixed_batches, gates_of
from sim.engine.recorder import Recorder
from tests.support.builders import machine, random_requests, setup_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.restless import Restless
from tests.support.slow_cases import slow_but
from validate.driver.clock import Clock
from validate.driver.threaded_driver import Driver

MODEL = shape(layers=4, experts=6, top_k=2)
REQUESTS = random_requests(MODEL, np.random.default_rng(3), requests=3, decoded=6, prefill_tokens=5, hidden=3)


@contextmanager
def without_hanging():
    begun = time.perf_counter()
    yield
    assert time.perf_counter() - begun < 60  # far more than a busy machine needs


def play(
    policy,
    *,
    move,
    requests=REQUESTS,
    slots=(3, 4),
    compute=lambda expert: None,
    chunk_bytes="whole",
    name="",
):
    """Run the requests with real threads; the cache after it."""
    policy = to_run(policy, name, check=False) if name else policy
    cache = ObservedCache(
        MODEL,
        policy.evictor,
        slots=slots,
        chunk_bytes=chunk_bytes,
        copy_key=policy.copy_key,
        observers=[InvariantChecker()],
    )
    policy.start(replace(setup_of(MODEL, requests), residency=cache.view))
    recorder = Recorder()
    with Driver(
        hooks=Hooks(policy),
        cache=cache,
        move=move,
        processors=[0] * len(cache.devices),
        recorder=recorder,
        clock=Clock(),
    ) as driver:
        for step in fixed_batches(requests, 1):
            gates = gates_of(step)
            driver.begin_iteration(step.batch, step.starting)
            for layer, experts in enumerate(step.demands):
                driver.begin_layer(layer)
                seen = []
                for expert in driver.gated(gates[layer], experts):
                    compute(expert)
                    driver.computed(expert)
                    seen.append(expert)
                assert sorted(seen) == experts
            driver.end_iteration(step.maps, step.experts, step.ending)
    return cache, recorder


def lru(**choices) -> Policy:
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed(), **choices)


def jittered(seed: int):
    """A copy of random length, from none to longer than a layer."""
    draw = random.Random(seed)
    return lambda copy: time.sleep(draw.choice([0.0, 0.0, 1e-5, 3e-4]))


def in_threads_of_this_test() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("link", "predictor"))]


@pytest.mark.parametrize("seed", slow_but(range(12), *range(6)))  # each cache in whole experts and in chunks
def test_whatever_a_policy_does_real_threads_keep_every_invariant_and_end(seed):
    rng = np.random.default_rng(seed)
    policy = Policy(
        prefetcher=Restless(seed, MODEL),
        evictor=LeastRecentlyUsed(),
        blocking_prediction=bool(rng.integers(2)),
        blocking_prefetch=bool(rng.integers(2)),
        compute_on_arrival=bool(rng.integers(2)),
    )
    chunk_bytes = ["whole", 7][seed % 2]
    cache, recorder = play(
        policy, move=jittered(seed), chunk_bytes=chunk_bytes, slots=[(2,), (3, 4), (1, 1, 1)][seed % 3]
    )
    counts = cache.counts
    steps = list(fixed_batches(REQUESTS, 1))
    assert counts.hits + counts.late + counts.misses == sum(len(each) for step in steps for each in step.demands)
    assert recorder.iterations()["iteration"].tolist() == list(range(len(steps)))
    assert in_threads_of_this_test() == []


def test_a_policy_may_look_at_the_cache_from_its_own_thread_while_links_change_it():
    seen = []

    class Looking(Restless):
        def start(self, setup):
            self.view = setup.residency

        def on_gate(self, batch, gate):
            for _ in range(30):
                view = self.view
                seen.append((view.resident.sum(), view.planned.any(), view.queued_bytes.sum()))
            return self._acts()

        def on_found(self, batch, layer_now, search, found):
            taken = self.view.resident | self.view.copying  # nothing changes meanwhile
            seen.append((taken.sum(), True, 0))
            return list(self._wishes())

    policy = Policy(prefetcher=Looking(0, MODEL), evictor=LeastRecentlyUsed())
    play(policy, move=jittered(2), chunk_bytes=7, slots=(3, 4))
    assert max(taken for taken, _, _ in seen) == 7  # as many as there are slots
    assert any(planned for _, planned, _ in seen)
    assert any(queued for _, _, queued in seen)


@pytest.mark.parametrize("seed", slow_but(range(8), *range(3)))
def test_experts_may_be_computed_by_other_threads_while_the_layer_goes_on(seed):
    """As on GPUs: the model's thread waits while two others compute, in layers that run in waves."""
    given: queue.Queue = queue.Queue()
    done = []

    def work(driver):
        while (expert := given.get()) is not None:
            driver.computed(expert)
            done.append(expert)

    policy = make_policy("hit-count,prefetch_distance=2")
    cache = ObservedCache(MODEL, policy.evictor, slots=(1, 2), observers=[InvariantChecker()])
    policy.start(replace(setup_of(MODEL, REQUESTS), residency=cache.view))
    steps = list(fixed_batches(REQUESTS, 3))
    with Driver(
        hooks=Hooks(policy),
        cache=cache,
        move=jittered(seed),
        processors=[0] * len(cache.devices),
        recorder=Recorder(),
        clock=Clock(),
    ) as driver:
        workers = [threading.Thread(target=work, args=(driver,), daemon=True) for _ in range(2)]
        for worker in workers:
            worker.start()
        for step in steps:
            gates = gates_of(step)
            driver.begin_iteration(step.batch, step.starting)
            for layer, experts in enumerate(step.demands):
                driver.begin_layer(layer)
                for expert in driver.gated(gates[layer], experts):
                    given.put(expert)
            driver.end_iteration(step.maps, step.experts, step.ending)
        for _ in workers:
            given.put(None)
    assert len(done) == sum(len(experts) for step in steps for experts in step.demands)


def test_a_deadlocked_run_ends_with_an_error(monkeypatch):
    demand = ExpertCache.demand

    def forgetful(cache, layer, experts, now_s):
        answer = demand(cache, layer, experts, now_s)
        for device in cache.devices:
            device.demanded.clear()
        return answer

    monkeypatch.setattr(ExpertCache, "demand", forgetful)
    stuck = r"^the run is stuck in iteration 0 after .* s: layer 0 waits for"
    with without_hanging(), pytest.raises(UserError, match=stuck):
        play(lru(), move=lambda copy: None)
    assert in_threads_of_this_test() == []


@pytest.mark.parametrize("slots", [(2,), (9,), (4, 3), (8, 8, 8)])
def test_on_demand_hits_and_copies_equal_the_simulated_ones(slots):
    """What is there when a layer asks depends on the order of demands alone, not on how long anything takes."""
    setting = Setting(model=MODEL, hardware=machine(len(slots)), cache_experts=sum(slots))
    simulated = simulate("lru", setting, REQUESTS)
    cache, recorder = play(lru(), move=jittered(1), slots=slots)
    assert cache.counts == simulated.counts
    columns = ["hits", "late", "misses"]
    assert recorder.iterations()[columns].equals(simulated.iterations[columns])


def test_finemoe_runs_beside_inference():
    cache, _ = play(
        make_policy("finemoe,prefetch_distance=2"), move=lambda copy: None, compute=lambda _: time.sleep(1e-4)
    )
    assert cache.counts.prefetched > 0
    assert cache.counts.useful > 0


def test_a_copy_that_fails_ends_the_run_with_its_message():
    copies = []

    def failing(copy):
        copies.append(copy)
        if len(copies) == 7:
            raise OSError(5, "Input/output error")

    failed = r"the link [01] has failed: OSError: \[Errno 5\] Input/output error"
    with without_hanging(), pytest.raises(UserError, match=failed):
        play(lru(), move=failing)
    assert in_threads_of_this_test() == []


def test_a_prefetcher_that_fails_ends_the_run_with_its_message():
    class Broken(Prefetcher):
        def on_gate(self, batch, gate):
            yield Prefetch(0, [0], [1.0])
            raise ZeroDivisionError("no such luck")

    with pytest.raises(UserError, match="the predictor has failed: ZeroDivisionError: no such luck"):
        play(Policy(prefetcher=Broken(), evictor=LeastRecentlyUsed(), blocking_prediction=True), move=lambda copy: None)
    assert in_threads_of_this_test() == []


def test_an_error_of_the_user_passes_as_it_is():
    class Refusing(Prefetcher):
        def on_batch(self, batch):
            raise UserError("finemoe: no")

    with pytest.raises(UserError, match=r"^finemoe: no$"):
        play(Policy(prefetcher=Refusing(), evictor=LeastRecentlyUsed()), move=lambda copy: time.sleep(1e-3))


def test_a_hanging_copy_does_not_delay_an_interruption():
    """Ctrl-C while the model waits for a copy that never comes."""
    hanging = threading.Event()

    def interrupt(expert):
        raise KeyboardInterrupt

    first, ended = [], []

    def move(copy):
        first.append(copy)
        if len(first) > 1:
            hanging.wait(120)
            ended.append(copy)

    with pytest.raises(KeyboardInterrupt):
        play(lru(), move=move, compute=interrupt)
    assert ended == []
    hanging.set()
