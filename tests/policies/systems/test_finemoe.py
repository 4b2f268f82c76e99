"""FineMoE: its priorities on numbers checked by eye, its searches, and prediction in blocks against the callbacks."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.evictors.belief_frequency import BELIEF_FLOOR, BeliefAndFrequency, InCacheFrequency
from policies.prediction.expert_map_plans import QUEUED_WEIGHT
from policies.registry import make_policy
from policies.systems.finemoe import ExpertMapPrefetcher
from policies.types import Batch, Gate, Nearest, Search
from sim.engine.batching import fixed_batches
from tests.support.builders import machine, random_requests, request_of, setup_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.policy_helpers import acts
from tests.support.slow_cases import slow_but


def started(model, history, **settings):
    prefetcher = ExpertMapPrefetcher(**settings)
    prefetcher.start(setup_of(model, history))
    return prefetcher


def gate_of(step, layer):
    return Gate(layer, step.maps[:, layer], step.experts[:, layer])


def test_eviction_scores_are_belief_times_frequency_eq_11():
    """J = 4, so the first belief is ¼. Expert 0 is demanded twice, expert 1 once, then p = (0.1, 0.6, 0.3, 0)."""
    evictor = BeliefAndFrequency()
    evictor.start(setup_of(shape(1, 4)))
    evictor.touched(0, [0, 1], 0.0)
    evictor.touched(0, [0], 0.0)
    assert evictor.scores.tolist() == [2 * 0.25, 1 * 0.25, 0, 0]
    evictor.believe(0, np.array([0.1, 0.6, 0.3, 0.0]))
    assert evictor.scores.tolist() == [2 * 0.1, 1 * 0.6, 0, 0]
    evictor.touched(0, [3], 0.0)
    assert evictor.scores[3] == BELIEF_FLOOR  # frequency decides among the improbable


def test_a_belief_outlives_the_iteration_and_is_its_layer_s_alone():
    evictor = BeliefAndFrequency()
    evictor.start(setup_of(shape(2, 2)))
    evictor.touched(0, [0, 1], 0.0)
    evictor.touched(1, [0, 1], 0.0)
    evictor.believe(1, np.array([0.9, 0.1]))
    evictor.on_batch(None)
    assert evictor.scores.tolist() == [0.5, 0.5, 0.9, 0.1]


def test_one_stored_map_is_prefetched_layer_by_layer():
    """d = 1, top-1. The stored map says 2, 0, 3; its own trajectory finds it with score 1, so δ = 0: one expert."""
    model = shape(3, 4, top_k=1)
    recorded = request_of([[[2], [0], [3]]], model)
    prefetcher = started(model, [recorded], prefetch_distance=1)
    (step,) = fixed_batches([recorded], 1)
    assert list(prefetcher.on_batch(step.batch)) == []  # no embedding, nothing to search by
    planned = {}
    for layer in range(3):
        for search in prefetcher.on_gate(step.batch, gate_of(step, layer)):
            assert (search.kind, search.layer, search.rows, search.entries) == ("trajectory", layer, 1, 1)
            for plan in prefetcher.on_found(step.batch, layer, search, prefetcher.search(search)):
                planned[plan.layer] = list(plan.experts)
                assert plan.weights[0] == pytest.approx(step.maps[0, plan.layer].max())
    assert planned == {1: [0], 2: [3]}
    assert "by trajectory only" in prefetcher.note


def test_the_embedding_guides_the_first_layers_and_no_others():
    model = shape(4, 4, top_k=1)
    rng = np.random.default_rng(0)
    recorded = request_of([[[2], [0], [3], [1]]], model, rng=rng, hidden=3)
    prefetcher = started(model, [recorded], prefetch_distance=2)
    (step,) = fixed_batches([recorded], 1)
    (search,) = prefetcher.on_batch(step.batch)
    found = prefetcher.search(search)
    assert found.score[0] == pytest.approx(1)
    assert [(plan.layer, list(plan.experts)) for plan in prefetcher.on_found(step.batch, -1, search, found)] == [
        (0, [2]),
        (1, [0]),
    ]
    assert prefetcher.note == ""


def test_a_plan_that_is_too_late_for_a_layer_is_dropped_for_that_layer():
    model = shape(4, 4, top_k=1)
    recorded = request_of([[[2], [0], [3], [1]]], model, rng=np.random.default_rng(0), hidden=3)
    prefetcher = started(model, [recorded], prefetch_distance=2)
    (step,) = fixed_batches([recorded], 1)
    (semantic,) = prefetcher.on_batch(step.batch)
    found = prefetcher.search(semantic)
    assert [plan.layer for plan in prefetcher.on_found(step.batch, 0, semantic, found)] == [1]
    assert list(prefetcher.on_found(step.batch, 4, semantic, found)) == []
    (trajectory,) = prefetcher.on_gate(step.batch, gate_of(step, 0))
    found = prefetcher.search(trajectory)
    assert [plan.layer for plan in prefetcher.on_found(step.batch, 1, trajectory, found)] == [2]
    assert list(prefetcher.on_found(step.batch, 2, trajectory, found)) == []


def test_several_records_select_by_their_own_delta_and_their_maximum_counts():
    """Two records found entry 0, p = (0.7, 0.2, 0.1), with scores 1 and 0.25, and entry 1, p = (0.1, 0.3, 0.6), with 1.

    With top-1: δ = 0 takes the first expert of a map; δ = 0.75 takes 0.7 and 0.2 of entry 0.
    """
    model = shape(2, 3, top_k=1)
    recorded = request_of([[[0], [0]], [[2], [2]]], model)
    gate = np.array([[[0.7, 0.2, 0.1]] * 2, [[0.1, 0.3, 0.6]] * 2], np.float16)
    prefetcher = started(model, [replace(recorded, gate=gate)], prefetch_distance=1, prefill_records="token")
    search = Search("trajectory", 0, 2, 3, 2)

    def plan(scores):
        (only,) = prefetcher.on_found(None, 0, search, Nearest(np.array([0, 1]), np.array(scores, np.float32)))
        return dict(zip(only.experts, np.round(only.weights, 3).tolist(), strict=True)), only.belief.round(3).tolist()

    assert plan([1.0, 1.0]) == ({0: 0.7, 2: 0.6}, [0.7, 0.3, 0.6])
    assert plan([0.25, 1.0]) == ({0: 0.7, 1: 0.2, 2: 0.6}, [0.7, 0.3, 0.6])


def test_a_prefill_enters_the_store_as_tokens_or_as_their_mean():
    model = shape(2, 4)
    rng = np.random.default_rng(3)
    (recorded,) = random_requests(model, rng, requests=1, decoded=2, prefill_tokens=5, hidden=3)
    for records, count in [("token", 7), ("iteration", 3)]:
        prefetcher = started(model, [recorded], prefetch_distance=1, prefill_records=records)
        steps = list(fixed_batches([recorded], 1))
        (search,) = prefetcher.on_batch(steps[0].batch)
        assert search.entries == count
        assert search.rows == (5 if records == "token" else 1)
    found = prefetcher.search(search)  # the mean prefill finds itself
    assert found.score[0] == pytest.approx(1, abs=1e-3)


def test_each_iteration_is_learned_when_it_ends():
    model = shape(2, 4)
    rng = np.random.default_rng(3)
    (recorded,) = random_requests(model, rng, requests=1, decoded=3, hidden=3)
    prefetcher = started(model, None, prefetch_distance=1, capacity=10)
    entries = []
    for step in fixed_batches([recorded], 1):
        entries.append([search.entries for search in prefetcher.on_batch(step.batch)])
        for layer in range(2):
            prefetcher.on_gate(step.batch, gate_of(step, layer))
        (update,) = prefetcher.on_batch_end(step.batch, step.maps, step.experts)
        assert (update.kind, update.dims) == ("update", 2 * 4 + model.hidden)
    assert entries == [[], [1], [2]]


SPEC = "finemoe,prefetch_distance=2,capacity=20"


@pytest.mark.parametrize("learn", ["true", "false"])
@pytest.mark.parametrize("records", ["token", "iteration"])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "words", ["", "semantic=false,threshold=top-k", "threshold=demo,queue=all,reach=rest,reset_on_evict=true"]
)
def test_prediction_in_blocks_equals_the_callbacks(learn, records, batch_size, words, monkeypatch):
    """The same decisions at the same times, row by row; scores may differ in the last bit of float32."""
    model = shape(5, 6)
    rng = np.random.default_rng(11)
    requests = random_requests(model, rng, requests=7, decoded=7, prefill_tokens=4, hidden=3)
    setting = Setting(
        model=model, hardware=machine(2, bytes_per_s=5e6), cache_experts=12, batch_size=batch_size, log=True
    )
    spec = ",".join([SPEC, f"learn={learn},prefill_records={records}", *filter(None, [words])])
    block = simulate(spec, setting, requests[4:], history=requests[:4])
    monkeypatch.setattr(ExpertMapPrefetcher, "predict_block", lambda *_: None)
    callbacks = simulate(spec, setting, requests[4:], history=requests[:4])
    assert block.counts.prefetched > 0
    assert block.log.rows == callbacks.log.rows


@pytest.mark.parametrize("history", slow_but([0, 4], 4))
@pytest.mark.parametrize("hidden", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "words",
    [
        "",
        "capacity=1000",  # never full
        "learn=false",
        "prefill_records=iteration,threshold=demo,queue=all",
        "reach=rest,threshold=top-k,fill=redundancy",
    ],
)
def test_the_size_of_blocks_changes_no_bit(words, batch_size, hidden, history, monkeypatch):
    """Of plans, beliefs, what was found and what is charged; prefills have more records than a block searches."""
    model = shape(5, 6)
    rng = np.random.default_rng(14)
    requests = random_requests(model, rng, requests=8, decoded=9, prefill_tokens=20, hidden=hidden)
    steps = list(fixed_batches(requests[4:], batch_size))
    spec = ",".join(
        ["finemoe,prefetch_distance=2", *["capacity=20"] * ("capacity" not in words), *filter(None, [words])]
    )
    answers = []
    for size in (1, 2, 7, 32, 64):
        monkeypatch.setattr(ExpertMapPrefetcher, "block", size)
        prefetcher = make_policy(spec).prefetcher
        prefetcher.start(setup_of(model, requests[:history] or None))
        answers.append([(moment, what, numbers.tolist()) for moment, what, numbers in acts(prefetcher, steps)])
    assert len(answers[0]) > 100 or (not history and "learn=false" in words)
    assert all(answer == answers[0] for answer in answers[1:])


def test_it_decides_alike_whatever_follows():
    """Causality: until the requests differ, the logs are the same."""
    model = shape(4, 6)
    rng = np.random.default_rng(12)
    requests = random_requests(model, rng, requests=6, decoded=6, hidden=3)
    setting = Setting(model=model, hardware=machine(1, bytes_per_s=5e6), cache_experts=8, log=True)
    logs = [
        simulate("finemoe,prefetch_distance=2", setting, [*requests[2:4], last], history=requests[:2]).log.rows
        for last in requests[4:]
    ]
    first_change = next(n for n, pair in enumerate(zip(*logs, strict=False)) if pair[0] != pair[1])
    begun = [n for n, row in enumerate(logs[0]) if row.call == "begin_iteration"]
    assert first_change >= begun[12]  # the third request's first iteration, which names the request


def test_prediction_helps_where_the_history_repeats_itself():
    """Requests that walk through the same routing: FineMoE hits what it has seen, LRU with the same slots does not."""
    model = shape(6, 8)
    rng = np.random.default_rng(13)
    base = random_requests(model, rng, requests=1, decoded=30, hidden=4)[0]
    setting = Setting(model=model, hardware=machine(1, bytes_per_s=2e7), cache_experts=12)
    again = replace(base, request=1)
    finemoe, lru = (
        simulate(policy, setting, [again], history=[base]) for policy in ("finemoe,prefetch_distance=2", "lru")
    )
    assert finemoe.counts.hits > 1.5 * lru.counts.hits
    assert finemoe.makespan_s < lru.makespan_s


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("finemoe,prefetch_distance=9", "prefetch_distance: must be from 1 to 4, not 9"),
        ("finemoe,prefetch_distance=0", "prefetch_distance: must be from 1 to 4, not 0"),
        ("finemoe,capacity=0", "finemoe: capacity: must be at least 1, not 0"),
        ("finemoe,fill=best", "fill: must be random or redundancy, not 'best'"),
        ("finemoe,prefill_records=all", "prefill_records: must be token or iteration, not 'all'"),
        ("finemoe,threshold=delta", "threshold: must be exceed, demo or top-k, not 'delta'"),
        ("finemoe,queue=none", "queue: must be selected or all, not 'none'"),
        ("finemoe,reach=far", "reach: must be layer or rest, not 'far'"),
        ("finemoe,prefetch_distanc=3", "did you mean 'prefetch_distance'"),
        ("finemoe,capacity=many", "capacity: must be a whole number, not 'many'"),
        ("finemoe,learn=maybe", "learn: must be true or false, not 'maybe'"),
        ("finemoe,capacity", "KEY=VALUE"),
        ("finemoes", "did you mean 'finemoe'"),
        ("lru,capacity=3", "no settings"),
    ],
)
def test_an_impossible_setting_is_one_line(spec, problem):
    model = shape(4, 4)
    setting = Setting(model=model, hardware=machine(), cache_experts=4)
    with pytest.raises(UserError, match=problem) as caught:
        simulate(spec, setting, [], history=random_requests(model, np.random.default_rng(0)))
    assert "\n" not in str(caught.value)


def test_settings_are_read_in_their_own_type():
    prefetcher = make_policy("finemoe,prefetch_distance=5,learn=false,fill=redundancy").prefetcher
    assert (prefetcher.prefetch_distance, prefetcher.learn, prefetcher.fill) == (5, False, "redundancy")


def test_a_batch_of_several_requests_is_one_record_each():
    model = shape(3, 4)
    rng = np.random.default_rng(5)
    requests = random_requests(model, rng, requests=3, decoded=2, hidden=3)
    prefetcher = started(model, requests, prefetch_distance=1)
    (step, *_) = fixed_batches(requests, 3)
    assert isinstance(step.batch, Batch)
    (search,) = prefetcher.on_batch(step.batch)
    assert (search.rows, search.entries) == (3, 6)


# ---- as the authors' demo has it -------------------------------------------------------------------------------------


def test_the_demo_queues_every_expert_and_delta_only_orders():
    """p = (0.7, 0.2, 0.1, 0), found with score 0.25: δ = 0.75, so 0.7 + 0.2 exceeds it and two experts are selected."""
    model = shape(2, 4, top_k=1)
    gate = np.array([[[0.7, 0.2, 0.1, 0]] * 2], np.float16)
    recorded = replace(request_of([[[0], [0]]], model), gate=gate)
    search, found = Search("trajectory", 0, 1, 4, 1), Nearest(np.array([0]), np.array([0.25], np.float32))
    weights = {}
    for queue in ("selected", "all"):
        prefetcher = started(model, [recorded], prefetch_distance=1, queue=queue)
        (plan,) = prefetcher.on_found(None, 0, search, found)
        weights[queue] = dict(zip(plan.experts, np.round(plan.weights, 6).tolist(), strict=True))
        np.testing.assert_array_equal(plan.belief, gate[0, 1].astype(np.float32))
    np.testing.assert_allclose(list(weights["selected"].values()), [0.7, 0.2], atol=1e-3)
    assert list(weights["all"]) == [0, 1, 2, 3]
    assert [weights["all"][expert] for expert in (2, 3)] == [QUEUED_WEIGHT] * 2


def test_the_demo_plans_all_layers_beyond_the_distance_from_each_match():
    model = shape(5, 4, top_k=1)
    recorded = request_of([[[0], [1], [2], [3], [0]]], model)
    planned = {}
    for reach in ("layer", "rest"):
        prefetcher = started(model, [recorded], prefetch_distance=2, reach=reach)
        (step,) = fixed_batches([recorded], 1)
        list(prefetcher.on_batch(step.batch))
        (search,) = prefetcher.on_gate(step.batch, gate_of(step, 0))
        found = prefetcher.search(search)
        plans = prefetcher.on_found(step.batch, 0, search, found)
        planned[reach] = [(plan.layer, list(plan.experts)) for plan in plans]
    assert planned == {"layer": [(2, [2])], "rest": [(2, [2]), (3, [3]), (4, [0])]}


def test_without_semantic_search_nothing_guides_the_first_layers():
    model = shape(4, 4, top_k=1)
    recorded = request_of([[[2], [0], [3], [1]]], model, rng=np.random.default_rng(0), hidden=3)
    prefetcher = started(model, [recorded], prefetch_distance=2, semantic=False)
    (step,) = fixed_batches([recorded], 1)
    assert list(prefetcher.on_batch(step.batch)) == []
    assert prefetcher.note == ""  # as it was asked for
    prefetcher.on_gate(step.batch, gate_of(step, 0))
    (update,) = prefetcher.on_batch_end(step.batch, step.maps, step.experts)
    assert update.dims == 4 * 4  # no embedding enters the store


def test_the_demo_counts_visits_that_found_the_expert_there():
    """J = 2, so the first belief is ½. Expert 0 is missed, hit and hit; expert 1 is prefetched and hit."""
    evictor = InCacheFrequency(count_misses=False, reset_on_evict=False)
    evictor.start(setup_of(shape(1, 2)))
    evictor.touched(0, [0], 0.0)
    assert evictor.scores.tolist() == [0, 0]
    evictor.touched(0, [0], 0.0)
    evictor.loaded(0, 1, 0.0)
    evictor.touched(0, [0, 1], 0.0)
    assert evictor.scores.tolist() == [1, 0.5]
    evictor.evicted(0, 0, 0.0)
    evictor.touched(0, [0], 0.0)
    assert evictor.scores.tolist() == [1, 0.5]


def test_the_demo_resets_evicted_experts():
    evictor = InCacheFrequency(count_misses=True, reset_on_evict=True)
    evictor.start(setup_of(shape(1, 2)))
    evictor.touched(0, [0, 1], 0.0)
    evictor.believe(0, np.array([0.9, 0.1]))
    evictor.evicted(0, 0, 0.0)
    assert evictor.scores.tolist() == [0, 0.1]
    evictor.touched(0, [0], 0.0)
    assert evictor.scores.tolist() == [0.5, 0.1]
