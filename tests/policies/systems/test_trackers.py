"""The trackers of figure 14a: what each goes by, on FineMoE's distance and cache."""

from dataclasses import replace

import numpy as np
import pytest

from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.registry import make_policy
from tests.support.builders import machine, random_requests, request_of, shape, with_lookahead
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but

TRACKERS = ("hit-count", "speculate", "map-t", "map-ts", "map-ts-delta")
MODEL = shape(5, 6)
REQUESTS = [
    with_lookahead(recorded, 1, 2)
    for recorded in random_requests(MODEL, np.random.default_rng(41), requests=7, decoded=6, prefill_tokens=7, hidden=3)
]
HISTORY, TEST = REQUESTS[:3], REQUESTS[3:]


def run(spec, model=MODEL, requests=TEST, history=HISTORY, *, gpus=1, experts=8, bytes_per_s=2e6, **setting):
    setting = Setting(
        model=model,
        hardware=machine(gpus, bytes_per_s=bytes_per_s, free_search=bytes_per_s > 1e8),
        cache_experts=experts,
        check=True,
        log=True,
        **setting,
    )
    return simulate(spec, setting, requests, history=history)


def one_each(tokens, model, number=0):
    return request_of([[[expert] for expert in layers] for layers in tokens], model, number=number)


def planned(result):
    return [(row.layer, list(row.experts)) for row in result.log.rows if row.call == "plan"]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_differs_from_finemoe_only_in_its_prefetches(tracker):
    policy, finemoe = make_policy(tracker), make_policy("finemoe")
    assert type(policy.evictor) is BeliefAndFrequency
    for choice in ("blocking_prediction", "blocking_prefetch", "compute_on_arrival", "chunk_bytes", "requires"):
        assert getattr(policy, choice) == getattr(finemoe, choice)


def test_hit_count_plans_the_layer_that_is_the_distance_ahead_by_own_and_past_counts():
    """History: 0 1 2 3. The request runs 0 1 2 0, then 0 1 2 0. Distance 2, top-1.

    First iteration: popularity for layers 0 and 1, then the past request for 2 and 3: expert 3, wrong. In the second
    its own count of expert 0 at layer 3 ties with the past 3 (one whole row each), and the lower number wins.
    """
    model = shape(4, 4, top_k=1)
    past, request = one_each([[0, 1, 2, 3]], model), one_each([[0, 1, 2, 0]] * 2, model, 1)
    plans = planned(run("hit-count,prefetch_distance=2", model, [request], [past], experts=4, bytes_per_s=1e9))
    assert plans == [(0, [0]), (1, [1]), (2, [2]), (3, [3]), (0, [0]), (1, [1]), (2, [2]), (3, [0])]


def test_speculate_takes_lookahead_where_the_trace_has_it_and_learned_maps_elsewhere():
    """In the history each layer runs the expert after that of the layer before; the request runs 0 2 1 3.

    Distance 2. From layer 0: layer 1 by the learned map, wrongly 1; layer 2 by lookahead_2, rightly 1. So is layer 3.
    """
    model = shape(4, 4, top_k=1)
    past = one_each([[(n + layer) % 4 for layer in range(4)] for n in range(4)] * 3, model)
    request = with_lookahead(one_each([[0, 2, 1, 3]], model, 1), 2)
    spec = "speculate,prefetch_distance=2"
    plans = [
        planned(run(each, model, [request], [past], experts=4, bytes_per_s=1e9))
        for each in (spec, f"{spec},lookahead=false")
    ]
    assert plans == [[(2, [1]), (1, [1]), (3, [3])], [(1, [1]), (2, [2]), (3, [0])]]


def test_map_ts_delta_is_finemoe():
    spec = "prefetch_distance=2,capacity=20"
    assert run(f"map-ts-delta,{spec}").log.rows == run(f"finemoe,{spec}").log.rows


def test_map_t_never_asks_the_embedding_and_map_ts_does():
    """With room for all, so that nothing is evicted: layer 0 is planned by the embedding or not at all."""
    guided = {
        name: {layer for layer, _ in planned(run(f"{name},prefetch_distance=2", experts=30))} for name in TRACKERS
    }
    assert guided["map-t"] == {2, 3, 4}
    assert guided["map-ts"] == guided["map-ts-delta"] == guided["hit-count"] == {0, 1, 2, 3, 4}
    assert guided["speculate"] == {1, 2, 3, 4}


def test_without_delta_top_k_are_planned_however_little_the_found_map_resembles():
    """Opposite embeddings have a cosine of −1, so δ = 1, which no sum exceeds: all six experts of layers 0 and 1.

    The gates are the same, so what the trajectory finds has score 1: δ = 0, two experts of layers 2 and 3.
    """
    model = shape(4, 6)
    past, request = (both_experts(model, sign * np.ones((1, 3), np.float16)) for sign in (-1, 1))
    counts = [
        [
            (layer, len(experts))
            for layer, experts in planned(run(f"{name},prefetch_distance=2", model, [request], [past]))
        ]
        for name in ("map-ts", "map-ts-delta")
    ]
    assert counts == [[(0, 2), (1, 2), (2, 2), (3, 2)], [(0, 6), (1, 6), (2, 2), (3, 2)]]


def both_experts(model, embedding):
    """A single token that runs experts 0 and 1 everywhere."""
    return replace(request_of([[[0, 1]] * model.layers], model), embedding=embedding)


# GPUs, experts in the cache, batch size, and whether there is a history
PLACES = [
    (*cache, batch_size, learned)
    for cache in ((1, 2), (3, 3), (3, 14), (1, 30))
    for batch_size in (1, 3)
    for learned in (True, False)
]


@pytest.mark.parametrize(
    ("gpus", "experts", "batch_size", "learned"), slow_but(PLACES, (3, 3, 3, False), (3, 14, 3, True))
)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_holds_the_invariants_and_repeats_itself(tracker, gpus, experts, batch_size, learned):
    history = HISTORY if learned else None
    runs = [run(tracker, gpus=gpus, experts=experts, batch_size=batch_size, history=history) for _ in range(2)]
    assert runs[0].log.rows == runs[1].log.rows
    assert runs[0].counts.prefetched > 0 or experts == MODEL.total_experts
