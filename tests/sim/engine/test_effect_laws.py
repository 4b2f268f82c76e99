"""Laws of what makes the parts of an iteration wait: host memory, framework, contention, serial demand."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from policies.base import Evictor
from policies.cache.decision_log import DecisionLog
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.recency import LeastRecentlyUsed
from policies.registry import policy_names
from sim.engine.fair_shares import fair_shares
from sim.hardware.effects import Effects
from sim.simulation import simulated_run
from tests.support.affected import Affected, AffectedCost
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.idle_links import LinkWatch
from tests.support.in_memory import Setting
from tests.support.random_runs import random_run
from tests.support.slow_cases import slow_but, some_policies

MODEL = shape(4, 6)
REQUESTS = [
    with_lookahead(recorded, 1, 2, 3)
    for recorded in random_requests(MODEL, np.random.default_rng(7), requests=4, decoded=5, prefill_tokens=3, hidden=3)
]
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]
MOVING = tuple(name for name in policy_names() if name != "no-offload")
ON_DEMAND = ("belady", "lfu", "lru", "mixtral-offloading-released")
HEARS_RATES = "tests.support.learned_policy:learned"  # and clairvoyant measures times
NOT_ROUND = 1.00137  # so that unrelated events do not coincide


def run(policy, hardware, effects=None, *, experts=9, model=MODEL, chunk_bytes=10, **setting):
    setting = Setting(
        model=model, hardware=Affected(hardware, effects or Effects()), cache_experts=experts, log=True, **setting
    )
    scenario = replace(setting.scenario(policy), chunk_bytes=chunk_bytes)
    return simulated_run(scenario, setting.inputs(TEST, HISTORY, KnownFuture(model, TEST)))


def slow(gpus=2, **rates):
    return machine(gpus, **{"bytes_per_s": 2e6 * NOT_ROUND, "latency_s": 1.7e-6, **rates})


def assert_same(one, other):
    """To the last bit: every decision and every time."""
    assert one.log.rows == other.log.rows
    assert one.iterations.equals(other.iterations)
    assert one.requests.equals(other.requests)
    assert one.makespan_s == other.makespan_s


def assert_equal_times(one, other, rtol=1e-9):
    for column in ("start_s", "end_s", "hits", "late", "misses", "copied_bytes"):
        np.testing.assert_allclose(one.iterations[column], other.iterations[column], rtol=rtol)


# ---- host memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_host_memory_as_fast_as_all_links_changes_nothing(policy):
    hardware = slow(3)
    enough = Effects(host_bytes_per_s=3 * hardware.host_link.bytes_per_s)
    assert_same(run(policy, hardware, enough), run(policy, hardware))


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_a_single_link_does_not_share_host_memory(policy):
    """It moves bytes at the lower of the two rates."""
    hardware = slow(1)
    below = Effects(host_bytes_per_s=0.6 * hardware.host_link.bytes_per_s)
    slower = replace(hardware, host_link=replace(hardware.host_link, bytes_per_s=below.host_bytes_per_s))
    assert_equal_times(run(policy, hardware, below), run(policy, slower))


class UnevenLinks(AffectedCost):
    """Costs on which larger copies move faster, as over real links; not all latencies are alike either."""

    def copy_latency_s(self, size_bytes):
        return 1e-6 + size_bytes * 1e-8

    def copy_s(self, size_bytes):
        return self.copy_latency_s(size_bytes) + size_bytes / self.peak(size_bytes)

    def peak(self, size_bytes):
        return 1e6 * (1 + size_bytes**1.5 / 40)


@pytest.mark.parametrize("seed", range(6))
def test_fair_sharing_moves_exactly_the_bytes_of_each_copy(seed):
    """From the decision log alone: whenever a copy begins or ends, who moves bytes gets its max-min fair share."""
    log, host = DecisionLog(), 3e6
    shared = Effects(host_bytes_per_s=host)
    cost = random_run(seed, gpus=4, cost_of=lambda cost: UnevenLinks(cost, shared), observers=[log]).cost
    begun, copies = {}, []  # copies as (begin of bytes, end, bytes)
    for row in log.in_time():
        if row.call == "next_copy" and row.slot >= 0:
            begun[row.gpu] = row.time_s + cost.copy_latency_s(row.bytes), row.bytes
        elif row.call == "copied":
            first_s, size = begun.pop(row.gpu)
            copies.append((first_s, row.time_s, size))
    copies += [(first_s, math.inf, size) for first_s, size in begun.values()]
    moments = sorted({moment for first_s, end_s, _ in copies for moment in (first_s, end_s) if moment < math.inf})
    moved, most = [0.0] * len(copies), 0
    for begin_s, end_s in pairwise(moments):
        active = [place for place, each in enumerate(copies) if each[0] <= begin_s and each[1] >= end_s]
        most = max(most, len(active))
        caps = [cost.peak(copies[place][2]) for place in active]
        for place, rate in zip(active, water_filled(caps, host), strict=True):
            moved[place] += rate * (end_s - begin_s)
    assert most > 2
    for (_, end_s, size), bytes_moved in zip(copies, moved, strict=True):
        if end_s < math.inf:
            assert bytes_moved == pytest.approx(size, rel=1e-6)


def water_filled(caps, total):
    """Rates that rise together until a cap, or the total, is reached: by bisection over the level."""
    low, high = 0.0, max(caps, default=0.0)
    if sum(caps) <= total:
        return caps
    for _ in range(80):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(cap, level) for cap in caps) < total else (low, level)
    return [min(cap, low) for cap in caps]


def test_fair_shares_are_max_min():
    """No cap is exceeded, nothing is left where someone could use it, and who has less than another is at his cap."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        caps, total = (rng.exponential(1, rng.integers(1, 7))).tolist(), float(rng.exponential(2))
        shares = fair_shares(caps, total)
        np.testing.assert_allclose(shares, water_filled(caps, total), rtol=1e-9)
        assert sum(shares) <= total * (1 + 1e-12)
    assert fair_shares([2.0, 5.0, 1.0], 6.0) == [2.0, 3.0, 1.0]
    assert fair_shares([math.inf, 1.0], 3.0) == [2.0, 1.0]


