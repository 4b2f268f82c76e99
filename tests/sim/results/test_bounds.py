"""What no policy can pass: the fewest loads, and the least makespan."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

import sim
from common.errors import UserError
from policies.cache.placement import round_robin
from policies.registry import policy_names
from sim import Scenario
from sim.engine.batching import fixed_batches
from sim.hardware.profile import Table
from sim.results.bounds import fewest_loads, least_time_s, window_loads
from sim.results.policy_comparison import comparison_of
from sim.sweeps.reference_runs import know_all
from tests.support.builders import KnownFuture, machine, random_requests, request_of, shape, with_lookahead
from tests.support.exhaustive_schedule import Machine, least_units
from tests.support.in_memory import Setting, lower_bound_s, simulate
from tests.support.profiles import flat_profile
from tests.support.slow_cases import slow_but


def tried(events, slots):
    """Every sequence of contents: the fewest loads; an event wider than the cache need only see each expert once."""
    best = {frozenset(): 0}
    for need in events:
        after: dict[frozenset, int] = {}
        for held, loads in best.items():
            pool = held | need
            more = loads + len(need - held)
            fixed = need if len(need) <= slots else frozenset()
            rest = sorted(pool - fixed)
            for keep in combinations(rest, min(slots - len(fixed), len(rest))):
                contents = fixed | frozenset(keep)
                after[contents] = min(after.get(contents, more), more)
        best = after
    return min(best.values())


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_of_contents_loads_less(seed):
    rng = np.random.default_rng(seed)
    model = shape(int(rng.integers(1, 3)), int(rng.integers(3, 6)), top_k=int(rng.integers(1, 4)))
    requests = random_requests(model, rng, requests=2, decoded=4, prefill_tokens=int(rng.integers(0, 3)))
    steps = list(fixed_batches(requests, int(rng.integers(1, 3))))
    slots = int(rng.integers(1, 5))  # often fewer than a layer needs
    events = [frozenset(layer * model.experts + e for e in each) for s in steps for layer, each in enumerate(s.demands)]
    loads = fewest_loads(steps, round_robin(model, 1), [slots])
    assert loads.shape == (len(steps), 1)
    assert loads[-1, 0] == tried(events, slots)
    half = len(steps) // 2  # each row holds for the iterations up to it
    assert loads[half, 0] == tried(events[: (half + 1) * model.layers], slots)


def test_in_a_window_a_link_copies_the_experts_that_had_no_slot_before():
    """GPU 0 needs 0, 2, 4 and then GPU 1 needs 1, 3, each with one slot: after 0, which stays, 2 and 4 must come."""
    model = shape(1, 5, top_k=1)
    steps = list(fixed_batches([request_of([[[expert]] for expert in (0, 2, 4, 1, 3)], model)], 1))
    (found,) = window_loads(steps, round_robin(model, 2), [1, 1])
    assert found[:, :4].tolist() == [[1, 2, 2, 2], [1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_the_links_of_several_gpus_need_their_time_one_window_after_the_other():
    """GPU 0 makes three copies of 10 s; GPU 1 can make one meanwhile, and when that is used two more: five in a row."""
    model = shape(1, 6, top_k=1)
    steps = list(fixed_batches([request_of([[[expert]] for expert in (0, 2, 4, 1, 3, 5)], model)], 1))
    home, slots = round_robin(model, 2), [1, 1]
    given = fewest_loads(steps, home, slots), 10.0, np.zeros(6)
    assert least_time_s(*given) == 30
    assert least_time_s(*given, np.zeros((6, 1)), window_loads(steps, home, slots)) == 50


def test_the_loads_of_each_gpu_are_its_own():
    """Experts 0 and 2 live on GPU 0 with one slot, 1 and 3 on GPU 1: the demands 0 1 2 1 0 load 3 and 1."""
    model = shape(1, 4, top_k=1)
    steps = fixed_batches([request_of([[[expert]] for expert in (0, 1, 2, 1, 0)], model)], 1)
    assert fewest_loads(steps, round_robin(model, 2), [1, 1]).tolist() == [[1, 0], [1, 1], [2, 1], [2, 1], [3, 1]]


def test_the_least_time_is_the_larger_of_loads_before_and_computing_after():
    """Iterations end at 1, 2, 3 s when all is there. With copies of 2 s: 1 · 2 + 2, 1 · 2 + 1, 2 · 2 + 0: 4 s."""
    loads = np.array([[1], [1], [2]])
    assert least_time_s(loads, 2.0, np.array([1.0, 2.0, 3.0])) == 4.0
    assert least_time_s(loads, 0.0, np.array([1.0, 2.0, 3.0])) == 3.0


MODEL = shape(5, 6)
REQUESTS = random_requests(MODEL, np.random.default_rng(21), requests=6, decoded=12, prefill_tokens=4, hidden=3)
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]


SLOW_LINKS, FAST_LINKS = (1e5, 1e7), (1e6, 1e8)


@pytest.mark.parametrize(
    ("gpus", "batch_size", "links"),
    slow_but(
        [(*each, links) for each in product((1, 2), (1, 2)) for links in (SLOW_LINKS, FAST_LINKS)],
        (1, 2, SLOW_LINKS),
        (2, 1, FAST_LINKS),
    ),
)
@pytest.mark.parametrize("experts", slow_but([2, 10, 24], 10))
def test_no_policy_passes_the_bound(experts, gpus, batch_size, links):
    """At the smallest cache, where layers run in waves, and at larger ones; on links from very slow to fast."""
    for bytes_per_s in links:
        hardware = machine(gpus, bytes_per_s=bytes_per_s, latency_s=1e-7)
        setting = Setting(model=MODEL, hardware=hardware, cache_experts=experts, batch_size=batch_size)
        resident = simulate("no-offload", setting, TEST)
        least_s = lower_bound_s(setting, TEST, resident)
        assert least_s >= resident.makespan_s
        for policy in ("belady", "clairvoyant", "finemoe", "lfu", "lru", "perfect-prefetch"):
            run = simulate(policy, setting, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))
            assert run.makespan_s >= least_s * (1 - 1e-12), policy
    assert {"belady", "clairvoyant", "finemoe", "lfu", "lru", "perfect-prefetch"} <= set(policy_names())


@pytest.mark.parametrize(
    ("gpus", "experts", "bytes_per_s"),
    slow_but([(1, 4, 1e6), (2, 8, 1e5), (2, 12, 1e6), (3, 12, 1e5)], (3, 12, 1e5)),
)
def test_no_registered_policy_passes_the_bound(gpus, experts, bytes_per_s):
    requests = [with_lookahead(each, *range(1, MODEL.layers)) for each in TEST]
    history = [with_lookahead(each, *range(1, MODEL.layers)) for each in HISTORY]
    hardware = machine(gpus, bytes_per_s=bytes_per_s, latency_s=1e-7)
    setting = Setting(model=MODEL, hardware=hardware, cache_experts=experts)
    least_s = lower_bound_s(setting, requests, simulate("no-offload", setting, requests))
    for policy in {*policy_names(), *know_all(MODEL.layers)} - {"no-offload"}:
        run = simulate(policy, setting, requests, history=history, future=KnownFuture(MODEL, requests))
        assert run.makespan_s >= least_s * (1 - 1e-12), policy


def test_a_run_below_the_bound_is_refused(trace):
    scenario = Scenario(trace, policy="lru")
    result = sim.simulate(scenario)
    given = [scenario], {"lru": result}
    assert comparison_of(*given, least_makespan_s=result.summary["makespan_s"]).results == [result]
    with pytest.raises(UserError, match=r"policy lru: makespan_s .* is below the lower bound .*; please report"):
        comparison_of(*given, least_makespan_s=result.summary["makespan_s"] * 1.01)


@pytest.mark.parametrize("batch_size", slow_but([1, 2], 2))
@pytest.mark.parametrize(("gpus", "replicas"), slow_but([(2, 2), (3, 2), (3, 3)], (3, 2)))
@pytest.mark.parametrize("experts", slow_but([3, 10, 24], 3))
@pytest.mark.parametrize("links", slow_but([[1e5, 1e7], [1e6, 1e12]], [1e6, 1e12]))
def test_with_replicas_no_policy_passes_the_bound_of_all_links_together(experts, gpus, replicas, batch_size, links):
    """Nor where links are so fast that computing, spread over other GPUs than at first, is all that takes time."""
    for bytes_per_s in links:
        hardware = machine(gpus, bytes_per_s=bytes_per_s, latency_s=1e-9)
        setting = Setting(
            model=MODEL, hardware=hardware, cache_experts=experts, batch_size=batch_size, replicas=replicas
        )
        resident = simulate("no-offload", setting, TEST)
        least_s = lower_bound_s(setting, TEST, resident)
        for policy in ("belady", "clairvoyant", "finemoe", "lru", "perfect-prefetch"):
            run = simulate(policy, setting, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))
            assert run.makespan_s >= least_s * (1 - 1e-12), policy


def test_with_replicas_the_loads_are_those_of_one_cache_divided_by_the_links():
    """Both GPUs together have two slots: the demands 0 1 2 1 0 load 0, 1, 2 (for 0) and 0, of which a link has half."""
    model = shape(1, 4, top_k=1)
    steps = fixed_batches([request_of([[[expert]] for expert in (0, 1, 2, 1, 0)], model)], 1)
    assert fewest_loads(steps, round_robin(model, 2), [1, 1], 2).tolist() == [[1], [1], [2], [2], [2]]


def test_with_replicas_a_layer_may_run_in_waves_wherever_its_experts_may_meet():
    """Of 0 and 2, as of 1 and 3, both may be on a GPU with one slot, in two waves: neither surely stays to the end.

    Two loads, two more, and if 0 and 2 have stayed none: of four, a link has two. If 1 and 3 stayed for sure, two slots
    would need six loads, three slots five.
    """
    model = shape(1, 4, top_k=2)
    steps = list(fixed_batches([request_of([[[0, 2]], [[1, 3]], [[0, 2]]], model)], 1))
    assert fewest_loads(steps, round_robin(model, 2), [1, 1], 2).tolist() == [[1], [2], [2]]
    assert fewest_loads(steps, round_robin(model, 2), [2, 1], 2).tolist() == [[1], [2], [2]]


def test_with_replicas_a_layer_may_compute_faster_than_with_every_expert_at_its_first_home():
    """Experts 0 and 2 live on one GPU; each on a link and a GPU of its own, they take half of the time together."""
    model = shape(1, 4, top_k=2)
    requests = [request_of([[[0, 2]]] * 4, model)]
    setting = Setting(model=model, hardware=machine(2, bytes_per_s=1e12), cache_experts=4, replicas=2)
    resident, run = (simulate(policy, setting, requests) for policy in ("no-offload", "lru"))
    assert lower_bound_s(setting, requests, resident) <= run.makespan_s < resident.makespan_s


def test_on_a_slow_link_the_clairvoyant_comes_close():
    setting = Setting(model=MODEL, hardware=machine(bytes_per_s=1e5), cache_experts=15)
    resident = simulate("no-offload", setting, TEST)
    run = simulate("clairvoyant", setting, TEST, future=KnownFuture(MODEL, TEST))
    assert run.makespan_s <= 1.1 * lower_bound_s(setting, TEST, resident)


def test_the_bound_looks_at_where_experts_live():
    """All demands fall on experts 0 and 2: under round-robin on two GPUs on the first, balanced on both."""
    model = shape(1, 4, top_k=2)
    requests = [request_of([[[0, 2]], [[0, 2]]], model, number=number) for number in range(2)]
    setting = Setting(model=model, hardware=machine(2, bytes_per_s=1e3), cache_experts=4)
    resident = simulate("no-offload", setting, requests)
    bounds = [
        lower_bound_s(replace(setting, placement=name), requests, resident, requests)
        for name in ("round-robin", "balanced")
    ]
    copy_s = model.expert_bytes / 1e3
    assert bounds[0] - bounds[1] == pytest.approx(copy_s)


def test_an_expert_may_come_in_the_chunks_that_take_the_least():
    """Measured copies: 8 bytes in 1 s, 16 in 4 s, a whole expert of 24 in 9 s. In threes of 8 bytes it takes 3 s."""
    model = shape(3, 4, top_k=1)
    copied = Table(sizes=(8, 16, 24), seconds=(1.0, 4.0, 9.0))
    quick = {"expert": 1e-3, "dense": 1e-3, "head": 1e-3}
    hardware = flat_profile(model, seconds=quick, copy=copied, driving_s=0.0)
    cost = hardware.cost(model)
    assert [cost.least_copy_s(size) for size in (8, 12, 24)] == [1.0, 1.5, 3.0]
    requests = [request_of([[[token % 4], [token // 2 % 4], [token % 3]] for token in range(12)], model)]
    setting = Setting(model=model, hardware=hardware, cache_experts=4)
    future = KnownFuture(model, requests)
    bound_s = lower_bound_s(setting, requests, simulate("no-offload", setting, requests))
    took = {
        chunk: simulate(f"perfect-prefetch,chunk_bytes={chunk}", setting, requests, future=future).makespan_s
        for chunk in ("whole", 8)
    }
    assert bound_s <= took[8] < took["whole"]


# ---- against every schedule ------------------------------------------------------------------------------------------


def tiny(seed):
    """A tiny run: the steps, its events, and the machine that serves them, often in waves."""
    rng = np.random.default_rng(seed)
    whole = seed % 2 == 0
    gpus, layers = int(rng.choice([1, 2, 2])), int(rng.choice([1, 1, 2]))
    model = shape(layers, int(rng.integers(2, 5)) if layers == 1 else 2 + whole, top_k=int(rng.integers(1, 3)))
    decoded = int(rng.integers(2, 9 if whole else 5) // layers)
    steps = list(fixed_batches(random_requests(model, rng, requests=1, decoded=decoded), 1))
    events = [frozenset(layer * model.experts + e for e in each) for s in steps for layer, each in enumerate(s.demands)]
    home = round_robin(model, gpus)
    slots = tuple(int(rng.integers(1, 3)) for _ in range(gpus))
    dense, expert, copy = 1, int(rng.integers(1, 3)), int(rng.integers(1, 6 if whole else 4))
    return steps, events, model, home, Machine(dense, expert, copy, slots, tuple(home.ravel().tolist()), whole)


def bound_of(steps, model, home, machine, **left_out):
    """The bound in units of the tiny machine, from its own times."""
    counts = [
        [np.bincount(home[layer, each], minlength=len(machine.slots)) for layer, each in enumerate(step.demands)]
        for step in steps
    ]
    resident = np.cumsum([sum(machine.dense + machine.expert * each.max() for each in step) for step in counts])
    layer_s = machine.dense + machine.expert * np.array([[each.max() for each in step] for step in counts], float)
    more = () if left_out else (layer_s, window_loads(steps, home, machine.slots))
    return least_time_s(fewest_loads(steps, home, machine.slots), machine.copy, resident, *more)


# Of 500 runs, those whose schedules take as long to try as those of all the others together.
LARGE = (50, 118, 183, 194, 206, 208, 218, 226, 256, 302, 338, 360, 370, 494)


@pytest.mark.parametrize("part", [*slow_but(range(25), 11), pytest.param(None, marks=pytest.mark.long)])
def test_no_schedule_of_a_tiny_run_passes_the_bound(part):
    """486 runs and 14, with chunks and without, on one GPU and two, half of them or so in waves."""
    seeds = LARGE if part is None else sorted({*range(part * 20, part * 20 + 20)} - {*LARGE})
    for seed in seeds:
        steps, events, model, home, machine = tiny(seed)
        assert bound_of(steps, model, home, machine) <= least_units(events, machine), seed
