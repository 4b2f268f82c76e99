"""Laws that hold for any trace, checked on random ones."""

import numpy as np
import pytest

from policies.registry import policy_names
from sim.engine.batching import fixed_batches
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but, some_policies

MODEL = shape(5, 6)
REQUESTS = [
    with_lookahead(recorded, 1)
    for recorded in random_requests(
        MODEL, np.random.default_rng(21), requests=6, decoded=12, prefill_tokens=4, hidden=3
    )
]
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]
ON_DEMAND = ("lru", "oracle")
MOVING = tuple(name for name in policy_names() if name != "no-offload")


def run(policy, *, experts=10, hardware=None, **setting):
    setting = Setting(model=MODEL, hardware=hardware or machine(2), cache_experts=experts, **setting)
    return simulate(policy, setting, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))


def distinct_demands():
    """(iteration, layer, expert) triples counted straight from the recordings."""
    return len(
        {
            (recorded.request, iteration, layer, expert)
            for recorded in TEST
            for iteration, layers in zip(recorded.iteration, recorded.experts, strict=True)
            for layer, experts in enumerate(layers)
            for expert in experts
        }
    )


@pytest.mark.parametrize("policy", some_policies(policy_names()))
@pytest.mark.parametrize("gpus", slow_but([1, 2], 2))
def test_infinite_bandwidth_is_no_offloading(policy, gpus):
    """Zero copy latency, free search, no waves: copies take no time, so every time is that of resident experts."""
    hardware = machine(gpus, bytes_per_s=float("inf"), free_search=True)
    slots = MODEL.experts * gpus  # the largest event fits on each GPU
    offloaded, resident = (run(name, experts=slots, hardware=hardware) for name in (policy, "no-offload"))
    for column in ("ttft_s", "tpot_s", "latency_s"):
        np.testing.assert_allclose(offloaded.requests[column], resident.requests[column], rtol=1e-12)


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_with_room_for_all_an_expert_is_copied_at_most_once(policy):
    counts = run(policy, experts=MODEL.total_experts).counts
    assert counts.evictions == 0
    assert counts.copies <= MODEL.total_experts


@pytest.mark.parametrize("policy", ON_DEMAND)
def test_with_room_for_all_an_on_demand_policy_misses_each_distinct_expert_once(policy):
    used = {
        (layer, expert)
        for recorded in TEST
        for layers in recorded.experts
        for layer, experts in enumerate(layers)
        for expert in experts
    }
    assert run(policy, experts=MODEL.total_experts).counts.misses == len(used)


@pytest.mark.parametrize("policy", some_policies(policy_names()))
@pytest.mark.parametrize("batch_size", slow_but([1, 2], 2))
def test_hits_late_and_misses_are_the_distinct_demands(policy, batch_size):
    counts = run(policy, batch_size=batch_size).counts
    expected = (
        distinct_demands()
        if batch_size == 1
        else sum(len(experts) for step in fixed_batches(TEST, 2) for experts in step.demands)
    )
    assert counts.hits + counts.late + counts.misses == expected


@pytest.mark.parametrize("policy", some_policies(MOVING))
def test_bytes_are_those_of_the_copies_that_arrived(policy):
    """What is still in the air at the end has begun but not arrived: at most a copy per GPU."""
    counts = run(policy).counts
    in_the_air = counts.copies - counts.bytes / MODEL.expert_bytes
    assert 0 <= in_the_air <= 2
    assert in_the_air == int(in_the_air)


@pytest.mark.parametrize("gpus", [1, 2])
def test_more_room_never_costs_lru_a_hit(gpus):
    """LRU keeps what a smaller LRU keeps, as long as the largest event fits (the inclusion property)."""
    hits = [
        run("lru", experts=experts, hardware=machine(gpus)).counts.hits
        for experts in range(MODEL.experts * gpus, MODEL.total_experts + 1, gpus)
    ]
    assert hits == sorted(hits)
    assert hits[0] < hits[-1]


@pytest.mark.parametrize("policy", some_policies(MOVING))
def test_iteration_time_is_work_plus_waiting(policy):
    """What an iteration takes longer than with every expert in place is the waiting that was recorded."""
    offloaded, resident = run(policy), run("no-offload")
    took, least = ((each.iterations["end_s"] - each.iterations["start_s"]) for each in (offloaded, resident))
    np.testing.assert_allclose(took, least + offloaded.iterations["wait_s"], rtol=1e-9)


@pytest.mark.parametrize("policy", ON_DEMAND)
def test_a_faster_link_never_slows_an_on_demand_policy(policy):
    spans = [run(policy, hardware=machine(2, bytes_per_s=rate)).makespan_s for rate in (1e6, 1e7, 1e8)]
    assert spans == sorted(spans, reverse=True)


def test_lru_on_one_gpu_takes_the_time_of_its_parts():
    """Closed form: nothing overlaps on demand with one expert per layer, so the makespan is a sum."""
    model = shape(3, 4, top_k=1)
    (request,) = random_requests(model, np.random.default_rng(3), requests=1, decoded=9)
    hardware = machine(bytes_per_s=1e6, latency_s=2e-6)
    setting = Setting(model=model, hardware=hardware, cache_experts=3)
    run = simulate("lru", setting, [request])
    resident = simulate("no-offload", setting, [request])
    copies = run.counts.misses * (2e-6 + model.expert_bytes / 1e6)
    assert run.makespan_s == pytest.approx(resident.makespan_s + copies, rel=1e-12)


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_the_same_inputs_and_seed_give_the_same_run(policy):
    one, two = (run(policy, log=True, seed=4) for _ in range(2))
    assert one.log.rows == two.log.rows
    assert one.iterations.equals(two.iterations)
    assert one.requests.equals(two.requests)


@pytest.mark.parametrize("policy", policy_names())
def test_the_decision_log_agrees_with_the_counts(policy):
    """Conservation between two records of one run: the log's calls and the counters."""
    result = run(policy, log=True)
    calls = [row.call for row in result.log.rows]
    began = [row for row in result.log.rows if row.call == "next_copy" and row.slot >= 0]
    assert len(began) == result.counts.copies
    assert calls.count("copied") * MODEL.expert_bytes == result.counts.bytes
    assert calls.count("demand") == len(result.iterations) * MODEL.layers
    assert sum(row.victim_expert >= 0 for row in began) == result.counts.evictions