# ---- all effects -----------------------------------------------------------------------------------------------------

EFFECTS = Effects(
    host_bytes_per_s=3.1e6,
    layer_host_s=3.3e-6,
    expert_host_s=1.1e-6,
    compute_slowdown=1.3,
    copy_slowdown=1.7,
)


def scaled_times(hardware, effects, by):
    """Every cost and latency is `by` times as long."""
    gpu, search = hardware.gpu, hardware.search
    slower = replace(
        hardware,
        gpu=replace(
            gpu,
            flops_per_s=gpu.flops_per_s / by,
            memory_bytes_per_s=gpu.memory_bytes_per_s / by,
            overhead_s=gpu.overhead_s * by,
        ),
        host_link=scaled_link(hardware.host_link, by),
        peer_link=scaled_link(hardware.peer_link, by),
        search=replace(
            search,
            overhead_s=search.overhead_s * by,
            bytes_per_s=search.bytes_per_s / by,
            flops_per_s=search.flops_per_s / by,
        ),
    )
    return slower, replace(
        effects,
        host_bytes_per_s=effects.host_bytes_per_s / by,
        layer_host_s=effects.layer_host_s * by,
        expert_host_s=effects.expert_host_s * by,
    )


def scaled_link(link, by):
    return replace(link, bytes_per_s=link.bytes_per_s / by, latency_s=link.latency_s * by)


@pytest.mark.parametrize("policy", [*some_policies(policy_names()), HEARS_RATES, "lru+lhd"])
def test_costs_scaled_by_a_power_of_two_scale_all_times_exactly(policy):
    """What a policy hears of rates and times scales as well, so its decisions stay."""
    by = 2.0**-21
    once, scaled = (run(policy, *each) for each in ((slow(), EFFECTS), scaled_times(slow(), EFFECTS, by)))
    for name in ("iterations", "requests"):
        one, other = getattr(once, name), getattr(scaled, name)
        seconds = [column for column in one.columns if column.endswith("_s")]
        one[seconds] *= by
        assert one.equals(other)
    assert [row._replace(time_s=row.time_s * by) for row in once.log.rows] == scaled.log.rows


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_twice_the_bytes_over_twice_the_bandwidth_take_as_long(policy):
    wide = replace(MODEL, weight_bytes=2 * MODEL.weight_bytes)
    hardware = slow()
    wider = replace(
        hardware,
        gpu=replace(hardware.gpu, memory_bytes_per_s=2 * hardware.gpu.memory_bytes_per_s),
        host_link=replace(hardware.host_link, bytes_per_s=2 * hardware.host_link.bytes_per_s),
        peer_link=replace(hardware.peer_link, bytes_per_s=2 * hardware.peer_link.bytes_per_s),
    )
    effects = replace(EFFECTS, host_bytes_per_s=2 * EFFECTS.host_bytes_per_s)
    one, other = run(policy, hardware, EFFECTS), run(policy, wider, effects, model=wide, chunk_bytes=20)
    assert one.iterations.drop(columns="copied_bytes").equals(other.iterations.drop(columns="copied_bytes"))
    assert (2 * one.iterations["copied_bytes"]).equals(other.iterations["copied_bytes"])


@pytest.mark.parametrize("policy", some_policies(policy_names()))
@pytest.mark.parametrize("gpus", slow_but([1, 2], 2))
def test_infinite_bandwidth_is_no_offloading_whatever_the_host_and_the_gpus_do(policy, gpus):
    hardware = slow(gpus, bytes_per_s=math.inf, latency_s=0.0, free_search=True)
    effects = replace(EFFECTS, host_bytes_per_s=math.inf)
    offloaded, resident = (run(name, hardware, effects, experts=6 * gpus) for name in (policy, "no-offload"))
    for column in ("start_s", "end_s"):
        np.testing.assert_allclose(offloaded.iterations[column], resident.iterations[column], rtol=1e-12)


