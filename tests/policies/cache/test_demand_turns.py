"""Where demanded experts move one at a time: in which order, that each begins as soon as it may, and none is stuck."""

import pytest

from policies.cache.decision_log import DecisionLog, transfers
from policies.cache.invariants import InvariantError
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Prefetch
from tests.policies.cache.test_invariants import watched
from tests.sim.engine.test_timeline import HalvesCost, copies, run
from tests.support.builders import US, HandCost, request_of, scripted, shape
from tests.support.random_runs import random_run
from tests.support.slow_cases import slow_but

A, B = 0, 1  # layers


def test_a_late_experts_rest_comes_first_and_the_missing_ones_follow_in_turn():
    """Two GPUs, even experts on GPU 0 and odd ones on GPU 1; half an expert takes 10 µs, a whole one 20 µs.

    Attention takes 5 µs, an expert 4 µs. Layer a needs experts 0 … 3; 3 is planned, in two chunks.

         0             GPU 1: first chunk of a3, 0-10
         5 gate a      a3 is LATE, its chunk goes on. The turn is a0's: GPU 0 5-25, computed 25-29
        10             the rest of a3 waits for its turn, and so do a1 and a2
        25             rest of a3: 25-35, computed 35-39
        35             a1 on GPU 1, at once: 35-55, computed 55-59
        55             a2 on GPU 0: 55-75, computed 75-79
    So the layer ends at 79. With parallel demand it ends at 49: a0 5-25 and a2 25-45 beside a3 10-20 and a1 20-40.
    """
    model = shape(layers=2, experts=4, top_k=4)
    request = request_of([[[0, 1, 2, 3], [0, 1, 2, 3]]], model)
    plan = {(0, -1): [Prefetch(A, [3], [1.0])]}
    ends = []
    for serial in (True, False):
        _, counts, log = run(
            model,
            scripted(plan, LeastRecentlyUsed()),
            [request],
            slots=[4, 4],
            cost=HalvesCost(),
            chunk_bytes=12,
            serial_demand=serial,
        )
        ends.append(next(round(row.time_s / US, 6) for row in log.rows if row.call == "release"))
        assert counts.late == 1
        if serial:
            begun = [(start, layer, expert, chunk) for start, layer, expert, chunk, _ in copies(log)]
            assert begun[:5] == [(0, A, 3, 0), (5, A, 0, 0), (25, A, 3, 1), (35, A, 1, 0), (55, A, 2, 0)]
    assert ends == [79, 49]


def test_a_link_whose_expert_waits_for_its_turn_moves_no_prefetch():
    """GPU 1 has planned b1, wanted a1 as well: it waits 5-15 for a0, moves a1 15-25, and only then b1."""
    model = shape(layers=2, experts=2, top_k=2)
    request = request_of([[[0, 1], [0, 1]]], model)
    plan = {(0, A): [Prefetch(B, [1], [1.0])]}
    _, _, log = run(
        model, scripted(plan, LeastRecentlyUsed()), [request], slots=[2, 2], cost=HandCost(), serial_demand=True
    )
    begun = [(start, layer, expert) for start, layer, expert, *_ in copies(log)]
    assert begun[:3] == [(5, A, 0), (15, A, 1), (25, B, 1)]


def test_a_link_keeps_the_turn_while_its_gpu_has_no_slot():
    """Three tokens, an expert each; a0 and a2 on GPU 0, which has one slot, a3 on GPU 1.

    a0 5-15, computed 15-19, when its slot is free; a2 19-29, and a3 29-39, though its link was idle from the beginning.
    """
    model = shape(layers=1, experts=4, top_k=1)
    rows = [[[0]], [[2]], [[3]]]
    request = request_of(rows, model, prefill_tokens=3)
    _, _, log = run(
        model, scripted({}, LeastRecentlyUsed()), [request], slots=[1, 1], cost=HandCost(), serial_demand=True
    )
    assert [(start, expert) for start, _, expert, *_ in copies(log)] == [(5, 0), (19, 2), (29, 3)]


