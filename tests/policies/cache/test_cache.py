"""What the expert cache guarantees, call by call."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Evictor
from policies.cache.expert_cache import ExpertCache
from policies.cache.placement import round_robin, split_slots
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Batch, Prefetch
from tests.support.builders import setup_of, shape


def cache_of(model, slots, *, evictor=None, chunk_bytes="whole"):
    evictor = evictor or LeastRecentlyUsed()
    evictor.start(setup_of(model))
    return ExpertCache(model, evictor, slots=slots, chunk_bytes=chunk_bytes)


def begin(cache, number=0):
    one = np.zeros(1, np.int32)
    cache.begin_iteration(Batch(number, one, one, np.zeros(1, bool), one, None), 0.0)


def load(cache, layer, experts, gpu=0):
    """Demand experts and let their copies arrive at once."""
    cache.demand(layer, experts, 0.0)
    drain(cache, gpu)


def drain(cache, gpu=0):
    moved = []
    while (copy := cache.devices[gpu].next_copy(0.0)) is not None:
        cache.devices[gpu].copied(copy, 0.0)
        moved.append(divmod(copy.number, cache.model.experts))
    return moved


def test_experts_are_dealt_to_gpus_in_turn():
    assert round_robin(shape(2, 4), 3).tolist() == [[0, 1, 2, 0], [1, 2, 0, 1]]


def test_slots_are_split_evenly_and_the_remainder_goes_to_the_lowest_numbers():
    model = shape(4, 4)
    assert split_slots(model, 8, 3) == [3, 3, 2]
    homes = np.bincount(round_robin(model, 3).ravel()).tolist()
    assert split_slots(model, 16, 3) == homes  # 100 % gives every GPU as many slots as homes


@pytest.mark.parametrize("total", [-1, 0, 1, 17])
def test_a_cache_below_top_k_or_above_all_experts_is_refused(total):
    with pytest.raises(UserError, match=f"^room for {total} expert{'s' * (total != 1)}; .* must hold 2 to 16 "):
        split_slots(shape(4, 4, top_k=2), total, 1)


def test_every_gpu_needs_a_slot():
    with pytest.raises(UserError, match=r"must hold 6 to 16 for .* on 6 GPUs "):
        split_slots(shape(4, 4, top_k=2), 5, 6)


def test_an_event_counts_each_distinct_expert_as_hit_late_or_miss():
    cache = cache_of(shape(1, 4), [3])
    begin(cache)
    load(cache, 0, [0])
    cache.plan(Prefetch(0, [1], [1.0]), 0.0)
    cache.devices[0].next_copy(0.0)  # expert 1 is on its way
    begin(cache, 1)
    demand = cache.demand(0, [0, 1, 2], 0.0)
    assert (demand.hits, demand.late, demand.misses, demand.waves) == ([0], [1], [2], 1)
    counts = cache.counts
    assert (counts.hits, counts.late, counts.misses) == (1, 1, 2)


def test_a_late_expert_is_promoted_not_copied_twice():
    cache = cache_of(shape(1, 4), [3])
    begin(cache)
    cache.plan(Prefetch(0, [1], [1.0]), 0.0)
    copy = cache.devices[0].next_copy(0.0)
    cache.demand(0, [1], 0.0)
    assert cache.devices[0].next_copy(0.0) is None
    assert cache.devices[0].copied(copy, 0.0)
    assert drain(cache) == []
    assert (cache.counts.copies, cache.counts.late, cache.counts.useful) == (1, 1, 0)


def test_a_queued_prefetch_that_has_not_started_becomes_a_miss():
    cache = cache_of(shape(1, 4), [4])
    begin(cache)
    cache.plan(Prefetch(0, [1, 2], [0.6, 0.4]), 0.0)
    cache.devices[0].next_copy(0.0)
    assert cache.demand(0, [2], 0.0).misses == [2]
    assert cache.counts.prefetched == 1


def test_demand_goes_before_every_prefetch():
    cache = cache_of(shape(2, 4), [6])
    begin(cache)
    cache.plan(Prefetch(1, [3], [1.0]), 0.0)
    cache.demand(0, [2], 0.0)
    assert drain(cache) == [(0, 2), (1, 3)]


def test_prefetches_go_by_weight_over_distance_when_they_are_chosen_eq_10():
    """From before layer 0: layer 1 at 0.3 / 2 = 0.15, layer 2 at 0.6 / 3 = 0.2: layer 2 first.

    After layer 0 has been gated: 0.3 / 1 against 0.6 / 2: equal, and the nearer layer goes first.
    """
    for gated, first in [(False, (2, 0)), (True, (1, 1))]:
        cache = cache_of(shape(3, 4), [6])
        begin(cache)
        cache.plan(Prefetch(1, [1], [0.3]), 0.0)
        cache.plan(Prefetch(2, [0], [0.6]), 0.0)
        if gated:
            cache.demand(0, [], 0.0)
        assert drain(cache)[0] == first


def test_within_a_layer_equal_weights_go_by_expert():
    cache = cache_of(shape(1, 4), [4])
    begin(cache)
    cache.plan(Prefetch(0, [3, 0, 2], [0.2, 0.2, 0.6]), 0.0)
    assert drain(cache) == [(0, 2), (0, 0), (0, 3)]


def test_a_plan_for_a_gated_layer_means_the_next_iteration_and_survives_until_then():
    cache = cache_of(shape(2, 4), [6])
    begin(cache)
    cache.demand(0, [0], 0.0)
    drain(cache)
    cache.plan(Prefetch(0, [1], [0.9]), 0.0)  # distance 0 - 0 + 2 = 2
    cache.plan(Prefetch(1, [2], [0.5]), 0.0)  # distance 1: goes first
    cache.demand(1, [3], 0.0)  # drops what is pending for layer 1 alone
    assert drain(cache) == [(1, 3), (0, 1)]


def test_a_new_plan_replaces_the_earlier_one_of_its_layer():
    cache = cache_of(shape(2, 4), [6])
    begin(cache)
    cache.plan(Prefetch(1, [0, 1], [0.5, 0.4]), 0.0)
    cache.plan(Prefetch(1, [2], [0.3]), 0.0)
    assert drain(cache) == [(1, 2)]


def test_prefetches_waiting_for_a_layer_are_dropped_at_its_gate():
    cache = cache_of(shape(2, 4), [6])
    begin(cache)
    cache.plan(Prefetch(0, [1, 2], [0.5, 0.4]), 0.0)
    cache.demand(0, [3], 0.0)
    assert drain(cache) == [(0, 3)]


def test_a_prefetch_never_evicts_experts_demanded_by_the_running_layer():
    cache = cache_of(shape(2, 4), [2])
    begin(cache)
    load(cache, 0, [0, 1])
    cache.plan(Prefetch(1, [2], [1.0]), 0.0)
    assert cache.devices[0].next_copy(0.0) is None
    assert cache.stalled
    cache.release(0, [0, 1], 0.0, 0.0)
    assert cache.wake
    assert drain(cache) == [(1, 2)]


def test_a_release_in_advance_takes_effect_at_its_time():
    cache = cache_of(shape(2, 4), [2])
    begin(cache)
    load(cache, 0, [0, 1])
    cache.plan(Prefetch(1, [2], [1.0]), 0.0)
    cache.release(0, [0, 1], at_s=5.0, now_s=1.0)
    assert cache.devices[0].next_copy(4.9) is None
    assert cache.devices[0].next_copy(5.0).victim == 0


def test_a_prefetch_never_evicts_experts_of_a_nearer_plan():
    """Layer 1's plan holds its resident expert 0, so a prefetch for layer 2 takes the slot of layer 0's."""
    cache = cache_of(shape(3, 4), [2])
    begin(cache)
    load(cache, 1, [0])  # least recently used
    load(cache, 0, [0])
    cache.release(0, [0], 0.0, 0.0)
    begin(cache, 1)
    cache.plan(Prefetch(1, [0], [0.1]), 0.0)
    cache.plan(Prefetch(2, [3], [0.9]), 0.0)
    copy = cache.devices[0].next_copy(0.0)
    assert (copy.number // 4, copy.victim) == (2, 0)
    cache.devices[0].copied(copy, 0.0)
    cache.plan(Prefetch(2, [2, 3], [0.9, 0.9]), 0.0)
    assert cache.devices[0].next_copy(0.0) is None  # the other slot is taken by the same layer's plan


def test_a_nearer_prefetch_may_evict_experts_of_a_farther_plan():
    cache = cache_of(shape(3, 4), [1], evictor=LeastRecentlyUsed())
    begin(cache)
    cache.plan(Prefetch(2, [3], [0.9]), 0.0)
    drain(cache)
    cache.plan(Prefetch(1, [0], [0.1]), 0.0)
    assert cache.devices[0].next_copy(0.0).victim == 2 * 4 + 3
    assert cache.counts.wasted == 1


def test_a_blocked_far_prefetch_lets_a_nearer_one_through():
    """The far one comes first, 0.9 / 4 against 0.1 / 2, but only the nearer may take the planned expert's slot."""
    cache = cache_of(shape(4, 2), [1])
    begin(cache)
    cache.plan(Prefetch(2, [0], [1.0]), 0.0)
    drain(cache)
    cache.plan(Prefetch(3, [1], [0.9]), 0.0)
    cache.plan(Prefetch(1, [1], [0.1]), 0.0)
    copy = cache.devices[0].next_copy(0.0)
    assert (copy.number // 2, copy.victim) == (1, 4)


def test_an_expert_that_a_demand_put_in_place_of_a_planned_one_is_a_victim_for_the_rest_of_the_plan():
    cache = cache_of(shape(3, 4), [2], evictor=Constant())
    device, scores = cache.devices[0], cache.evictor.scores
    begin(cache)
    load(cache, 0, [0])
    cache.plan(Prefetch(2, [0, 1], [0.9, 0.1]), 0.0)
    device.copied(device.next_copy(0.0), 0.0)
    scores[2 * 4] = -2.0
    cache.demand(1, [3], 0.0)
    copy = device.next_copy(0.0)
    assert copy.victim == 2 * 4
    device.copied(copy, 0.0)
    cache.release(1, [3], 0.0, 0.0)
    scores[4 + 3] = -1.0
    copy = device.next_copy(0.0)
    assert (copy.number, copy.victim) == (2 * 4 + 1, 4 + 3)


def test_chunks_of_an_expert_are_whole_and_the_last_is_the_rest():
    cache = cache_of(shape(1, 2), [2], chunk_bytes=10)
    assert cache.chunk_bytes == [[10, 10, 4]]
    begin(cache)
    cache.plan(Prefetch(0, [1], [1.0]), 0.0)
    sizes = []
    while (copy := cache.devices[0].next_copy(0.0)) is not None:
        sizes.append(copy.bytes)
        assert cache.devices[0].copied(copy, 0.0) is (len(sizes) == 3)
    assert sizes == [10, 10, 4]
    assert cache.counts.bytes == 24


def test_layers_with_experts_of_other_sizes_are_cut_into_chunks_of_their_own():
    """A chunk of 10 bytes: layer 0 has experts of 24 bytes, layer 1 of 15; all take one slot."""
    cache = cache_of(replace(shape(2, 2), expert_bytes_by_layer=(24, 15)), [4], chunk_bytes=10)
    assert cache.chunk_bytes == [[10, 10, 4], [10, 5]]
    assert cache.copy_bytes == [4, 5, 10, 14, 15, 24]  # chunks, and what may be left when it is demanded
    begin(cache)
    cache.plan(Prefetch(1, [0, 1], [1.0, 1.0]), 0.0)
    cache.demand(0, [1], 0.0)
    assert cache.view.queued_bytes.tolist() == [24 + 2 * 15]
    assert drain(cache) == [(0, 1)] + [(1, 0)] * 2 + [(1, 1)] * 2
    assert cache.counts.bytes == 24 + 2 * 15
    assert cache.demand(1, [0, 1], 0.0).hits == [0, 1]


def test_a_paused_prefetch_goes_on_before_another_begins():
    cache = cache_of(shape(2, 4), [4], chunk_bytes=12)
    begin(cache)
    cache.plan(Prefetch(1, [2], [0.1]), 0.0)
    cache.devices[0].copied(cache.devices[0].next_copy(0.0), 0.0)
    cache.plan(Prefetch(0, [1], [0.9]), 0.0)
    copy = cache.devices[0].next_copy(0.0)
    assert (copy.number // 4, copy.chunk) == (1, 1)


def test_a_paused_prefetch_that_its_layer_turned_out_not_to_need_is_cancelled():
    cache = cache_of(shape(1, 4), [4], chunk_bytes=12)
    begin(cache)
    cache.plan(Prefetch(0, [2], [0.1]), 0.0)
    copy = cache.devices[0].next_copy(0.0)
    cache.demand(0, [0], 0.0)
    cache.devices[0].copied(copy, 0.0)
    assert drain(cache) == [(0, 0)]
    assert cache.counts.cancelled == 1
    assert cache.counts.bytes == 12 + 24


def test_waves_are_those_of_the_fullest_gpu():
    """Experts 0, 2, 4 live on GPU 0 with two slots, expert 1 on GPU 1."""
    cache = cache_of(shape(1, 6), [2, 2])
    begin(cache)
    assert cache.demand(0, [0, 1, 2, 4], 0.0).waves == 2


class Constant(Evictor):
    """All experts are worth the same."""


def test_ties_are_broken_by_recency_and_then_by_number():
    cache = cache_of(shape(1, 4), [3], evictor=Constant())
    begin(cache)
    for experts in ([2], [0], [1], [0]):  # uses: 2 the longest ago, then 1, then 0
        load(cache, 0, experts)
        cache.release(0, experts, 0.0, 0.0)
    cache.demand(0, [3], 0.0)
    assert cache.devices[0].next_copy(0.0).victim == 2

    cache = cache_of(shape(1, 4), [3], evictor=Constant())
    begin(cache)
    load(cache, 0, [0, 1, 2])  # one event: the same recency
    cache.release(0, [0, 1, 2], 0.0, 0.0)
    cache.demand(0, [3], 0.0)
    assert cache.devices[0].next_copy(0.0).victim == 0


def test_preloaded_experts_are_all_there():
    cache = cache_of(shape(2, 4), [8])
    cache.preload()
    begin(cache)
    assert cache.demand(1, [0, 3], 0.0).hits == [0, 3]
    assert cache.peak_slots == 8


class Believer(Evictor):
    """Records its last belief."""

    def believe(self, layer, probs):
        self.believed = (layer, probs.tolist())


def test_every_prediction_passes_through_the_evictor():
    evictor = Believer()
    cache = cache_of(shape(2, 4), [2], evictor=evictor)
    cache.plan(Prefetch(1, [2, 0], [0.7, 0.2]), 0.0)
    assert evictor.believed == (1, [0.2, 0, 0.7, 0])
    cache.plan(Prefetch(1, [2], [0.7], belief=np.array([0.1, 0.1, 0.7, 0.1])), 0.0)
    assert evictor.believed == (1, [0.1, 0.1, 0.7, 0.1])


def test_a_device_is_stalled_once_however_many_layers_find_no_slot():
    cache = cache_of(shape(4, 2), [1])
    begin(cache)
    load(cache, 0, [0])
    for layer in (1, 2, 3):
        cache.plan(Prefetch(layer, [0], [0.5]), 0.0)
    for _ in range(3):
        assert cache.devices[0].next_copy(0.0) is None
        assert cache.stalled == [cache.devices[0]]


def test_absurdly_small_chunks_are_refused():
    said = "chunk_bytes 1: an expert of 2400000 bytes would take more than 1,000 chunks; give at least 2400"
    with pytest.raises(UserError, match=said):
        cache_of(shape(1, 2, hidden=400, expert_ffn=1000), [2], chunk_bytes=1)