@pytest.mark.parametrize("seeds", slow_but([range(7, 15), range(20)], range(7, 15)), ids=["8 runs", "20 runs"])
@pytest.mark.parametrize("serial", [False, True], ids=["parallel", "serial"])
@pytest.mark.parametrize("effects", [Effects(), EFFECTS], ids=["none", "all"])
def test_a_link_is_never_idle_while_an_admissible_copy_waits(effects, serial, seeds):
    """Of random plans, slots and chunks; what is admissible is found out from the decision log alone."""
    waited = 0
    for seed in seeds:
        log = DecisionLog()
        evictor = (LeastRecentlyUsed, BeliefAndFrequency, Evictor)[seed % 3]()
        result = random_run(
            seed,
            evictor=evictor,
            cost_of=lambda cost: AffectedCost(cost, effects),
            observers=[log],
            refused_blocks=False,
            serial_demand=serial,
        )
        slots = [device.slots for device in result.cache.devices]
        watch = LinkWatch(result.cache.model, slots, serial=serial, awaiting=result.policy.blocking_prefetch)
        assert not [*watch.follow(log.in_time())], seed
        waited += watch.idle_moments
    assert waited > 400


# ---- serial demand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", some_policies(policy_names()))
def test_serial_demand_is_never_faster(policy):
    """True of whoever copies only on demand, and of the others on this trace: what they drop is luck elsewhere."""
    hardware = slow(3)
    serial = replace(hardware, demand_loading="serial")
    for experts, effects in ((6, None), (9, EFFECTS)) if policy in ON_DEMAND else ((9, None),):
        one, other = (run(policy, each, effects, experts=experts) for each in (hardware, serial))
        assert other.makespan_s >= one.makespan_s * (1 - 1e-12)
        if policy in ON_DEMAND:
            took = [each.iterations["end_s"] - each.iterations["start_s"] for each in (one, other)]
            assert (took[1] >= took[0] * (1 - 1e-9)).all()
            assert other.makespan_s > one.makespan_s


@pytest.mark.parametrize("gpus", [1, 2, 6])
def test_serial_loading_of_whole_layers_takes_the_time_of_one_link(gpus):
    """DeepSpeed's prefill into an empty cache with room for all: each expert of each layer is copied after the other.

    With parallel loading the layer waits for the link with the most of them.
    """
    hardware = slow(gpus)
    one_s = hardware.cost(MODEL).copy_s(MODEL.expert_bytes)
    for loading, at_once in (("serial", 1), ("parallel", gpus)):
        machine_of = replace(hardware, demand_loading=loading)
        prefill = run("deepspeed", machine_of, experts=MODEL.total_experts).iterations.iloc[0]
        assert prefill["prefetch_wait_s"] == pytest.approx(MODEL.layers * MODEL.experts / at_once * one_s, rel=1e-9)
        assert prefill["late"] == prefill["misses"] == 0


@pytest.mark.parametrize("policy", ["deepspeed", "moe-infinity", "mixtral-offloading"])
def test_serial_loading_keeps_layers_waiting_longer(policy):
    one, other = (run(policy, replace(slow(3), demand_loading=loading)) for loading in ("parallel", "serial"))
    assert other.iterations["prefetch_wait_s"].sum() > one.iterations["prefetch_wait_s"].sum()


@pytest.mark.parametrize("policy", some_policies(MOVING))
def test_on_one_gpu_demand_is_serial_anyway(policy):
    serial = replace(slow(1), demand_loading="serial")
    assert_same(run(policy, serial), run(policy, slow(1)))


# ---- CPU time of the framework ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2])
def test_without_offloading_cpu_time_is_simply_added(batch_size):
    """Of each layer and of each distinct expert that it launches; all of it is overhead."""
    framework = Effects(layer_host_s=7e-6, expert_host_s=3e-6)
    bare, driven = (run("no-offload", slow(3), effects, batch_size=batch_size) for effects in (None, framework))
    demands = [row for row in bare.log.rows if row.call == "demand"]
    launched = np.bincount([row.iteration for row in demands], [len(row.experts) for row in demands])
    added = MODEL.layers * 7e-6 + launched * 3e-6
    took = [each.iterations["end_s"] - each.iterations["start_s"] for each in (bare, driven)]
    np.testing.assert_allclose(took[1], took[0] + added, rtol=1e-12)
    overhead = [each.iterations["overhead_s"] for each in (bare, driven)]
    np.testing.assert_allclose(overhead[1], overhead[0] + added, rtol=1e-12)


# ---- contention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2])
def test_contention_without_copies_changes_nothing(batch_size):
    contended = Effects(compute_slowdown=2.0, copy_slowdown=3.0)
    one, other = (run("no-offload", slow(3), effects, batch_size=batch_size) for effects in (contended, None))
    assert_equal_times(one, other, rtol=1e-12)


@pytest.mark.parametrize("policy", some_policies(MOVING))
def test_tiny_slowdowns_have_tiny_effects(policy):
    """The engine that knows no end before it comes decides as the one of closed forms does."""
    contended = Effects(compute_slowdown=1 + 1e-13, copy_slowdown=1 + 1e-13)
    assert_equal_times(run(policy, slow(3), contended), run(policy, slow(3)))
