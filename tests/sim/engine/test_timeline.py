"""A timeline worked out by hand: the whole simulator against paper and pencil, to the microsecond."""

import pytest

from policies.cache.decision_log import DecisionLog
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.types import Prefetch
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from tests.support.builders import US, HandCost, request_of, scripted, setup_of, shape

A, B = 0, 1  # layers


def run(model, policy, requests, *, slots, cost, batch_size=1, **choices):
    policy.evictor.start(setup_of(model))
    log = DecisionLog()
    cache = ObservedCache(model, policy.evictor, slots=slots, observers=[log, InvariantChecker()], **choices)
    recorder = Recorder()
    engine = Engine(
        hooks=Hooks(policy),
        cache=cache,
        cost=cost,
        steps=fixed_batches(requests, batch_size),
        recorder=recorder,
    )
    engine.run()
    return recorder, cache.counts, log


class HalvesCost(HandCost):
    """Half an expert, 12 bytes, takes 10 µs, and a whole one 20 µs."""

    def copy_s(self, size_bytes):
        return size_bytes / 12 * 10 * US


def copies(log):
    """(start in µs, layer, expert, first chunk, (layer, expert) of the victim or -1) of each copy."""
    return [
        (
            round(row.time_s / US, 3),
            row.layer,
            row.expert,
            row.chunk,
            (row.victim_layer, row.victim_expert) if row.victim_expert >= 0 else -1,
        )
        for row in log.rows
        if row.call == "next_copy" and row.slot >= 0
    ]


def test_two_layers_four_experts_two_slots_one_link():
    """A chunk takes 10 µs, an expert of two chunks 20 µs; attention and router take 5 µs, computing an expert 4 µs.

    a = layer 0, b = layer 1. Demanded experts move whole.

    Prefill, two tokens, cold: layer a needs a0, a1, a2 with two slots, so it runs in WAVES.
        5 gate a      a0 5-25, computed 25-29
                      a1 25-45, computed 45-49: the end of the first wave
                      a2 49-69 EVICTS a0; computed 69-73
       78 gate b      b0 78-98 evicts a1 (least recently used), computed 98-102
                      b2 98-118 evicts a2, computed 118-122: the first token
    Decode, one token, from 122. The plan says a0 (0.9, distance 1) and b1 (0.8, distance 2): a0 goes first.
      122             a0 122-132, first chunk, evicts b0
      127 gate a      a0 is LATE: it is PROMOTED, the rest of it follows 132-142, computed 142-146; a1 is missed:
                      142-162 evicts b2, computed 162-166
      162             b1 finds both slots pinned and waits for the end of the layer
      166             b1 166-176, first chunk, evicts a0
      171 gate b      needs b0 and b2, not b1
      176             b1 is PRE-EMPTED between its chunks; b0 176-196 evicts a1, computed 196-200
      196             b2 needs a slot: b0 is pinned, so the paused b1 is CANCELLED; 196-216, computed 216-220
    """
    model = shape()
    request = request_of(
        [
            [[0, 1], [0, 2]],
            [[1, 2], [0, 2]],
            [[0, 1], [0, 2]],
        ],
        model,
        prefill_tokens=2,
    )
    plan = {(1, -1): [Prefetch(A, [0], [0.9]), Prefetch(B, [1], [0.8])]}
    recorder, counts, log = run(
        model, scripted(plan, LeastRecentlyUsed()), [request], slots=[2], cost=HalvesCost(), chunk_bytes=12
    )

    a0, a1, a2, b0, b2 = (A, 0), (A, 1), (A, 2), (B, 0), (B, 2)
    assert copies(log) == [
        (5, A, 0, 0, -1),
        (25, A, 1, 0, -1),
        (49, A, 2, 0, a0),
        (78, B, 0, 0, a1),
        (98, B, 2, 0, a2),
        (122, A, 0, 0, b0),
        (132, A, 0, 1, -1),
        (142, A, 1, 0, b2),
        (166, B, 1, 0, a0),
        (176, B, 0, 0, a1),
        (196, B, 2, 0, -1),
    ]
    times = recorder.requests().iloc[0]
    assert times["ttft_s"] == pytest.approx(122 * US, abs=1e-12)
    assert times["tpot_s"] == pytest.approx(98 * US, abs=1e-12)
    assert (counts.hits, counts.late, counts.misses) == (0, 1, 8)
    assert (counts.prefetched, counts.late, counts.cancelled) == (2, 1, 1)
    assert counts.bytes == 9 * 24 + 12
    assert recorder.iterations()["misses"].tolist() == [5, 3]


