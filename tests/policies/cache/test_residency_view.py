"""What policies see of the cache equals what its decisions add up to, and cannot be used to change it."""

import numpy as np
import pytest

from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Prefetch
from tests.policies.cache.test_cache import begin, cache_of
from tests.support.builders import shape
from tests.support.random_runs import random_run
from tests.support.slow_cases import slow_but

VIEWS = ("resident", "copying", "planned", "queued_bytes")


class Bookkeeping:
    """Counts from the calls alone what the view should show, and compares at every call; copies move whole."""

    def __init__(self):
        self.resident, self.begun, self.demanded = set(), {}, set()
        self.planned, self.waiting = {}, {}  # by layer
        self.compared = 0

    def called(self, cache, now_s, call, given, answer):
        experts = cache.model.experts
        if call == "plan":
            plan = {given.layer * experts + expert for expert in given.experts}
            self.planned[given.layer] = plan
            self.waiting[given.layer] = plan - self.resident - self.begun.keys() - self.demanded
        elif call == "demand":
            self.planned[given[0]] = self.waiting[given[0]] = set()
            self.demanded |= {given[0] * experts + expert for expert in answer.misses}
        elif call == "next_copy" and answer is not None:
            self.resident.discard(answer.victim)
            self.begun[answer.number] = answer.gpu
            self.demanded.discard(answer.number)
            if not answer.demanded:
                self.waiting[answer.number // experts].remove(answer.number)
        elif call == "copied":
            assert answer
            del self.begun[given.number]
            self.resident.add(given.number)
        self.compare(cache)

    def compare(self, cache):
        view, total = cache.view, cache.model.total_experts
        assert set(np.flatnonzero(view.resident)) == self.resident
        assert set(np.flatnonzero(view.copying)) == self.begun.keys()
        assert set(np.flatnonzero(view.planned)) == set().union(*self.planned.values())
        moving = [*self.begun, *self.demanded, *(x for waiting in self.waiting.values() for x in waiting)]
        moving = np.array(moving, int)
        homes = np.array(cache.home)[moving]
        sizes = np.array(cache.model.layer_expert_bytes)[moving // cache.model.experts]
        assert view.queued_bytes.tolist() == np.bincount(homes, sizes, minlength=len(cache.devices)).tolist()
        assert view.resident.size == total
        self.compared += 1


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("evictor", [LeastRecentlyUsed, BeliefAndFrequency])
@pytest.mark.parametrize("seed", slow_but(range(12), *range(4)))
def test_the_view_equals_the_sum_of_the_decisions_so_far(seed, evictor, replicas):
    books = Bookkeeping()
    random_run(seed, replicas=replicas, evictor=evictor(), observers=[books], chunk_bytes="whole")
    assert books.compared > 20


def test_chunks_that_have_arrived_are_no_longer_queued():
    """Experts of 24 bytes in chunks of 10, 10 and 4."""
    cache = cache_of(shape(2, 4), [4], chunk_bytes=10)
    device = cache.devices[0]

    def queued():
        return int(cache.view.queued_bytes[0])

    begin(cache)
    cache.plan(Prefetch(1, [2, 3], [1.0, 0.5]), 0.0)
    assert queued() == 48
    copy = device.next_copy(0.0)
    assert queued() == 48  # in the air
    device.copied(copy, 0.0)
    assert queued() == 38
    cache.demand(0, [0], 0.0)
    assert queued() == 38 + 24
    copy = device.next_copy(0.0)
    assert queued() == 38 + 24
    assert np.argwhere(cache.view.copying).tolist() == [[0, 0], [1, 2]]
    device.copied(copy, 0.0)  # demanded, so whole
    assert queued() == 38
    cache.demand(1, [2], 0.0)  # expert 3 is planned no more, expert 2 is late
    assert queued() == 14


@pytest.mark.parametrize("name", VIEWS)
def test_the_view_is_a_read_only_copy(name):
    cache = cache_of(shape(2, 4), [4])
    begin(cache)
    seen = getattr(cache.view, name)
    before = seen.copy()
    with pytest.raises(ValueError, match="read-only"):
        seen[...] = 1
    cache.plan(Prefetch(1, [0], [1.0]), 0.0)
    cache.demand(0, [1, 2], 0.0)
    device = cache.devices[0]
    device.copied(device.next_copy(0.0), 0.0)
    device.next_copy(0.0)
    assert np.array_equal(seen, before)
    assert not np.array_equal(getattr(cache.view, name), before)
    with pytest.raises(AttributeError):
        setattr(cache.view, name, before)


def test_shapes_and_types_are_those_of_the_model_and_the_machine():
    cache = cache_of(shape(2, 4), [2, 3])
    begin(cache)
    for name in VIEWS[:3]:
        assert getattr(cache.view, name).shape == (2, 4)
        assert getattr(cache.view, name).dtype == bool
    assert cache.view.queued_bytes.shape == (2,)
    assert cache.view.queued_bytes.dtype == np.int64
