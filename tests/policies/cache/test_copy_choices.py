"""What a policy may decide of copies: their order, whether a refused one blocks, and demands that move whole."""

from collections import defaultdict

import pytest

from common.errors import UserError
from policies.base import Evictor
from policies.cache.expert_cache import ExpertCache
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.registry import make_policy
from policies.types import Prefetch, Search
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from tests.policies.cache.test_cache import begin, drain, load
from tests.support.builders import US, HandCost, request_of, scripted, setup_of, shape
from tests.support.random_runs import Guarding, random_run
from tests.support.slow_cases import slow_but


def cache_of(layers, slots, *, evictor=None, **choices):
    """A cache of one GPU for four experts of 24 bytes per layer."""
    model = shape(layers, 4)
    evictor = evictor or LeastRecentlyUsed()
    evictor.start(setup_of(model))
    cache = ExpertCache(model, evictor, slots=[slots], **choices)
    begin(cache)
    return cache


class Calls:
    """Notes every call on the cache with its answer."""

    def __init__(self):
        self.rows = []

    def called(self, cache, now_s, call, given, answer):
        self.rows.append((now_s, call, str(given), str(answer)))


# ---- the order -------------------------------------------------------------------------------------------------------


def test_the_largest_key_goes_first_and_is_computed_at_that_moment():
    asked = []

    def lowest_weight(layer, expert, weight, distance):
        asked.append((layer, expert, weight, distance))
        return -weight

    cache = cache_of(3, 6, copy_key=lowest_weight)
    cache.plan(Prefetch(2, [0, 3], [0.6, 0.1]), 0.0)
    cache.plan(Prefetch(1, [1], [0.3]), 0.0)
    assert drain(cache) == [(2, 3), (1, 1), (2, 0)]
    assert asked[:3] == [(2, 3, 0.1, 3), (2, 0, 0.6, 3), (1, 1, 0.3, 2)]
    assert len(asked) == 3 + 2 + 1


def test_equal_keys_go_by_distance_and_then_by_expert():
    cache = cache_of(3, 8, copy_key=lambda *_: 1.0)
    cache.demand(0, [], 0.0)
    cache.plan(Prefetch(0, [1], [0.9]), 0.0)  # three layers away
    cache.plan(Prefetch(2, [0], [0.9]), 0.0)
    cache.plan(Prefetch(1, [2, 1, 3], [0.1, 0.2, 0.3]), 0.0)
    assert drain(cache) == [(1, 1), (1, 2), (1, 3), (2, 0), (0, 1)]


def test_a_key_that_is_no_number_is_an_error_that_names_layer_expert_and_value():
    cache = cache_of(2, 4, copy_key=lambda *_: float("nan"))
    cache.plan(Prefetch(1, [3], [0.5]), 0.0)
    with pytest.raises(UserError, match=r"^copy_key: layer 1, expert 3: must be a number, not nan$"):
        cache.devices[0].next_copy(0.0)


@pytest.mark.parametrize("seed", slow_but(range(48), *range(16)))
def test_eq_10_as_a_key_gives_the_very_decisions_of_none(seed):
    logs = []
    for key in (None, lambda layer, expert, weight, distance: weight / distance):
        logs.append(Calls())
        random_run(seed, observers=[logs[-1]], copy_key=key)
    assert logs[0].rows == logs[1].rows
    assert len(logs[0].rows) > 20


@pytest.mark.parametrize("refused_blocks", [False, True])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_equally_urgent_prefetches_go_to_the_nearer_layer_first(refused_blocks, order):
    """0.25 / 2 and 0.375 / 3."""
    cache = cache_of(3, 6, refused_blocks=refused_blocks)
    weights = {1: 0.25, 2: 0.375}
    for layer in order:
        cache.plan(Prefetch(layer, [0], [weights[layer]]), 0.0)
    assert drain(cache) == [(1, 0), (2, 0)]


# ---- a refused prefetch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, lambda layer, expert, weight, distance: weight / distance])
@pytest.mark.parametrize(("refused_blocks", "moved"), [(False, [(1, 1)]), (True, [])])
def test_the_next_prefetch_is_tried_unless_the_refused_one_blocks(refused_blocks, moved, key):
    """The far one comes first, 0.9 / 4 against 0.1 / 2, but only the nearer may take the planned expert's slot."""
    cache = cache_of(4, 1, refused_blocks=refused_blocks, copy_key=key)
    cache.plan(Prefetch(2, [0], [1.0]), 0.0)
    drain(cache)
    cache.plan(Prefetch(3, [1], [0.9]), 0.0)
    cache.plan(Prefetch(1, [1], [0.1]), 0.0)
    assert drain(cache) == moved
    assert cache.devices[0].stalled  # in the end: what was refused still waits


@pytest.mark.parametrize(("refused_blocks", "moved"), [(False, [(1, 2)]), (True, [])])
def test_an_evictor_that_guards_may_refuse_one_expert_of_a_layer_and_let_another_through(refused_blocks, moved):
    evictor = Guarding()
    cache = cache_of(2, 1, evictor=evictor, refused_blocks=refused_blocks)
    load(cache, 0, [0])
    cache.release(0, [0], 0.0, 0.0)
    evictor.scores[:] = 0.0
    evictor.scores[[0, 4 + 2]] = 0.5, 0.8  # the occupant is worth more than expert 1 and less than expert 2
    cache.plan(Prefetch(1, [1, 2], [0.9, 0.1]), 0.0)
    assert drain(cache) == moved