def test_a_wave_waits_for_the_slot_of_the_wave_before():
    """One slot, two tokens with an expert each: copy 5-15, computed 15-19, only then copy 19-29, computed 29-33."""
    model = shape(layers=1, experts=2, top_k=1)
    request = request_of([[[0]], [[1]]], model, prefill_tokens=2)
    recorder, counts, log = run(model, scripted({}, LeastRecentlyUsed()), [request], slots=[1], cost=HandCost())
    assert copies(log) == [(5, 0, 0, 0, -1), (19, 0, 1, 0, (0, 0))]
    assert recorder.iterations()["end_s"].iloc[0] == pytest.approx(33 * US, abs=1e-12)
    assert counts.misses == 2


def test_gpus_copy_and_compute_in_parallel_and_then_exchange():
    """Two GPUs, an expert each: both copies 5-15, both computed 15-19, 3 µs to exchange."""
    model = shape(layers=1, experts=2, top_k=2)
    request = request_of([[[0, 1]]], model)
    cost = HandCost(exchange_s=3 * US)
    recorder, _, log = run(model, scripted({}, LeastRecentlyUsed()), [request], slots=[1, 1], cost=cost)
    assert [start for start, *_ in copies(log)] == [5, 5]
    assert recorder.iterations()["end_s"].iloc[0] == pytest.approx(22 * US, abs=1e-12)


def test_without_compute_on_arrival_experts_run_after_the_last_arrival():
    """Copies end at 15 and 25. On arrival: 15-19 and 25-29. Otherwise both from 25: 33."""
    model = shape(layers=1, experts=2, top_k=2)
    request = request_of([[[0, 1]]], model)
    ends = []
    for on_arrival in (True, False):
        policy = scripted({}, LeastRecentlyUsed(), compute_on_arrival=on_arrival)
        recorder, _, _ = run(model, policy, [request], slots=[2], cost=HandCost())
        ends.append(round(recorder.iterations()["end_s"].iloc[0] / US, 6))
    assert ends == [29, 33]


def test_a_blocking_prefetch_holds_back_its_layer():
    """The plan for layer 0 is issued at 0: copies 0-10 and 10-20, then attention until 25, experts until 33."""
    model = shape(layers=1, experts=2, top_k=2)
    request = request_of([[[0, 1]]], model)
    policy = scripted({(0, -1): [Prefetch(0, [0, 1], [0.6, 0.4])]}, LeastRecentlyUsed(), blocking_prefetch=True)
    recorder, counts, _ = run(model, policy, [request], slots=[2], cost=HandCost())
    assert recorder.iterations()["end_s"].iloc[0] == pytest.approx(33 * US, abs=1e-12)
    assert (counts.hits, counts.misses, counts.useful) == (2, 0, 2)
    assert recorder.iterations()["wait_s"].iloc[0] == pytest.approx(20 * US, abs=1e-12)


def test_a_stalled_link_wakes_despite_rounding_of_the_clock():
    """Layers end at times that floating point cannot add up exactly: a wake-up a rounding error early must not repeat.

    One slot, so each prefetch waits for the pins of the layer before; an endless loop would raise here.
    """
    model = shape(layers=4, experts=2, top_k=1)
    request = request_of([[[0], [1], [0], [1]]] * 40, model)
    plans = {(n, layer): [Prefetch(layer + 1, [(layer + 1) % 2], [1.0])] for n in range(40) for layer in range(3)}
    thirds = HandCost(dense_s=0.1 / 3, expert_s=0.7 / 3, chunk_s=0.011 / 7)
    steps = iter(range(100_000))

    class Watchdog:
        def called(self, cache, now_s, call, given, answer):
            next(steps)

    policy = scripted(plans, LeastRecentlyUsed())
    policy.evictor.start(setup_of(model))
    cache = ObservedCache(model, policy.evictor, slots=[1], observers=[Watchdog()])
    recorder = Recorder()
    Engine(hooks=Hooks(policy), cache=cache, cost=thirds, steps=fixed_batches([request], 1), recorder=recorder).run()
    assert len(recorder.iterations()) == 40
