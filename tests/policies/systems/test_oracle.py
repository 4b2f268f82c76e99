"""Belady's rule against brute force: the integer program of the paper's §3.3 on tiny cases."""

from functools import cache

import numpy as np
import pytest

from common.errors import UserError
from policies.evictors.belady import Belady
from sim.engine.batching import fixed_batches
from tests.support.builders import KnownFuture, machine, random_requests, request_of, setup_of, shape
from tests.support.in_memory import Setting, simulate


def fewest_misses(events: list[frozenset], slots: int) -> int:
    """Try every eviction: the fewest loads that serve the events, each of which needs all its experts at once."""

    @cache
    def cost(place: int, cached: frozenset) -> int:
        if place == len(events):
            return 0
        need = events[place]
        loads = len(need - cached)
        pool = cached | need
        if len(pool) <= slots:
            return loads + cost(place + 1, pool)
        return loads + min(
            cost(place + 1, need | keep) for keep in combinations(sorted(pool - need), slots - len(need))
        )

    return cost(0, frozenset())


def combinations(pool, size):
    from itertools import combinations as choose

    return [frozenset(chosen) for chosen in choose(pool, size)]


def events_of(requests, model):
    return [
        frozenset(layer * model.experts + expert for expert in experts)
        for step in fixed_batches(requests, 1)
        for layer, experts in enumerate(step.demands)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_no_eviction_misses_less(seed):
    rng = np.random.default_rng(seed)
    model = shape(int(rng.integers(1, 3)), int(rng.integers(3, 5)), top_k=int(rng.integers(1, 3)))
    requests = random_requests(
        model, rng, requests=2, decoded=int(rng.integers(2, 6)), prefill_tokens=int(rng.integers(0, 2))
    )
    largest = max(map(len, events_of(requests, model)))
    slots = int(rng.integers(largest, model.total_experts))
    setting = Setting(model=model, hardware=machine(), cache_experts=slots)
    run = simulate("oracle", setting, requests, future=KnownFuture(model, requests))
    assert run.counts.misses == fewest_misses(events_of(requests, model), slots)


def test_it_evicts_the_expert_that_is_needed_again_last():
    """One layer, top-1, two slots, demands 0 1 2 0 1: at 2 expert 0 is needed next, so 1 goes; LRU would drop 0."""
    model = shape(1, 3, top_k=1)
    request = request_of([[[0]], [[1]], [[2]], [[0]], [[1]]], model)
    setting = Setting(model=model, hardware=machine(), cache_experts=2)
    misses = {
        policy: simulate(policy, setting, [request], future=KnownFuture(model, [request])).counts.misses
        for policy in ("oracle", "lru")
    }
    assert misses == {"oracle": 4, "lru": 5}


def test_it_sees_across_requests():
    """Expert 0 is not needed again in its own request, but first thing in the next."""
    model = shape(1, 3, top_k=1)
    requests = [request_of([[[0]], [[1]], [[2]]], model, number=5), request_of([[[0]], [[2]]], model, number=3)]
    setting = Setting(model=model, hardware=machine(), cache_experts=2)
    assert simulate("oracle", setting, requests, future=KnownFuture(model, requests)).counts.misses == 3


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_it_misses_no_more_than_lru(gpus, share):
    model = shape(6, 8)
    requests = random_requests(model, np.random.default_rng(1), requests=4, decoded=20)
    setting = Setting(model=model, hardware=machine(gpus), cache_experts=int(share * 48))
    oracle, lru = (simulate(p, setting, requests, future=KnownFuture(model, requests)) for p in ("oracle", "lru"))
    assert oracle.counts.misses <= lru.counts.misses


def test_in_a_batch_the_nearest_use_by_any_request_counts():
    """Two requests together: after the first iteration expert 0 is needed again by the second request alone."""
    model = shape(1, 4, top_k=1)
    requests = [
        request_of([[[0]], [[2]], [[3]]], model, number=0),
        request_of([[[1]], [[2]], [[0]]], model, number=1),
    ]
    evictor = Belady()
    evictor.start(setup_of(model, future=KnownFuture(model, requests)))
    steps = list(fixed_batches(requests, 2))
    evictor.on_batch(steps[0].batch)
    evictor.touched(0, steps[0].demands[0], 0.0)
    assert np.argsort(-evictor.scores, kind="stable").tolist()[:3] == [2, 0, 3]  # next uses after 1, 2 and 2 iterations
    assert evictor.scores[1] == -np.inf


def test_the_future_must_be_asked_for():
    model = shape()
    with pytest.raises(UserError, match="future"):
        simulate("oracle", Setting(model=model, hardware=machine(), cache_experts=4), [])
