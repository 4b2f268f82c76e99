"""Where what a layer waits for moves one at a time: planned experts take turns, in order, and none is stuck."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Policy, Prefetcher
from policies.cache.decision_log import DecisionLog
from policies.cache.invariants import InvariantError
from policies.evictors.recency import LeastRecentlyUsed
from policies.systems.deepspeed import deepspeed
from policies.types import Prefetch
from tests.policies.cache.test_invariants import watched
from tests.sim.engine.test_timeline import HalvesCost, copies, run
from tests.support.builders import US, HandCost, request_of, scripted, setup_of, shape
from tests.support.random_runs import random_run

A, B = 0, 1  # layers
EVERY = [0, 1, 2, 3]


class AtLayers(Prefetcher):
    """Plans written down by the layer that begins."""

    def __init__(self, plans: dict[int, list[Prefetch]]) -> None:
        self._plans = plans

    def on_layer(self, batch, layer):
        return self._plans.get(layer, [])


def begun(policy, *, slots, serial=True, layers=1, experts=4, **choices):
    """(start in µs, layer, expert, chunk) of each copy in one step that demands expert 0 of each layer; its end."""
    model = shape(layers=layers, experts=experts, top_k=1)
    cost = HalvesCost() if "chunk_bytes" in choices else HandCost()
    policy.start(setup_of(model))
    recorder, _, log = run(
        model, policy, [request_of([[[0]] * layers], model)], slots=slots, cost=cost, serial_demand=serial, **choices
    )
    return [each[:4] for each in copies(log)], round(recorder.iterations()["end_s"].iloc[0] / US, 6)


def test_a_layer_fetched_whole_arrives_expert_by_expert():
    """Two GPUs, even experts on GPU 0; attention starts at 40 in place of 20 and takes 5 µs, the expert 4 µs."""
    assert begun(deepspeed(), slots=[2, 2]) == ([(10 * each, A, each, 0) for each in EVERY], 49)
    assert begun(deepspeed(), slots=[2, 2], serial=False) == (
        [(0, A, 0, 0), (0, A, 1, 0), (10, A, 2, 0), (10, A, 3, 0)],
        29,
    )


def test_a_copy_in_flight_goes_on_and_a_begun_one_precedes_those_without_a_slot():
    """A chunk takes 10 µs. When layer a begins, first chunks of a0 and a1 are in flight, as they were planned before.

    10 both land; a0 goes on, 10-20
    20 GPU 0 would begin a2, but a1 has begun: it goes on, 20-30
    30 a2 in two chunks, 30-50: once begun, before a3
    50 a3, 50-70. Attention 70-75, expert 0 75-79
    """
    policy = scripted({(0, -1): [Prefetch(A, EVERY, [1.0] * 4)]}, LeastRecentlyUsed(), blocking_prefetch=True)
    found = begun(policy, slots=[2, 2], chunk_bytes=12)
    late = [(10, A, 0, 1), (20, A, 1, 1), (30, A, 2, 0), (40, A, 2, 1), (50, A, 3, 0), (60, A, 3, 1)]
    assert found == ([(0, A, 0, 0), (0, A, 1, 0), *late], 79)


def test_a_link_that_waits_for_its_turn_moves_nothing_else_and_the_others_do():
    """GPU 1 waits with a1 until 10, and moves b1 only then; GPU 2 has nothing of layer a, so it moves b2 at once."""
    plans = {A: [Prefetch(A, [0, 1], [1.0, 1.0]), Prefetch(B, [1, 2], [0.5, 0.5])]}
    policy = Policy(prefetcher=AtLayers(plans), evictor=LeastRecentlyUsed(), blocking_prefetch=True)
    found, _ = begun(policy, slots=[2, 2, 2], layers=2, experts=3)
    assert found[:4] == [(0, A, 0, 0), (0, B, 2, 0), (10, A, 1, 0), (20, B, 1, 0)]


def test_a_more_urgent_prefetch_of_another_layer_needs_no_turn():
    """Weight / distance of b0, 1.5, is above that of a0; meanwhile a1 has the turn."""
    plans = {A: [Prefetch(A, [0, 1], [1.0, 1.0]), Prefetch(B, [0], [3.0])]}
    policy = Policy(prefetcher=AtLayers(plans), evictor=LeastRecentlyUsed(), blocking_prefetch=True)
    found, _ = begun(policy, slots=[2, 2], layers=2)
    assert found[:3] == [(0, B, 0, 0), (0, A, 1, 0), (10, A, 0, 0)]


def test_a_link_without_a_slot_delays_neither_the_turn_nor_the_layer():
    """A slot on each of three GPUs, taken by their first experts: a3, a4 and a5 find none. Attention starts at 30."""
    found, end = begun(deepspeed(), slots=[1, 1, 1], experts=6)
    assert found == [(0, A, 0, 0), (10, A, 1, 0), (20, A, 2, 0)]
    assert end == 39


def test_the_turn_skips_a_link_that_finds_no_slot():
    """GPU 1 waits with a1, and its slot is in use until its layer ends, so that a2 on GPU 2 comes first."""
    cache = watched((2, 1, 2), serial_demand=True)
    cache.demand(B, [0], 0.0)
    cache.devices[1].copied(cache.devices[1].next_copy(0.0), 0.0)
    cache.begin_wait(A)
    cache.plan(Prefetch(A, [0, 1, 2], [1.0] * 3), 0.0)
    first = cache.devices[0].next_copy(0.0)
    assert [cache.devices[gpu].next_copy(0.0) for gpu in (2, 1)] == [None, None]
    assert not cache.stalled
    cache.wake.clear()
    cache.devices[0].copied(first, 1.0)
    assert cache.devices[0].next_copy(1.0) is None
    assert cache.wake == [cache.devices[1]]
    assert cache.devices[1].next_copy(1.0) is None
    assert cache.stalled == [cache.devices[1]]
    assert cache.wake[1:] == [cache.devices[2]]
    assert cache.devices[2].next_copy(1.0).number == 2


def test_waiting_links_choose_again_when_their_layer_gets_another_plan():
    """The piece that has the turn keeps it, planned or not; a1 is not wanted any more, so b1 need not wait."""
    cache = watched((2, 2), serial_demand=True)
    cache.begin_wait(A)
    cache.plan(Prefetch(A, [0, 1], [1.0, 1.0]), 0.0)
    cache.plan(Prefetch(B, [1], [0.1]), 0.0)
    moving = cache.devices[0].next_copy(0.0)
    assert cache.devices[1].next_copy(0.0) is None
    cache.wake.clear()
    cache.plan(Prefetch(A, [2], [1.0]), 1.0)
    assert cache.wake == [cache.devices[1], cache.devices[0]]
    assert cache.devices[1].next_copy(1.0).number == 4 + 1
    cache.plan(Prefetch(A, [3], [1.0]), 2.0)
    cache.devices[1].copied(cache.devices[1]._in_flight, 2.0)
    assert cache.devices[1].next_copy(2.0) is None  # a3, while a0 moves
    assert cache.waits_for(A)
    cache.wake.clear()
    cache.devices[0].copied(moving, 3.0)
    assert cache.devices[0].next_copy(3.0) is None
    assert cache.wake == [cache.devices[1]]
    assert cache.devices[1].next_copy(3.0).number == 3


def test_when_the_layer_starts_nothing_has_the_turn():
    cache = watched((2, 2), serial_demand=True)
    cache.begin_wait(A)
    cache.plan(Prefetch(A, [0], [1.0]), 0.0)
    cache.devices[0].next_copy(0.0)
    cache.plan(Prefetch(A, [], []), 1.0)
    cache.end_wait()
    cache.demand(A, [1], 2.0)
    assert cache.devices[1].next_copy(2.0).number == 1


def test_a_copy_that_outlasts_its_layers_wait_takes_no_turn_from_the_next_layer():
    """a0 is no longer planned: layer a starts while it moves, b1 begins beside it and keeps its turn when a0 lands."""
    cache = watched((2, 2), serial_demand=True)
    cache.begin_wait(A)
    cache.plan(Prefetch(A, [0], [1.0]), 0.0)
    moving = cache.devices[0].next_copy(0.0)
    cache.plan(Prefetch(A, [], []), 1.0)
    cache.end_wait()
    cache.demand(A, [1], 1.0)
    cache.devices[1].copied(cache.devices[1].next_copy(1.0), 2.0)
    cache.release(A, [1], 2.0, 2.0)
    cache.begin_wait(B)
    cache.plan(Prefetch(B, [1, 2], [1.0, 1.0]), 2.0)
    following = cache.devices[1].next_copy(2.0)
    assert following is not None
    assert following.number == 4 + 1
    cache.devices[0].copied(moving, 3.0)
    assert cache.devices[0].next_copy(3.0) is None  # b2, while b1 moves
    cache.wake.clear()
    cache.devices[1].copied(following, 4.0)
    assert cache.devices[1].next_copy(4.0) is None
    assert cache.wake == [cache.devices[0]]
    assert cache.devices[0].next_copy(4.0).number == 4 + 2


def test_two_awaited_copies_at_a_time_break_invariant_11():
    cache = watched((2, 2), serial_demand=True)
    cache.begin_wait(A)
    cache.plan(Prefetch(A, [0, 1], [1.0, 1.0]), 0.0)
    cache.devices[0].next_copy(0.0)
    cache.awaited.end(cache.awaited._moving)
    with pytest.raises(InvariantError, match="invariant 11 "):
        cache.devices[1].next_copy(0.0)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), gpus=st.integers(1, 4), replicas=st.integers(1, 2))
def test_no_run_deadlocks_and_on_one_gpu_turns_change_nothing(seed, gpus, replicas):
    """Random plans at any moment, chunks, guards, waves; a deadlock raises, as do two awaited copies at a time."""
    log = DecisionLog()
    serial = random_run(seed, gpus=gpus, replicas=replicas, observers=[log], serial_demand=True)
    if len(serial.cache.devices) == 1:
        parallel = DecisionLog()
        random_run(seed, gpus=gpus, replicas=replicas, observers=[parallel], serial_demand=False)
        assert log.rows == parallel.rows
