"""Where the time of an iteration goes: parts that add up, laws, timelines by hand, and the rules worked out anew."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from policies.cache.decision_log import LoggedCall
from policies.cache.placement import split_slots
from policies.evictors.recency import LeastRecentlyUsed
from policies.registry import make_policy, policy_names
from policies.types import Prefetch
from sim.engine.batching import fixed_batches
from sim.engine.time_split import PARTS, WAITS
from sim.started_policy import Outcome
from tests.sim.engine.test_timeline import HalvesCost
from tests.sim.engine.test_timeline import run as timeline
from tests.support.builders import (
    US,
    HandCost,
    KnownFuture,
    machine,
    random_requests,
    request_of,
    scripted,
    shape,
    with_lookahead,
)
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but, some_policies

MODEL = shape(4, 6)
REQUESTS = [
    with_lookahead(recorded, 1)
    for recorded in random_requests(MODEL, np.random.default_rng(8), requests=6, decoded=9, prefill_tokens=4, hidden=3)
]
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]
Arrival = tuple[float, int, bool]  # when, which expert, whether it is of a later wave
ON_DEMAND = [name for name in policy_names() if not make_policy(name).prefetcher.overridden()]


def run(policy: str, *, hardware=None, experts: int = 9, **setting) -> Outcome:
    setting = Setting(model=MODEL, hardware=hardware or machine(2), cache_experts=experts, **setting)
    return simulate(policy, setting, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))


def taken_s(iterations: pd.DataFrame) -> pd.Series:
    return iterations["end_s"] - iterations["start_s"]


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "replicas", "experts"), slow_but([(1, 1, 3), (2, 1, 5), (2, 1, 14), (3, 2, 9)], (1, 1, 3), (3, 2, 9))
)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_the_parts_add_up_to_the_time_of_each_iteration(policy, batch_size, gpus, replicas, experts):
    """With 3 slots for layers that need up to 6 experts, too: in waves."""
    found = run(policy, hardware=machine(gpus), experts=experts, batch_size=batch_size, replicas=replicas).iterations
    parts = found[list(PARTS)]
    np.testing.assert_allclose(parts.sum(axis=1), taken_s(found), rtol=1e-12)
    assert (parts >= 0).to_numpy().all()
    assert (parts["compute_s"] > 0).all()
    np.testing.assert_allclose(found["wait_s"], found[list(WAITS)].sum(axis=1), rtol=1e-15)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_all_parts_except_waits_are_the_same_for_every_policy(policy, batch_size):
    offloaded, resident = (run(name, batch_size=batch_size).iterations for name in (policy, "no-offload"))
    for part in ("compute_s", "exchange_s", "overhead_s"):
        np.testing.assert_allclose(offloaded[part], resident[part], rtol=1e-9)
    assert (resident["wait_s"] == 0).all()


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_copies_and_searches_that_take_no_time_cause_no_waiting(policy, gpus):
    hardware = machine(gpus, bytes_per_s=float("inf"), free_search=True)
    found = run(policy, hardware=hardware, experts=MODEL.experts * gpus).iterations
    assert (found[list(WAITS)] == 0).to_numpy().all()


@pytest.mark.parametrize("policy", ON_DEMAND)
def test_on_demand_policies_wait_only_for_misses_and_waves(policy):
    found = run(policy, experts=4).iterations
    assert (found[["late_wait_s", "search_wait_s", "prefetch_wait_s"]] == 0).to_numpy().all()
    if policy != "no-offload":
        assert found["miss_wait_s"].sum() > 0 < found["wave_wait_s"].sum()


def test_starting_operations_counts_as_overhead():
    """Of a layer, the operations of the GPU that takes longest: in decode steps the one with most experts."""
    slow = machine(2)
    free = replace(slow, gpu=replace(slow.gpu, overhead_s=0.0))
    resident, none = (run("no-offload", hardware=each).iterations for each in (slow, free))
    homes = np.arange(MODEL.total_experts).reshape(MODEL.layers, -1) % 2  # round robin
    for row, step in zip(resident.to_dict("records"), fixed_batches(TEST, 1), strict=True):
        operations = MODEL.layers + 1
        for layer, experts in enumerate(step.demands):
            loads = [1] * len(experts) if step.loads is None else step.loads[layer]
            taken = np.zeros(2)
            np.add.at(taken, homes[layer][experts], [slow.cost(MODEL).expert_s(load) for load in loads])
            operations += np.bincount(homes[layer][experts], minlength=2)[taken.argmax()]
        assert row["overhead_s"] == pytest.approx(operations * slow.gpu.overhead_s, rel=1e-12)
    decode = ~resident["prefill"]
    np.testing.assert_allclose(resident[decode]["compute_s"], none[decode]["compute_s"], rtol=1e-9)
    assert (none["overhead_s"] == 0).all()


def test_exchange_is_that_of_every_layer():
    hardware = machine(3)
    found = run("lru", hardware=hardware).iterations
    each_s = [hardware.cost(MODEL).exchange_s(tokens) for tokens in found["tokens"]]
    np.testing.assert_allclose(found["exchange_s"], MODEL.layers * np.array(each_s), rtol=1e-12)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def parts(recorder) -> list[dict[str, float]]:
    """Microseconds of each iteration, without parts of which there is nothing."""
    rows = recorder.iterations()[list(PARTS)].to_dict("records")
    return [{name: round(seconds / US, 6) for name, seconds in row.items() if seconds} for row in rows]


def test_the_timeline_of_two_layers_and_two_slots():
    """`test_timeline` has it in full. Resident, layers of 3, 2, 2 and 2 experts would take 12, 8, 8 and 8 µs.

    Prefill: layer a would end at 17, by a0 at 29, by a1 at 49 and by a2, of the second wave, at 73.
             layer b from 78 would end at 86, by b0 at 102, by b2 at 122.
    Decode:  layer a from 127 would end at 135, by the late a0 at 146, by a1 at 166.
             layer b from 171 would end at 179, by b0 at 200, by b2 at 220.
    """
    model = shape()
    request = request_of([[[0, 1], [0, 2]], [[1, 2], [0, 2]], [[0, 1], [0, 2]]], model, prefill_tokens=2)
    plan = {(1, -1): [Prefetch(0, [0], [0.9]), Prefetch(1, [1], [0.8])]}
    policy = scripted(plan, LeastRecentlyUsed())
    recorder, _, _ = timeline(model, policy, [request], slots=[2], cost=HalvesCost(), chunk_bytes=12)
    assert parts(recorder) == [
        {"compute_s": 5 + 12 + 5 + 8, "miss_wait_s": 12 + 20 + 16 + 20, "wave_wait_s": 24},
        {"compute_s": 5 + 8 + 5 + 8, "late_wait_s": 11, "miss_wait_s": 20 + 21 + 20},
    ]


@pytest.mark.parametrize(
    ("on_arrival", "expert_us", "waited_us"),
    [
        (True, 4, 16),  # copies end at 15 and 25; resident until 13, by the first until 19, by the second until 29
        (False, 4, 20),  # both are computed from 25, not from 5
        (True, 30, 10),  # resident until 65; the first is there while the other would be computed; until 75
    ],
)
def test_a_copy_hidden_by_computing_costs_nothing(on_arrival, expert_us, waited_us):
    model = shape(layers=1, experts=2, top_k=2)
    policy = scripted({}, LeastRecentlyUsed(), compute_on_arrival=on_arrival)
    cost = HandCost(expert_s=expert_us * US)
    recorder, _, _ = timeline(model, policy, [request_of([[[0, 1]]], model)], slots=[2], cost=cost)
    assert parts(recorder) == [{"compute_s": 5 + 2 * expert_us, "miss_wait_s": waited_us}]


def test_a_blocked_layer_waits_for_prefetches():
    """Copies 0-10 and 10-20, then attention, and every expert is there."""
    model = shape(layers=1, experts=2, top_k=2)
    plan = {(0, -1): [Prefetch(0, [0, 1], [0.6, 0.4])]}
    policy = scripted(plan, LeastRecentlyUsed(), blocking_prefetch=True)
    recorder, _, _ = timeline(model, policy, [request_of([[[0, 1]]], model)], slots=[2], cost=HandCost(exchange_s=US))
    assert parts(recorder) == [{"compute_s": 13, "exchange_s": 1, "prefetch_wait_s": 20}]


# ---- worked out anew from the decision log ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "experts", "batch_size"),
    slow_but(
        [(*place, size) for place in ((1, 3), (2, 5), (2, 12)) for size in (1, 2)], (1, 3, 1), (2, 5, 2), (2, 12, 1)
    ),
)
@pytest.mark.parametrize("policy", ["finemoe", "promoe", "lru", "clairvoyant", "deepspeed", "perfect-prefetch"])
def test_expert_waits_are_the_differences_between_replayed_layers(policy, gpus, experts, batch_size):
    """Each layer is played from its copies in the log, once for each number of arrivals that are late as they were.

    None of these policies waits for its predictions, so that experts are computed from the gate on.
    Here an expert is of a later wave if other ones of its event had taken all slots of its GPU when its copy began.
    """
    hardware = machine(gpus, bytes_per_s=2e6)
    found = run(policy, hardware=hardware, experts=experts, batch_size=batch_size, log=True)
    cost = hardware.cost(MODEL)
    on_arrival = make_policy(policy).compute_on_arrival
    expected = np.zeros((len(found.iterations), 3))  # missed, late, waves
    steps = list(fixed_batches(TEST, batch_size))
    for demand, arrivals in _events(found.log.rows, split_slots(MODEL, experts, gpus)):
        step = steps[demand.iteration]
        tokens = step.loads[demand.layer] if step.loads else [1] * len(demand.experts)
        work_s = dict(zip(demand.experts, map(cost.expert_s, tokens), strict=True))
        at_once = on_arrival or demand.waves > 1
        ends_s = [_end_s(demand, work_s, arrivals[:real], gpus, at_once=at_once) for real in range(len(arrivals) + 1)]
        for (before_s, after_s), (_, expert, later) in zip(pairwise(ends_s), arrivals, strict=True):
            kind = 2 if later else int(expert in demand.late)
            expected[demand.iteration, kind] += after_s - before_s
    kinds = ["miss_wait_s", "late_wait_s", "wave_wait_s"]
    np.testing.assert_allclose(found.iterations[kinds], expected, rtol=1e-9, atol=1e-12)
    assert policy != "lru" or (expected.sum(axis=0) > 0).tolist() == [True, False, experts < 12]


def _events(rows: Sequence[LoggedCall], slots: Sequence[int]) -> Iterator[tuple[LoggedCall, list[Arrival]]]:
    """Each demand, with its arrivals in order."""
    slot_of: dict[tuple[int, int], int] = {}
    demand, arrivals = None, []
    for row in rows:
        if row.call == "demand":
            if demand is not None:
                yield demand, arrivals
            demand, arrivals, later = row, [], set()
            taken = {
                (_gpu(row.layer, expert, len(slots)), slot_of[row.layer, expert]) for expert in (*row.hits, *row.late)
            }
        elif row.call == "next_copy" and row.slot >= 0:
            slot_of[row.layer, row.expert] = row.slot
            if demand is not None and row.layer == demand.layer and row.expert in demand.misses and row.chunk == 0:
                if len([gpu for gpu, _ in taken if gpu == row.gpu]) == slots[row.gpu]:
                    later.add(row.expert)
                taken.add((row.gpu, row.slot))
        elif row.call == "copied" and row.complete and row.demanded and row.layer == demand.layer:
            arrivals.append((row.time_s, row.expert, row.expert in later))
    yield demand, arrivals


def _gpu(layer: int, expert: int, gpus: int) -> int:
    return (layer * MODEL.experts + expert) % gpus


def _end_s(demand, work_s, arrivals, gpus, *, at_once: bool) -> float:
    """When the layer ends if all but these arrivals had been there when its router spoke."""
    late_s = {expert: time_s for time_s, expert, _ in arrivals}
    free_s = [demand.time_s] * gpus
    if not at_once:
        free_s = [max([demand.time_s, *late_s.values()])] * gpus
    for expert in sorted(demand.experts, key=lambda each: late_s.get(each, 0.0)):
        gpu = _gpu(demand.layer, expert, gpus)
        free_s[gpu] = max(free_s[gpu], late_s.get(expert, 0.0) if at_once else 0.0) + work_s[expert]
    return max(free_s)
