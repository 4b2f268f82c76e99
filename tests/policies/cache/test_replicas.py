"""Experts that may live on several GPUs, one at a time: they go where the link has the least to do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.cache.expert_cache import ExpertCache
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.cache.placement import homes_of, round_robin
from policies.cache.residency import COPYING, RESIDENT
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.types import Prefetch
from sim.__main__ import main
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from tests.policies.cache.test_cache import begin, drain
from tests.support.builders import US, HandCost, KnownFuture, machine, random_requests, request_of, setup_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.run_helpers import arguments


def cache_of(slots=(2, 2), *, replicas=2, layers=2, experts=4, chunk_bytes="whole"):
    """Of four experts per layer, 0 and 2 have their first home on GPU 0, 1 and 3 on GPU 1."""
    evictor = LeastRecentlyUsed()
    model = shape(layers, experts)
    evictor.start(setup_of(model))
    cache = ObservedCache(
        model,
        evictor,
        slots=list(slots),
        replicas=replicas,
        chunk_bytes=chunk_bytes,
        observers=[InvariantChecker()],
    )
    begin(cache)
    return cache


# ---- which homes an expert has ---------------------------------------------------------------------------------------


def test_the_homes_of_an_expert_are_its_gpu_and_the_next_ones_in_a_circle():
    homes = homes_of(round_robin(shape(1, 4), 3), 2, 3)
    assert homes.tolist() == [[[0, 1], [1, 2], [2, 0], [0, 1]]]


@pytest.mark.parametrize(("replicas", "gpus"), [(0, 3), (-1, 3), (4, 3), (2, 1)])
def test_there_is_at_least_one_and_at_most_one_on_each_gpu(replicas, gpus):
    with pytest.raises(UserError, match=rf"^replicas: must be from 1 to {gpus}, .*, not {replicas}$"):
        homes_of(round_robin(shape(1, 4), gpus), replicas, gpus)
    setting = Setting(model=shape(1, 4), hardware=machine(gpus), cache_experts=4, replicas=replicas)
    for policy in ("lru", "no-offload"):
        with pytest.raises(UserError, match=r"^replicas"):
            simulate(policy, setting, [])


# ---- which of them it goes to ----------------------------------------------------------------------------------------


def test_a_demand_goes_to_the_link_with_the_fewest_demands_then_to_the_first_home():
    """0: none waits anywhere, so home 0. 1: its first home, GPU 1, is as free. 2: one waits on each, so GPU 0 first."""
    cache = cache_of()
    cache.demand(0, [0, 1, 2], 0.0)
    assert [list(device.demanded) for device in cache.devices] == [[0, 2], [1]]
    cache = cache_of()
    cache.demand(0, [0, 2], 0.0)
    assert [list(device.demanded) for device in cache.devices] == [[0], [2]]
    assert [drain(cache, gpu) for gpu in (0, 1)] == [[(0, 0)], [(0, 2)]]


def test_a_plan_goes_to_the_link_with_the_fewest_demands_then_with_the_fewest_plans():
    """Expert 0 of layer 0 waits for link 0, so 0 of layer 1 goes to link 1, and so does 2, however many wait there."""
    cache = cache_of()
    cache.demand(0, [0], 0.0)
    cache.plan(Prefetch(1, [0, 2], [0.5, 0.5]), 0.0)
    assert cache.devices[0].prefetches == 0
    assert cache.devices[1].prefetches == 2
    cache = cache_of()
    cache.plan(Prefetch(1, [0, 2, 1], [0.5, 0.3, 0.2]), 0.0)  # 0 to GPU 0, 2 to GPU 1, 1 to its first home
    assert [device.pending for device in cache.devices] == [{1: [(0.5, -4)]}, {1: [(0.2, -5), (0.3, -6)]}]


def test_an_expert_planned_again_leaves_its_old_queue():
    """Of layer 1, expert 0 is pending at GPU 0 and 2 at GPU 1; then 2 alone is wanted, and goes to its first home."""
    cache = cache_of()
    cache.plan(Prefetch(1, [0, 2], [0.5, 0.5]), 0.0)
    assert (cache.home[4], cache.home[6]) == (0, 1)
    cache.plan(Prefetch(1, [2], [0.5]), 0.0)
    assert [device.pending for device in cache.devices] == [{1: [(0.5, -6)]}, {}]


def test_a_demanded_expert_that_waits_on_another_link_is_copied_once():
    cache = cache_of()
    cache.plan(Prefetch(1, [0, 2], [0.5, 0.5]), 0.0)
    demand = cache.demand(1, [2, 3], 0.0)
    assert demand.misses == [2, 3]
    assert [drain(cache, gpu) for gpu in (0, 1)] == [[(1, 2)], [(1, 3)]]


def test_experts_under_way_or_present_stay():
    """Expert 2 of layer 1 flies to GPU 1: the plan for it alone, its demand and its next plan leave it there."""
    cache = cache_of(chunk_bytes=12)
    cache.plan(Prefetch(1, [0, 2], [0.5, 0.5]), 0.0)
    copy = cache.devices[1].next_copy(0.0)
    cache.plan(Prefetch(1, [2], [0.5]), 0.0)
    assert cache.demand(1, [2], 0.0).late == [2]
    assert (cache.residency.where[6], cache.home[6]) == (COPYING, 1)
    cache.devices[1].copied(copy, 0.0)
    assert drain(cache, 1) == [(1, 2)]
    cache.plan(Prefetch(1, [2], [0.5]), 0.0)
    assert (cache.residency.where[6], cache.home[6]) == (RESIDENT, 1)


def test_a_layer_runs_in_waves_by_where_its_experts_really_are():
    """Three slots on two GPUs: 0 and 2 in turn on GPU 0 with its only slot, but side by side with two homes."""
    assert cache_of((1, 2), replicas=1).demand(0, [0, 2], 0.0).waves == 2
    assert cache_of((1, 2), replicas=2).demand(0, [0, 2], 0.0).waves == 1


def test_with_one_home_the_homes_never_change():
    cache = cache_of(replicas=1)
    homes = list(cache.home)
    cache.demand(0, [0, 2], 0.0)
    cache.plan(Prefetch(1, [0, 1, 2, 3], [0.4, 0.3, 0.2, 0.1]), 0.0)
    assert cache.home == homes == round_robin(shape(2, 4), 2).ravel().tolist()


# ---- what it does to a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "on_arrival", "end_us"), [(1, True, 29), (2, True, 19), (1, False, 33), (2, False, 19)]
)
def test_two_missed_experts_of_one_gpu_are_copied_side_by_side(replicas, on_arrival, end_us):
    """Attention 5 µs, a copy 10 µs, an expert 4 µs; 0 and 2 both have their first home on GPU 0.

    One home:   0 arrives at 15, 2 at 25. Computed as they arrive: 15–19 and 25–29; when all have: 25–33.
    Two homes:  both arrive at 15, on two GPUs, and are computed there until 19.
    Once there, the layer takes 5 + 8 on one GPU and 5 + 4 on two: the second iteration.
    """
    model = shape(1, 4, top_k=2)
    evictor = LeastRecentlyUsed()
    evictor.start(setup_of(model))
    cache = ExpertCache(model, evictor, slots=[2, 2], replicas=replicas)
    recorder = Recorder()
    steps = fixed_batches([request_of([[[0, 2]], [[0, 2]]], model)], 1)
    policy = Policy(prefetcher=Prefetcher(), evictor=evictor, compute_on_arrival=on_arrival)
    Engine(hooks=Hooks(policy), cache=cache, cost=HandCost(), steps=steps, recorder=recorder).run()
    ends_s = recorder.iterations()["end_s"].tolist()
    assert ends_s == pytest.approx([end_us * US, (end_us + (13 if replicas == 1 else 9)) * US])


def test_in_this_example_with_one_overloaded_gpu_more_replicas_do_not_hurt_on_demand():
    """No law: the link with the least to do may be that of the GPU with the worse victim.

    Every layer demands experts 0 and 3, which all have their first home on GPU 0 of three with two slots each. They
    drive each other out; with two homes half as many do so on two GPUs, over two links. A third home changes nothing:
    two experts have the least to wait for at the first two, though the third GPU is empty.
    """
    model = shape(3, 6, top_k=2)
    requests = [request_of([[[0, 3]] * 3] * 10, model)]
    setting = Setting(model=model, hardware=machine(3, bytes_per_s=1e6), cache_experts=6, check=True)
    runs = [simulate("lru", replace(setting, replicas=replicas), requests) for replicas in (1, 2, 3)]
    assert runs[0].makespan_s > 1.5 * runs[1].makespan_s
    assert runs[1].makespan_s >= runs[2].makespan_s


@pytest.mark.parametrize("placement", ["round-robin", "balanced"])
@pytest.mark.parametrize("policy", ["finemoe", "lru", "clairvoyant", "deepspeed"])
def test_every_kind_of_policy_runs_under_any_number_of_replicas(policy, placement):
    model = shape(5, 6)
    requests = random_requests(model, np.random.default_rng(3), requests=4, hidden=3)
    for replicas in (1, 2, 3):
        setting = Setting(
            model=model, hardware=machine(3), cache_experts=9, placement=placement, replicas=replicas, check=True
        )
        run = simulate(policy, setting, requests[2:], history=requests[:2], future=KnownFuture(model, requests[2:]))
        assert len(run.requests) == 2


def test_a_policy_with_every_expert_resident_is_unaffected():
    model = shape(5, 6)
    requests = random_requests(model, np.random.default_rng(3))
    setting = Setting(model=model, hardware=machine(3), cache_experts=9, check=True)
    spans = {simulate("no-offload", replace(setting, replicas=each), requests).makespan_s for each in (1, 2, 3)}
    assert len(spans) == 1


def test_the_command_line_takes_replicas_and_reports_them(simulate: Any, trace: Any) -> None:
    found = simulate(trace, "--replicas", 3, "--check", policies=("lru",))["lru"]
    assert found["replicas"] == 3
    assert found["makespan_lower_bound_s"] <= found["makespan_s"]
    assert simulate(trace, policies=("lru",)) == simulate(trace, "--replicas", 1, policies=("lru",))
    assert main(arguments(trace, "--replicas", 2, "--placement", "balanced", policies=("finemoe",))) == 0