def test_on_one_gpu_turns_change_nothing():
    compared = 0
    for seed in range(20):
        together, in_turn = DecisionLog(), DecisionLog()
        if len(random_run(seed, observers=[together]).cache.devices) == 1:
            random_run(seed, observers=[in_turn], serial_demand=True)
            assert together.rows == in_turn.rows
            compared += 1
    assert compared > 4


def expected_turns(gate_s, busy_until_s, misses, late, seconds):
    """When each demanded expert begins to move: (start, number) in that order, worked out from the rule alone.

    `busy_until_s` is when each link is idle again after the gate, `misses` are (number, GPU), `late` are (number, when
    its chunk lands), `seconds` how long each moves. None if two things happen at one moment, so that either may be
    first.
    """
    waiting, rests, now_s, begun = sorted(misses), sorted(late, key=lambda each: each[1]), gate_s, []
    while waiting or rests:
        landed = sorted(number for number, at_s in rests if at_s <= now_s)
        if landed:
            number, start_s = landed[0], now_s
        else:
            start_s = max(now_s, busy_until_s[waiting[0][1]]) if waiting else rests[0][1]
            number = waiting[0][0] if waiting else rests[0][0]
            if any(abs(at_s - start_s) < 1e-12 for other, at_s in rests if other != number):
                return None
            if rests and rests[0][1] < start_s:
                number, start_s = rests[0]
        if any(abs(at_s - start_s) < 1e-12 and at_s > now_s for other, at_s in rests if other != number):
            return None
        begun.append((start_s, number))
        now_s = start_s + seconds[number]
        waiting = [each for each in waiting if each[0] != number]
        rests = [each for each in rests if each[0] != number]
    return begun


@pytest.mark.parametrize("runs", slow_but([50, 150], 50))
def test_each_turn_begins_as_soon_as_it_may_and_none_is_stuck(runs):
    """Random plans, evictors that guard, waves, replicas, layers that wait for their prefetches; a deadlock raises.

    The layers that run in one wave are compared with the rule, worked out anew.
    """
    compared = rests_compared = 0
    for seed in range(runs):
        log = DecisionLog()
        run = random_run(seed, replicas=1 + seed % 2, observers=[log], serial_demand=True)
        experts, rows = run.cache.model.experts, log.in_time()
        moved = transfers(rows)
        gates = [row for row in rows if row.call == "demand"]
        for row, following_s in zip(gates, [gate.time_s for gate in gates[1:]] + [float("inf")], strict=True):
            if row.waves > 1 or not (row.misses or row.late):
                continue
            gate_s = row.time_s
            flying = {each.gpu: each for each in moved if each.start_s < gate_s < each.end_s}
            demanded = [each for each in moved if gate_s <= each.start_s < following_s and each.demanded]
            if any(each.start_s == gate_s or each.end_s == gate_s for each in moved if not each.demanded):
                continue
            found = [(each.start_s, each.layer * experts + each.expert) for each in demanded]
            late = [
                (each.layer * experts + each.expert, each.end_s)
                for each in flying.values()
                if each.layer == row.layer and each.expert in row.late and not each.complete
            ]
            expected = expected_turns(
                gate_s,
                [flying[gpu].end_s if gpu in flying else gate_s for gpu in range(len(run.cache.devices))],
                [(each.layer * experts + each.expert, each.gpu) for each in demanded if each.expert in row.misses],
                late,
                {each.layer * experts + each.expert: each.end_s - each.start_s for each in demanded},
            )
            if expected is None:
                continue
            assert [number for _, number in found] == [number for _, number in expected]
            assert [start for start, _ in found] == pytest.approx([start for start, _ in expected], abs=1e-12)
            compared += 1
            rests_compared += bool(late)
    assert compared / runs > 500 / 150
    assert rests_compared / runs > 20 / 150


def test_two_demanded_copies_at_a_time_break_invariant_10():
    cache = watched((2, 2), serial_demand=True)
    cache.demand(0, [0, 1], 0.0)
    cache.devices[0].next_copy(0.0)
    assert cache.devices[1].next_copy(0.0) is None
    cache.turns.end(cache.turns._moving)
    with pytest.raises(InvariantError, match="invariant 10 "):
        cache.devices[1].next_copy(0.0)
