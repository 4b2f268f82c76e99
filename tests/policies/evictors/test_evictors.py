"""The eviction library: each rule by hand or against a textbook copy, and under prefetching."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.cache.expert_cache import ExpertCache
from policies.evictors.frequency import LeastFrequentlyUsed
from policies.evictors.lecar import LeCaR
from policies.evictors.recency import LeastRecentlyUsed
from policies.evictors.recency_by_layer import LeastRecentlyUsedByLayer
from policies.evictors.sieve import Sieve
from policies.registry import EVICTORS, make_policy
from policies.types import Prefetch
from tests.support.builders import KnownFuture, machine, random_requests, request_of, setup_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but

SINGLE = shape(1, 6, top_k=1)


def misses(policy, demands, slots, *, model=SINGLE):
    """How many demands, one expert each, miss on one GPU."""
    cache = cache_of(policy.evictor, slots, model)
    return sum(bool(use(cache, expert)) for expert in demands)


def cache_of(evictor, slots, model=SINGLE):
    evictor.start(replace(setup_of(model), slots=(slots,)))
    return ExpertCache(model, evictor, slots=[slots])


def use(cache, *experts, layer=0):
    """Demand experts, copy them at once, let them go; the answer is what was dropped for them, or [] for hits."""
    missed = cache.demand(layer, list(experts), 0.0).misses
    victims = drain(cache)
    cache.release(layer, list(experts), 0.0, 0.0)
    return victims if missed else []


def prefetch(cache, *experts):
    cache.plan(Prefetch(0, list(experts), [1.0] * len(experts)), 0.0)
    return drain(cache)


def drain(cache):
    victims = []
    while (copy := cache.devices[0].next_copy(0.0)) is not None:
        cache.devices[0].copied(copy, 0.0)
        victims.append(copy.victim)
    return victims


@pytest.mark.parametrize("evictor", [name for name in EVICTORS if name != "belady"])
def test_an_expert_that_was_just_prefetched_is_not_the_first_to_go(evictor):
    """Experts 0 and 1 were used, 2 has just been fetched and its plan has been replaced: 0 goes, not 2."""
    if evictor == "finemoe":
        pytest.skip("eq. 11: what nothing has demanded yet scores 0, as in the paper; its plan protects it")
    cache = cache_of(make_policy(f"lru+{evictor}").evictor, 3)
    use(cache, 0)
    use(cache, 1)
    prefetch(cache, 2)
    cache.plan(Prefetch(0, [], []), 0.0)
    assert use(cache, 3) == [0]


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_lru_counts_the_arrival_of_a_prefetch_as_a_use():
    cache = cache_of(LeastRecentlyUsed(), 3)
    for expert in (0, 1, 2, 0):
        use(cache, expert)
    assert prefetch(cache, 3) == [1]
    cache.plan(Prefetch(0, [], []), 0.0)
    assert [use(cache, expert) for expert in (4, 5, 1)] == [[2], [0], [3]]


def test_lfu_evicts_the_least_often_and_then_the_least_recently_used():
    cache = cache_of(LeastFrequentlyUsed(), 3)
    for expert in (0, 0, 1, 2, 1):
        use(cache, expert)
    assert use(cache, 3) == [2]  # used once; 0 and 1 twice
    assert use(cache, 2) == [3]  # counts outlive the stay: 2 is at two now
    assert use(cache, 4) == [0]  # 0, 1 and 2 at two, 0 the longest ago


def test_lfu_takes_back_the_credit_of_an_unused_prefetch():
    cache = cache_of(LeastFrequentlyUsed(), 2)
    for expert in (0, 0, 1, 1):
        use(cache, expert)
    prefetch(cache, 2)  # drops 0; as good as used once
    cache.plan(Prefetch(0, [], []), 0.0)
    assert use(cache, 0) == [2]
    assert cache.evictor.scores.tolist()[:3] == [3, 2, 0]


class Queue:
    """SIEVE as its authors print it: a queue, a hand and a bit per object. The hand passes over what is in use."""

    def __init__(self, slots):
        self.slots, self.order, self.visited, self.hand = slots, [], {}, None  # newest first

    def use(self, x, in_use=()):
        if x in self.order:
            self.visited[x] = True
            return []
        victims = []
        if len(self.order) == self.slots:
            at = self.hand if self.hand is not None else len(self.order) - 1
            while self.visited[self.order[at]] or self.order[at] in in_use:
                self.visited[self.order[at]] = False
                at = at - 1 if at else len(self.order) - 1
            victims = [self.order.pop(at)]
            self.hand = at - 1 if at else None
        self.order.insert(0, x)
        self.visited[x] = False
        if self.hand is not None:
            self.hand += 1
        return victims


@pytest.mark.parametrize("seed", range(20))
def test_sieve_matches_its_authors_example(seed):
    rng = np.random.default_rng(seed)
    model = shape(1, 12, top_k=1)
    slots = int(rng.integers(2, 8))
    cache, queue = cache_of(Sieve(), slots, model), Queue(slots)
    for expert in (rng.zipf(1.3, 300) % 12).tolist():
        expected = queue.use(expert)
        assert [victim for victim in use(cache, expert) if victim >= 0] == expected


@pytest.mark.parametrize("seed", range(20))
def test_to_sieve_a_prefetch_is_an_arrival_without_a_visit(seed):
    """So it drops what the first use of an absent expert would drop, and the hand meets it from then on."""
    rng = np.random.default_rng(seed)
    slots = int(rng.integers(2, 8))
    cache, queue = cache_of(Sieve(), slots, shape(1, 12, top_k=1)), Queue(slots)
    for expert in (rng.zipf(1.3, 300) % 12).tolist():
        absent = expert not in queue.order
        victims = prefetch(cache, expert) if absent and rng.random() < 0.5 else use(cache, expert)
        assert [victim for victim in victims if victim >= 0] == queue.use(expert)


@pytest.mark.parametrize("seed", range(20))
def test_sieve_takes_the_experts_of_an_event_in_turn(seed):
    """Events of up to four experts of any of three layers: the victims are those of single accesses, in order."""
    rng = np.random.default_rng(seed)
    model = shape(3, 12, top_k=4)
    slots = int(rng.integers(4, 16))
    cache, queue = cache_of(Sieve(), slots, model), Queue(slots)
    for _ in range(300):
        layer = int(rng.integers(3))
        experts = sorted(set((rng.zipf(1.3, rng.integers(1, 5)) % 12).tolist()))
        numbers = [layer * 12 + expert for expert in experts]
        expected = [victim for x in numbers for victim in queue.use(x, numbers)]
        assert [victim for victim in use(cache, *experts, layer=layer) if victim >= 0] == expected


@pytest.mark.parametrize(("event_atomic", "victim"), [(False, 4), (True, 0)])
def test_event_atomic_sieve_keeps_its_hand_from_arrivals_of_the_event(event_atomic, victim):
    """Four slots hold 0 to 3, of which 0 and 1 were visited. For 4 goes 2, and for 5, of the same event, goes 3.

    Taken in turn, 4 had arrived by then and is next under the hand. As one, nothing newer than 3 had, so the hand
    begins anew at 0.
    """
    cache = cache_of(Sieve(event_atomic=event_atomic), 4, shape(1, 6, top_k=2))
    for expert in (0, 1, 2, 3, 0, 1):
        use(cache, expert)
    assert use(cache, 4, 5) == [2, 3]
    assert use(cache, 2) == [victim]


@pytest.mark.parametrize(("name", "kind"), [("Sieve", Sieve), ("LRU", LeastRecentlyUsed)])
def test_single_accesses_miss_as_often_as_in_libcachesim(name, kind):
    """libCacheSim is a simulator of its own (Yang et al.); the test runs where it is installed."""
    libcachesim = pytest.importorskip("libcachesim")
    rng = np.random.default_rng(0)
    model = shape(1, 60, top_k=1)
    for slots, skew in ((3, 1.2), (10, 1.2), (25, 1.6), (40, 2.0)):
        demands = (rng.zipf(skew, 3000) % 60).tolist()
        other, missed = getattr(libcachesim, name)(slots), 0
        for expert in demands:
            request = libcachesim.Request()
            request.obj_id, request.obj_size = expert + 1, 1
            missed += not other.get(request)
        assert misses(Policy(prefetcher=Prefetcher(), evictor=kind()), demands, slots, model=model) == missed > slots


def test_lecar_trusts_frequency_where_recency_fails_and_the_other_way_round():
    """Loops longer than the cache defeat recency; a set that changes defeats frequency."""
    rng = np.random.default_rng(0)
    model = shape(1, 40, top_k=1)
    hot = [int(x) for x in rng.integers(0, 4, 900)]
    scans = [expert for h, scan in zip(hot, np.arange(900) % 30 + 8, strict=True) for expert in (h, int(scan))]
    drifting = [int(x) + 8 * (n // 150) for n, x in enumerate(rng.integers(0, 8, 750))]
    for demands, better in ((scans, LeastFrequentlyUsed), (drifting, LeastRecentlyUsed)):
        found = {
            kind: misses(Policy(prefetcher=Prefetcher(), evictor=kind()), demands, 8, model=model)
            for kind in (LeastRecentlyUsed, LeastFrequentlyUsed, LeCaR)
        }
        best, worst = sorted([found[LeastRecentlyUsed], found[LeastFrequentlyUsed]])
        assert found[better] == best
        assert found[LeCaR] < best + 0.5 * (worst - best)


def test_lhd_learns_that_the_expert_just_used_comes_round_last():
    """Five layers of one expert each and room for four: recency always drops what is needed next, LHD does not."""
    model = shape(5, 2, top_k=1)
    requests = [request_of([[[0]] * 5] * 200, model)]
    setting = Setting(model=model, hardware=machine(), cache_experts=4)
    hits = {spec: simulate(spec, setting, requests).counts.hits for spec in ("lru", "lru+lhd")}
    assert hits["lru"] == 0
    assert hits["lru+lhd"] > 0.6 * 5 * 200


@pytest.mark.parametrize("seed", range(5))
def test_recency_by_layer_gives_each_layer_a_cache_of_its_own(seed):
    """Two layers have three slots, one has two. They are filled first; then all hits are those of separate caches."""
    rng = np.random.default_rng(seed)
    model, shares = shape(3, 6, top_k=1), (3, 3, 2)
    filling = [(layer, expert) for layer in range(3) for expert in range(shares[layer])]
    demands = [*filling, *((n % 3, int(expert)) for n, expert in enumerate(rng.zipf(1.5, 300) % 6))]
    cache = cache_of(LeastRecentlyUsedByLayer(), 8, model)
    own = [[] for _ in shares]  # the least recently used first
    for layer, expert in demands:
        known = expert in own[layer]
        if known:
            own[layer].remove(expert)
        dropped = [own[layer].pop(0)] if len(own[layer]) == shares[layer] else []
        own[layer].append(expert)
        victims = [] if known else [layer * 6 + each for each in dropped] or [-1]
        assert use(cache, expert, layer=layer) == victims


def test_by_layer_a_layer_takes_back_slots_that_another_uses_beyond_its_share():
    """Four slots, two for each layer; layer 0 demands three at once. Layer 1 takes a free slot, then one of these.

    From then on both are within their share, and each drops its own.
    """
    cache = cache_of(LeastRecentlyUsedByLayer(), 4, shape(2, 6, top_k=3))
    assert use(cache, 0, 1, 2) == [-1, -1, -1]
    assert [use(cache, expert, layer=1) for expert in (0, 1, 2)] == [[-1], [0], [6]]
    assert use(cache, 3) == [1]


@pytest.mark.parametrize("wrong", ["lecar,learning_rate=-1", "lhd,classes=0", "lhd,decay=0", "lhd,decay=2"])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=wrong.split("=")[0].split(",")[1]):
        make_policy(f"lru+{wrong}").evictor.start(setup_of(SINGLE))


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evictor", sorted(EVICTORS))
@pytest.mark.parametrize("gpus", slow_but([1, 3], 3))
def test_every_evictor_runs_under_prefetching_at_any_size(evictor, gpus):
    model = shape(4, 6)
    requests = random_requests(model, np.random.default_rng(8), requests=4, decoded=8, prefill_tokens=5, hidden=3)
    history, test = requests[:2], requests[2:]
    for experts in (3, 8, 24):
        for batch_size in (1, 2):
            setting = Setting(
                model=model, hardware=machine(gpus), cache_experts=experts, batch_size=batch_size, check=True
            )
            run = simulate(f"finemoe+{evictor}", setting, test, history=history, future=KnownFuture(model, test))
            assert len(run.requests) == 2


@pytest.mark.parametrize("evictor", sorted(set(EVICTORS) - {"belady"}))
def test_belady_hits_at_least_as_often_on_demand(evictor):
    model = shape(4, 8)
    requests = random_requests(model, np.random.default_rng(4), requests=4, decoded=25)
    setting = Setting(model=model, hardware=machine(), cache_experts=16)
    future = KnownFuture(model, requests)
    assert simulate("belady", setting, requests, future=future).counts.hits >= (
        simulate(f"lru+{evictor}", setting, requests).counts.hits
    )


def test_the_arrival_of_a_demanded_expert_changes_nothing_for_lru():
    """Its score is that of its demand, before and after its copy has arrived."""
    cache = cache_of(LeastRecentlyUsed(), 2, shape(1, 6, top_k=2))
    cache.demand(0, [1, 4], 0.0)
    before = cache.evictor.scores.tolist()
    drain(cache)
    assert cache.evictor.scores.tolist() == before


def test_scores_of_used_experts_never_tie_if_the_evictor_is_distinct():
    rng = np.random.default_rng(0)
    for kind in (LeastRecentlyUsed, Sieve):
        cache = cache_of(kind(), 3)
        for expert in rng.integers(0, 6, 60).tolist():
            (use if rng.random() < 0.7 else prefetch)(cache, expert)
            resident = sorted(float(cache.evictor.scores[x]) for x in range(6) if cache.residency.where[x])
            assert all(one < other for one, other in pairwise(resident))


def test_perfect_prefetch_plans_the_layers_within_its_distance_and_no_others():
    """Three layers, distance 2, a demand of one expert each: what is planned when."""
    model = shape(3, 4, top_k=1)
    requests = [request_of([[[0], [1], [2]], [[3], [0], [1]]], model)]
    setting = Setting(model=model, hardware=machine(), cache_experts=12, log=True)
    run = simulate("perfect-prefetch,prefetch_distance=2", setting, requests, future=KnownFuture(model, requests))
    plans = [(row.layer, list(row.experts)) for row in run.log.rows if row.call == "plan"]
    first = [(0, [0]), (1, [1]), (2, [2]), (0, [3]), (1, [0])]
    second = [(0, [3]), (1, [0]), (2, [1]), (0, []), (1, [])]
    assert plans == first + second
