"""Which requests run together, and what their iterations demand, against recordings made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sim.engine.batching import fixed_batches
from tests.support.builders import random_requests, request_of, shape

MODEL = shape(2, 4)

# Three requests of 3, 1 and 2 iterations. Layer 0 stands first, then layer 1.
FIRST = request_of(
    [
        [[2, 0], [1, 3]],  # prefill
        [[2, 1], [3, 1]],  # prefill
        [[3, 0], [0, 1]],
        [[1, 0], [2, 0]],
    ],
    MODEL,
    number=7,
    prefill_tokens=2,
)
SECOND = request_of([[[0, 2], [3, 2]]], MODEL, number=3, prefill_tokens=1)
THIRD = request_of([[[3, 1], [1, 0]], [[3, 2], [1, 2]]], MODEL, number=5, prefill_tokens=1)
ALL = [FIRST, SECOND, THIRD]


def steps(size, requests=ALL):
    return list(fixed_batches(requests, size))


def test_one_at_a_time_requests_run_in_the_given_order_iteration_by_iteration():
    run = steps(1)
    assert [step.batch.request.tolist() for step in run] == [[7], [7], [7], [3], [5], [5]]
    assert [step.batch.iteration for step in run] == [0, 1, 2, 3, 4, 5]


def test_a_request_leaves_its_batch_when_it_ends_and_no_other_takes_its_place():
    run = steps(2)
    assert [step.batch.request.tolist() for step in run] == [[7, 3], [7], [7], [5], [5]]
    assert [step.batch.iteration for step in run] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [3, 4, 1000])
def test_a_batch_larger_than_the_requests_holds_them_all(size):
    assert [step.batch.request.tolist() for step in steps(size)] == [[7, 3, 5], [7, 5], [7]]


def test_the_last_batch_takes_what_is_left():
    requests = random_requests(MODEL, np.random.default_rng(1), requests=7, decoded=2)
    assert [len(step.batch.request) for step in steps(3, requests)] == [3, 3, 3, 3, 1, 1]


def test_without_requests_there_are_no_iterations():
    assert steps(2, []) == []


def test_the_next_batch_is_read_only_when_the_one_before_has_ended():
    """Requests stream: a trace larger than memory can be simulated."""
    taken = []

    def stream():
        for recorded in random_requests(MODEL, np.random.default_rng(1), requests=4, decoded=3):
            taken.append(recorded.request)
            yield recorded

    seen = [(step.batch.iteration, list(taken)) for step in fixed_batches(stream(), 2)]
    assert seen == [(0, [0, 1]), (1, [0, 1]), (2, [0, 1]), (3, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3])]


def test_a_request_starts_in_its_first_iteration_and_ends_in_its_last():
    run = steps(2)
    assert [list(step.starting) for step in run] == [[7, 3], [], [], [5], []]
    assert [list(step.ending) for step in run] == [[3], [], [7], [], [5]]


def test_the_first_iteration_of_a_request_is_its_prefill():
    assert [step.batch.prefill.tolist() for step in steps(2)] == [[True, True], [False], [False], [True], [False]]


def test_a_recording_without_prefill_has_none():
    decoded = request_of([[[0, 1], [0, 1]], [[0, 1], [0, 1]]], MODEL)
    assert [step.batch.prefill.tolist() for step in steps(1, [decoded])] == [[False], [False]]


def test_a_token_belongs_to_the_request_in_its_row():
    """Prefill of 2 tokens beside one of 1: rows 0, 0, 1; the tokens are numbered from 0 in each request."""
    first = steps(2)[0].batch
    assert first.row.tolist() == [0, 0, 1]
    assert first.token.tolist() == [0, 1, 0]


def test_demands_are_the_distinct_experts_of_all_tokens_in_rising_order():
    """Iteration 0 of {7, 3}: layer 0 runs {2, 0}, {2, 1}, {0, 2}; layer 1 {1, 3}, {3, 1}, {3, 2}."""
    run = steps(2)
    assert run[0].demands == [[0, 1, 2], [1, 2, 3]]
    assert run[0].loads == [[2, 1, 3], [2, 1, 3]]
    assert run[1].demands == [[0, 3], [0, 1]]
    assert run[2].demands == [[0, 1], [0, 2]]
    assert run[3].demands == [[1, 3], [0, 1]]


def test_three_requests_that_decode_together_demand_the_union():
    """Iteration 1 of {7, 5}: layer 0 runs {3, 0} and {3, 2}; layer 1 {0, 1} and {1, 2}."""
    second = steps(3)[1]
    assert second.demands == [[0, 2, 3], [0, 1, 2]]
    assert second.loads == [[1, 1, 2], [1, 2, 1]]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_loads_are_tokens_times_top_k(size):
    model = shape(3, 6, top_k=2)
    requests = random_requests(model, np.random.default_rng(4), requests=5, decoded=5, prefill_tokens=9)
    for step in fixed_batches(requests, size):
        loads = step.loads or [[1] * len(demanded) for demanded in step.demands]  # None: one token each
        assert [len(load) for load in loads] == [len(demanded) for demanded in step.demands]
        assert [sum(load) for load in loads] == [len(step.batch.token) * 2] * 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_demands_and_loads_are_what_counting_by_hand_gives(size):
    model = shape(3, 6, top_k=2)
    requests = random_requests(model, np.random.default_rng(5), requests=4, decoded=4, prefill_tokens=3)
    for step in fixed_batches(requests, size):
        for layer in range(3):
            executed = step.experts[:, layer].ravel().tolist()
            assert step.demands[layer] == sorted(set(executed))
            if step.loads is not None:
                assert step.loads[layer] == [executed.count(expert) for expert in sorted(set(executed))]
            else:
                assert len(step.batch.token) == 1


def test_maps_and_experts_are_those_of_the_tokens_one_below_the_other():
    first, second = steps(3)[:2]
    np.testing.assert_array_equal(first.experts, np.stack([*FIRST.experts[:2], SECOND.experts[0], THIRD.experts[0]]))
    np.testing.assert_array_equal(second.maps, np.stack([FIRST.gate[2], THIRD.gate[1]]).astype(np.float32))
    assert first.maps.dtype == np.float32


def test_context_is_what_the_caches_hold_after_the_iteration():
    """Request 7: 2 positions, then 3, then 4; request 3: 1; request 5: 1, then 2."""
    assert [step.context for step in steps(1)] == [2, 3, 4, 1, 1, 2]
    assert [step.context for step in steps(2)] == [2 + 1, 3, 4, 1, 2]
    assert [step.context for step in steps(3)] == [2 + 1 + 1, 3 + 2, 4]


def test_a_token_attends_to_itself_and_to_all_before_it():
    """A prefill of 2 attends to 1 + 2 positions, a decoded token to as many as there are."""
    assert [step.attended for step in steps(1)] == [1 + 2, 3, 4, 1, 1, 2]
    assert [step.attended for step in steps(3)] == [3 + 1 + 1, 3 + 2, 4]
    four = request_of([[[0, 1], [0, 1]]] * 4, MODEL, prefill_tokens=4)
    assert [step.attended for step in steps(1, [four])] == [1 + 2 + 3 + 4]


def test_positions_give_the_context_even_if_earlier_rows_are_missing():
    later = replace(SECOND, position=np.array([9], np.int32))
    (step,) = steps(1, [later])
    assert (step.context, step.attended) == (10, 10)


def test_embeddings_are_joined_token_by_token():
    rng = np.random.default_rng(2)
    one, two = random_requests(MODEL, rng, requests=2, decoded=1, prefill_tokens=2, hidden=3)
    first, second = steps(2, [one, two])
    np.testing.assert_array_equal(first.batch.embedding, np.concatenate([one.embedding[:2], two.embedding[:2]]))
    np.testing.assert_array_equal(second.batch.embedding, np.stack([one.embedding[2], two.embedding[2]]))
    assert first.batch.embedding.dtype == np.float32


def test_embeddings_are_dropped_unless_all_requests_have_them():
    rng = np.random.default_rng(2)
    (known,) = random_requests(MODEL, rng, requests=1, decoded=1, prefill_tokens=2, hidden=3)
    first, second = steps(2, [known, replace(SECOND, request=9)])
    assert first.batch.embedding is None
    assert second.batch.embedding.shape == (1, 3)  # the other request has ended


def with_lookahead(recorded, rng):
    """The recording with two more columns of gates."""
    ahead = {distance: rng.random(recorded.gate.shape).astype(np.float16) for distance in (1, 2)}
    return replace(recorded, lookahead=ahead)


def test_lookahead_is_joined_by_distance():
    rng = np.random.default_rng(2)
    one, two = with_lookahead(FIRST, rng), with_lookahead(THIRD, rng)
    first, second, third = steps(2, [one, two])
    assert list(first.lookahead) == [1, 2]
    for distance in (1, 2):
        early, late = one.lookahead[distance], two.lookahead[distance]
        np.testing.assert_array_equal(first.lookahead[distance], np.stack([early[0], early[1], late[0]]))
        np.testing.assert_array_equal(second.lookahead[distance], np.stack([early[2], late[1]]))
        np.testing.assert_array_equal(third.lookahead[distance], early[3:])


def test_lookahead_has_the_precision_of_the_gates():
    (step, *_) = steps(1, [with_lookahead(FIRST, np.random.default_rng(2))])
    assert step.lookahead[1].dtype == step.maps.dtype == np.float32


def test_recorded_requests_are_not_changed():
    before = [recorded.experts.copy() for recorded in ALL]
    for step in fixed_batches(ALL, 2):
        assert step.demands
    for recorded, experts in zip(ALL, before, strict=True):
        np.testing.assert_array_equal(recorded.experts, experts)
        assert recorded.gate.dtype == np.float16