@pytest.mark.parametrize(("patience", "moved"), [(0, [(1, 2)]), (1, [])])
def test_with_patience_a_prefetch_waits_for_a_better_victim_that_is_in_use(patience, moved):
    """Experts 0 and 1 of layer 0 are in use and complete; expert 0 is worth least, then comes expert 3 of layer 1."""
    evictor = Guarding()
    cache = cache_of(2, 3, evictor=evictor)
    load(cache, 1, [3])
    cache.release(1, [3], 0.0, 0.0)
    begin(cache)
    load(cache, 0, [0, 1])
    evictor.patience = patience
    evictor.scores[:] = 0.0
    evictor.scores[[0, 4 + 3, 4 + 2, 1]] = 0.1, 0.5, 0.9, 0.95
    cache.plan(Prefetch(1, [2], [1.0]), 0.0)
    assert drain(cache) == moved


def test_clairvoyant_lets_a_refused_prefetch_block_and_others_do_not():
    assert make_policy("clairvoyant").refused_blocks
    assert not make_policy("finemoe").refused_blocks
    assert not make_policy("clairvoyant+lru").refused_blocks


# ---- chunks ----------------------------------------------------------------------------------------------------------


def test_prefetches_move_in_chunks_and_a_demanded_expert_in_one_piece():
    cache = cache_of(2, 4, chunk_bytes=10)
    device = cache.devices[0]
    cache.plan(Prefetch(1, [2], [1.0]), 0.0)
    first = device.next_copy(0.0)
    assert (first.chunk, first.chunks, first.bytes) == (0, 1, 10)
    cache.demand(0, [1], 0.0)
    assert not device.copied(first, 0.0)
    whole = device.next_copy(0.0)
    assert (whole.number, whole.chunk, whole.chunks, whole.bytes) == (1, 0, 3, 24)
    assert device.copied(whole, 0.0)
    assert [device.next_copy(0.0).chunk] == [1]


@pytest.mark.parametrize("in_the_air", [False, True])
def test_the_rest_of_a_late_expert_moves_in_one_piece(in_the_air):
    cache = cache_of(1, 4, chunk_bytes=10)
    device = cache.devices[0]
    cache.plan(Prefetch(0, [2], [1.0]), 0.0)
    first = device.next_copy(0.0)
    if not in_the_air:
        device.copied(first, 0.0)
    cache.demand(0, [2], 0.0)
    if in_the_air:
        device.copied(first, 0.0)
    rest = device.next_copy(0.0)
    assert (rest.chunk, rest.chunks, rest.bytes) == (1, 2, 14)
    assert device.copied(rest, 0.0)
    assert cache.counts.bytes == 24


class Pieces:
    """Adds up what moves of each expert until it is complete."""

    def __init__(self):
        self.moved = defaultdict(list)
        self.complete = []  # (layer, copies, of them chosen when demanded, bytes)
        self.given_up = 0

    def called(self, cache, now_s, call, given, answer):
        if call == "next_copy" and answer is not None:
            copies = self.moved[answer.number]
            if answer.chunk == 0 and copies:  # the rest of a prefetch was never fetched
                copies.clear()
            copies.append((answer.bytes, answer.demanded))
        elif call == "copied" and answer:
            copies = self.moved.pop(given.number)
            demanded = sum(chosen for _, chosen in copies)
            layer = given.number // cache.model.experts
            self.complete.append((layer, len(copies), demanded, sum(size for size, _ in copies)))


@pytest.mark.parametrize("seed", range(24))
def test_a_demanded_expert_needs_one_copy_and_no_byte_is_lost_or_moved_twice(seed):
    pieces = Pieces()
    run = random_run(seed, observers=[pieces], chunk_bytes=7)
    for layer, copies, demanded, size in pieces.complete:
        assert demanded <= 1
        assert copies - demanded <= -(-size // 7)  # chunks of at most 7 bytes
        assert size == run.cache.model.layer_expert_bytes[layer]
    assert any(copies == demanded == 1 for _, copies, demanded, _ in pieces.complete) or not run.cache.counts.misses


class ByteCost(HandCost):
    """A microsecond per copy and one per byte."""

    def copy_s(self, size_bytes):
        return (1 + size_bytes) * US


def test_a_demand_takes_its_link_for_one_copy_of_its_size():
    model = shape(1, 4, top_k=1)
    policy = scripted({}, LeastRecentlyUsed())
    policy.evictor.start(setup_of(model))
    cache = ExpertCache(model, policy.evictor, slots=[1], chunk_bytes=10)
    steps = fixed_batches([request_of([[[2]]], model)], 1)
    engine = Engine(hooks=Hooks(policy), cache=cache, cost=ByteCost(), steps=steps, recorder=Recorder())
    assert engine.run() == pytest.approx((5 + 1 + 24 + 4) * US)


# ---- what an evictor may charge --------------------------------------------------------------------------------------


class Charging(Evictor):
    """Searches at every moment."""

    def on_batch(self, batch):
        return [search(-1)]

    def touched(self, layer, experts, now_s):
        yield search(layer)
        yield search(layer)


def search(layer):
    return Search("update", layer, 1, 2, 3)


def test_the_work_of_an_evictor_is_listed_until_the_driver_empties_it():
    cache = cache_of(2, 4, evictor=Charging())
    assert cache.work == [search(-1)]
    cache.work.clear()
    cache.demand(1, [0], 0.0)
    assert cache.work == [search(1), search(1)]


def test_an_evictor_that_returns_nothing_charges_nothing():
    cache = cache_of(2, 4)
    cache.demand(1, [0], 0.0)
    assert cache.work == []
