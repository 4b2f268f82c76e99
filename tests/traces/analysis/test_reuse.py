"""Reuse distances and cache curves, against worked examples, plain simulation and brute force."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from traces.analysis.iterations import Iterations
from traces.analysis.reuse import (
    Reuse,
    belady_hits,
    belady_sizes,
    shared_belady_hits,
    shared_stack_distances,
    stack_distances,
)

Demands = NDArray[np.bool_]
Event = frozenset[int]


def demands_of(*iterations: str, experts: int) -> Demands:
    """`"01 2"`: one iteration whose first layer executes experts 0 and 1, its second expert 2."""
    layers = [one.split() for one in iterations]
    used = np.zeros((len(iterations), len(layers[0]), experts), bool)
    for step, words in enumerate(layers):
        for layer, word in enumerate(words):
            used[step, layer, [int(letter) for letter in word]] = True
    return used


def random_demands(seed: int, iterations: int, layers: int, experts: int) -> Demands:
    """Events of 1 to 3 experts, popular ones among them."""
    rng = np.random.default_rng(seed)
    used = np.zeros((iterations, layers, experts), bool)
    for step, layer in np.ndindex(iterations, layers):
        used[step, layer, rng.choice(experts, rng.integers(1, 4), p=rng.dirichlet(np.ones(experts)))] = True
    return used


def request_of(demands: Demands) -> Iterations:
    maps = demands / demands.sum(axis=2, keepdims=True)
    tokens = demands.sum(axis=0)
    return Iterations(request=0, prefill=False, maps=maps, demands=demands, tokens=tokens, embeddings=None)


def events_of(demands: Demands) -> list[list[Event]]:
    """Per layer, its events."""
    return [[frozenset(np.flatnonzero(row).tolist()) for row in layer] for layer in demands.transpose(1, 0, 2)]


def shared_events(demands: Demands) -> list[Event]:
    """In the order in which layers run; experts are numbered through all layers."""
    steps, layers, experts = demands.shape
    flat = demands.reshape(steps * layers, experts)
    return [frozenset((np.flatnonzero(row) + index % layers * experts).tolist()) for index, row in enumerate(flat)]


def lru_hits(events: list[Event], slots: int) -> int:
    """A cache simulated as a list, the most recent first."""
    order: list[int] = []
    hits = 0
    for event in events:
        hits += len(event & set(order))
        order = [*sorted(event, reverse=True), *(one for one in order if one not in event)][:slots]
    return hits


def most_hits(events: list[Event], slots: int) -> int:
    """The most that any choice of what to keep can hit: after an event the cache holds it, or only parts of it."""

    @cache
    def best(index: int, held: Event) -> int:
        if index == len(events):
            return 0
        event, others = events[index], sorted(held - events[index])
        if len(event) >= slots:
            after = [frozenset(kept) for kept in combinations(sorted(event), slots)]
        else:
            room = min(slots - len(event), len(others))
            after = [event | set(kept) for kept in combinations(others, room)]
        return len(event & held) + max(best(index + 1, one) for one in after)

    return best(0, frozenset())


def test_distances_worked_out_by_hand() -> None:
    # Expert 4 of 4 is never used. Stacks, most recent first, before each event:
    #   (none) | 1 0 | 2 1 0: within an event the higher number counts as more recent | 2 1 0 | 0 2 1
    found = stack_distances(demands_of("01", "2", "12", "0", "1", experts=4))
    assert found[0, 0].tolist() == [5, 5, 0, 0]  # first uses: J + 1
    assert found[1, 0].tolist() == [0, 0, 5, 0]
    assert found[2, 0].tolist() == [0, 2, 1, 0]  # both against the stack 2 1 0, whichever is touched first
    assert found[3, 0].tolist() == [3, 0, 0, 0]
    assert found[4, 0].tolist() == [0, 3, 0, 0]


def test_hits_of_an_event_are_judged_before_any_of_its_experts_is_touched() -> None:
    # One slot: 0 and 1 are demanded together; per access, 1 after 0, would find neither or evict the other.
    used = demands_of("01", "01", experts=2)
    assert [lru_hits(events_of(used)[0], slots) for slots in (1, 2)] == [1, 2]
    assert belady_hits(used, np.array([1, 2])).tolist() == [[1, 2]]


def test_belady_drops_what_is_needed_again_last() -> None:
    # Two slots. After 0 and 1 comes 2, which stays while it is used; 0 is needed next, so 1 goes: 0 and 2 hit.
    # LRU drops 0 for 2, then 1 for 0: only 2 hits.
    used = demands_of("0", "1", "2", "0", "2", "1", experts=3)
    assert belady_hits(used, np.array([2])).tolist() == [[2]]
    assert lru_hits(events_of(used)[0], 2) == 1


def test_belady_pins_what_the_event_itself_uses() -> None:
    # Two slots, events {0}, {1, 2}, {0}, {1}: the second event needs both slots, so 0 cannot stay over it.
    used = demands_of("0", "12", "0", "1", experts=3)
    assert belady_hits(used, np.array([2])).tolist() == [[1]]  # the last 1, kept rather than 2
    assert most_hits(events_of(used)[0], 2) == 1


@pytest.mark.parametrize("seed", range(20))
def test_one_pass_gives_what_an_lru_cache_of_every_size_does(seed: int) -> None:
    used = random_demands(seed, iterations=80, layers=2, experts=6)  # more than one block of iterations
    found = stack_distances(used)
    for layer, events in enumerate(events_of(used)):
        for slots in range(1, 7):
            distances = found[:, layer]
            assert ((distances > 0) & (distances <= slots)).sum() == lru_hits(events, slots)


@pytest.mark.parametrize("seed", range(20))
def test_one_pass_gives_what_an_lru_cache_of_all_layers_does(seed: int) -> None:
    used = random_demands(seed, iterations=70, layers=3, experts=4)
    found = shared_stack_distances(used)
    for slots in range(1, 13):
        assert ((found > 0) & (found <= slots)).sum() == lru_hits(shared_events(used), slots)


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_victims_hits_more_often_than_belady(seed: int) -> None:
    used = random_demands(seed, iterations=7, layers=2, experts=5)
    sizes = np.arange(1, 6)
    expected = [[most_hits(events, slots) for slots in sizes.tolist()] for events in events_of(used)]
    assert belady_hits(used, sizes).tolist() == expected


@pytest.mark.parametrize("seed", range(10))
def test_nor_than_belady_with_one_cache_for_all_layers(seed: int) -> None:
    used = random_demands(seed, iterations=4, layers=2, experts=4)
    sizes = np.arange(1, 9)
    expected = [most_hits(shared_events(used), slots) for slots in sizes.tolist()]
    assert shared_belady_hits(used, sizes).sum(axis=0).tolist() == expected


@pytest.mark.parametrize("shared", [False, True])
def test_more_room_never_costs_a_hit_and_belady_is_never_below_lru(shared: bool) -> None:
    reuse = Reuse(3, 8, shared=shared)
    for seed in range(5):
        reuse.add(request_of(random_demands(seed, iterations=40, layers=3, experts=8)))
    curves = reuse.curves()
    assert len(curves) == 4 * reuse.slots
    for _, curve in curves.groupby("layer", dropna=False):
        known = curve.dropna(subset="belady_hit_rate")
        assert (curve["lru_hit_rate"].diff().dropna() >= 0).all()
        assert (known["belady_hit_rate"].diff().dropna() >= 0).all()
        assert (known["belady_hit_rate"] >= known["lru_hit_rate"]).all()


def test_a_cache_of_all_experts_misses_first_uses_alone() -> None:
    used = random_demands(3, iterations=30, layers=2, experts=5)
    reuse = Reuse(2, 5)
    reuse.add(request_of(used))
    first_uses = used.any(axis=0).sum(axis=1)
    whole = reuse.curves().query("size == 5").dropna(subset="layer")
    expected = 1 - first_uses / used.sum(axis=(0, 2))
    np.testing.assert_allclose(whole["lru_hit_rate"], expected)
    np.testing.assert_allclose(whole["belady_hit_rate"], expected)
    distances = reuse.distances()
    assert distances.loc[distances["distance"].isna(), "uses"].tolist() == first_uses.tolist()
    assert distances["uses"].sum() == used.sum()


def test_caches_are_cold_at_the_beginning_of_each_request() -> None:
    reuse = Reuse(1, 4)
    for _ in range(3):
        reuse.add(request_of(demands_of("0", "0", experts=4)))
    assert reuse.curves()["lru_hit_rate"].tolist() == [0.5] * 8


def test_beladys_sizes_have_the_quarters_and_both_ends() -> None:
    assert belady_sizes(8, 32).tolist() == list(range(1, 9))
    many = belady_sizes(160, 32)
    assert {1, 40, 80, 120, 160} <= set(many.tolist())
    assert len(many) <= 35
