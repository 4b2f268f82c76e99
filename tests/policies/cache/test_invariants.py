"""Each invariant holds in runs of every kind, and its check fails when it is broken on purpose."""

import numpy as np
import pytest

from policies.cache.invariants import InvariantChecker, InvariantError, check_copies, check_slots
from policies.cache.observed_cache import ObservedCache
from policies.cache.residency import ABSENT
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Prefetch
from tests.policies.cache.test_cache import begin
from tests.support.builders import KnownFuture, machine, random_requests, setup_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.random_runs import random_run
from tests.support.slow_cases import slow_but


def watched(slots=(2,), layers=2, **choices):
    model = shape(layers, 4)
    evictor = LeastRecentlyUsed()
    evictor.start(setup_of(model))
    cache = ObservedCache(
        model,
        evictor,
        slots=list(slots),
        observers=[InvariantChecker()],
        **choices,
    )
    begin(cache)
    return cache


def test_two_experts_in_one_slot_break_1():
    cache = watched()
    cache.demand(0, [0, 1], 0.0)
    for _ in range(2):
        cache.devices[0].copied(cache.devices[0].next_copy(0.0), 0.0)
    cache.residency.slot[1] = cache.residency.slot[0]
    with pytest.raises(InvariantError, match="invariant 1 "):
        check_slots(cache)


def test_an_expert_that_vanishes_breaks_2():
    cache = watched()
    cache.demand(0, [0], 0.0)
    cache.devices[0].copied(cache.devices[0].next_copy(0.0), 0.0)
    cache.residency.where[0] = ABSENT
    with pytest.raises(InvariantError, match="invariant 2 "):
        check_copies(cache, 0)


def test_bytes_that_nothing_moved_break_3():
    cache = watched()
    cache.demand(0, [0], 0.0)
    copy = cache.devices[0].next_copy(0.0)
    cache.counts.bytes += 1
    with pytest.raises(InvariantError, match="invariant 3 "):
        cache.devices[0].copied(copy, 0.0)


def test_a_chunk_out_of_order_breaks_3():
    cache = watched(chunk_bytes=8)
    cache.demand(0, [0], 0.0)
    copy = cache.devices[0].next_copy(0.0)
    copy.chunk = 2
    with pytest.raises(InvariantError, match="invariant 3 "):
        cache.devices[0].copied(copy, 0.0)


def test_more_chunks_than_an_expert_has_break_3():
    cache = watched(chunk_bytes=8)
    cache.demand(0, [0], 0.0)
    copy = cache.devices[0].next_copy(0.0)
    copy.chunks = 4
    with pytest.raises(InvariantError, match="invariant 3 "):
        cache.devices[0].copied(copy, 0.0)


def test_a_hit_too_many_breaks_4():
    cache = watched()
    cache.counts.hits += 1
    with pytest.raises(InvariantError, match="invariant 4 "):
        cache.demand(0, [0], 0.0)


def test_computing_a_missing_expert_breaks_5():
    cache = watched()
    cache.demand(0, [0], 0.0)
    with pytest.raises(InvariantError, match="invariant 5 "):
        cache.release(0, [0], 1.0, 1.0)


def test_time_that_goes_back_breaks_6():
    cache = watched()
    cache.demand(0, [0], 2.0)
    with pytest.raises(InvariantError, match="invariant 6 "):
        cache.devices[0].next_copy(1.0)


def test_a_prefetch_without_an_end_breaks_7():
    cache = watched()
    cache.plan(Prefetch(1, [0], [1.0]), 0.0)
    cache.devices[0].next_copy(0.0)
    cache.residency.unused[4] = 0
    with pytest.raises(InvariantError, match="invariant 7 "):
        cache.demand(0, [0], 0.0)


def test_evicting_an_expert_in_use_breaks_8():
    cache = watched()
    cache.demand(0, [0, 1], 0.0)
    for _ in range(2):
        cache.devices[0].copied(cache.devices[0].next_copy(0.0), 0.0)
    cache.residency.pinned = []
    cache.plan(Prefetch(1, [0], [1.0]), 0.0)
    with pytest.raises(InvariantError, match="invariant 8 "):
        cache.devices[0].next_copy(0.0)


def test_moving_a_present_expert_breaks_9():
    cache = watched(slots=(2, 2), replicas=2)
    cache.demand(0, [0], 0.0)
    cache.devices[0].copied(cache.devices[0].next_copy(0.0), 0.0)
    cache.home[0] = 1
    with pytest.raises(InvariantError, match="invariant 9 "):
        cache.release(0, [0], 0.0, 0.0)
    with pytest.raises(InvariantError, match="invariant 9 "):
        begin(cache, 1)


def test_a_copy_to_a_gpu_that_is_no_home_breaks_9():
    cache = watched(slots=(2, 2))
    cache.home[0] = 1
    cache.devices[1].demanded.append(0)
    with pytest.raises(InvariantError, match="invariant 9 "):
        cache.devices[1].next_copy(0.0)


def test_moving_an_expert_that_waits_for_a_link_breaks_9():
    cache = watched(slots=(2, 2), replicas=2)
    cache.demand(0, [0], 0.0)
    cache.home[0] = 1
    with pytest.raises(InvariantError, match="invariant 9 "):
        cache.devices[0].next_copy(0.0)


# GPUs, replicas, batch size and share of the experts in the cache
PLACES = [
    (*links, batch_size, share)
    for links in ((1, 1), (3, 1), (3, 2), (3, 3))
    for batch_size in (1, 2)
    for share in ("smallest", "half")
]


@pytest.mark.parametrize("policy", ["finemoe,prefetch_distance=2", "lru", "no-offload", "clairvoyant"])
@pytest.mark.parametrize(
    ("gpus", "replicas", "batch_size", "share"),
    slow_but(PLACES, *((*links, size, share) for *links, size, share in PLACES if (size == 1) == (share == "half"))),
)
def test_all_invariants_hold_throughout_a_run(policy, gpus, replicas, batch_size, share):
    model = shape(4, 6)
    rng = np.random.default_rng(7)
    requests = random_requests(model, rng, requests=4, decoded=8, prefill_tokens=5, hidden=3)
    setting = Setting(
        model=model,
        hardware=machine(gpus, bytes_per_s=2e6, latency_s=1e-6),
        cache_experts=max(2, gpus) if share == "smallest" else 12,
        batch_size=batch_size,
        replicas=replicas,
        check=True,
    )
    future = KnownFuture(model, requests[2:])
    run = simulate(policy, setting, requests[2:], history=requests[:2], future=future)
    assert run.counts.hits + run.counts.late + run.counts.misses > 0


RANDOM_RUNS = [(seed, replicas) for replicas in (1, 2, 3) for seed in range(48)]


@pytest.mark.parametrize(("seed", "replicas"), slow_but(RANDOM_RUNS, *((seed, 1 + seed % 3) for seed in range(48))))
def test_no_prefetcher_can_break_the_cache_or_stop_the_clock(seed, replicas):
    """Random wishes, machines and choices: every run ends, demands everything once, and keeps all invariants."""
    run = random_run(seed, replicas=replicas)
    iterations = run.recorder.iterations()
    assert len(iterations) == len(run.steps)
    demanded = iterations[["hits", "late", "misses"]].to_numpy().sum()
    assert demanded == sum(len(experts) for step in run.steps for experts in step.demands)
