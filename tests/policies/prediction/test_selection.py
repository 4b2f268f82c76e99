"""Eq. 6-8 on numbers small enough to check by eye."""

from typing import get_args

import numpy as np
import pytest

from policies.prediction.selection import Threshold, highest, highest_plan, plan, plans, select

P = np.array([0.5, 0.1, 0.3, 0.1])  # falling: expert 0, 2, 1, 3 with running sums 0.5, 0.8, 0.9, 1.0


@pytest.mark.parametrize(
    ("score", "top_k", "experts"),
    [
        (1.0, 1, [0]),  # δ = 0: the first sum, 0.5, exceeds it
        (0.6, 1, [0]),  # δ = 0.4 < 0.5
        (0.4, 1, [0, 2]),  # δ = 0.6: 0.5 does not exceed it, 0.8 does
        (0.15, 1, [0, 1, 2]),  # δ = 0.85: 0.9 does; of the equal experts 1 and 3 the lower id comes first
        (0.05, 1, [0, 1, 2, 3]),  # δ = 0.95
        (1.0, 2, [0, 2]),  # at least top-k
        (1.0, 3, [0, 1, 2]),
        (-0.5, 1, [0, 1, 2, 3]),  # δ is clipped at 1, which no sum exceeds
        (1.5, 1, [0]),  # δ is clipped at 0
    ],
)
def test_experts_are_taken_in_falling_probability_until_their_sum_exceeds_delta(score, top_k, experts):
    assert np.flatnonzero(select(P, np.array(score), top_k)).tolist() == experts


def test_a_sum_that_equals_delta_does_not_exceed_it():
    assert np.flatnonzero(select(np.array([0.5, 0.25, 0.25]), np.array(0.5), 1)).tolist() == [0, 1]


def test_each_row_selects_by_its_own_score():
    probs = np.stack([P, P[::-1]])
    mask = select(probs, np.array([1.0, 0.4]), 1)
    assert [np.flatnonzero(row).tolist() for row in mask] == [[0], [1, 3]]


def test_the_definition_read_aloud_gives_the_same_mask():
    rng = np.random.default_rng(0)
    for _ in range(200):
        experts = int(rng.integers(2, 12))
        top_k = int(rng.integers(1, experts + 1))
        probs, score = rng.dirichlet(np.ones(experts)), rng.uniform(-0.2, 1.2)
        total, taken = 0.0, set()
        for expert in sorted(range(experts), key=lambda e: (-probs[e], e)):
            if total > min(max(1 - score, 0), 1) and len(taken) >= top_k:
                break
            taken.add(expert)
            total += probs[expert]
        assert set(np.flatnonzero(select(probs, np.array(score), top_k))) == taken


@pytest.mark.parametrize(
    ("score", "top_k", "experts"),
    [
        (1.0, 1, [0]),
        (0.4, 1, [0]),  # δ = 0.6: 0.5 is within it, 0.8 is not
        (0.15, 1, [0, 2]),  # δ = 0.85
        (0.15, 3, [0, 1, 2]),  # at least top-k
        (0.0, 1, [0, 1, 2, 3]),  # δ = 1, the sum of all
    ],
)
def test_the_demo_leaves_out_the_expert_with_which_the_sum_exceeds_delta(score, top_k, experts):
    assert np.flatnonzero(select(P, np.array(score), top_k, "demo")).tolist() == experts


def test_top_k_takes_so_many_whatever_the_score():
    assert [np.flatnonzero(select(P, np.array(score), 2, "top-k")).tolist() for score in (-1, 0.3, 1)] == [[0, 2]] * 3


def test_the_highest_keep_their_probability_ties_by_id_and_zeros_are_left_out():
    assert highest(P, 3).tolist() == [0.5, 0.1, 0.3, -1]
    assert highest(np.array([0.0, 0.6, 0.0, 0.4]), 3).tolist() == [-1, 0.6, -1, 0.4]


def test_a_plan_has_the_maximum_over_the_records_of_its_iteration():
    """Two iterations of two layers: the first of records 0 and 1, the second of record 2."""
    probs = np.array([[P, P[::-1]], [P[::-1], P], [P, P]])
    answer = plans(highest(probs, 1), probs, 5, [0, 2])
    assert [(plan.layer, plan.experts, plan.weights) for plan in answer] == [
        (5, [0, 3], [0.5, 0.5]),
        (6, [0, 3], [0.5, 0.5]),
        (5, [0], [0.5]),
        (6, [0], [0.5]),
    ]
    assert answer[0].belief.tolist() == [0.5, 0.3, 0.3, 0.5]


@pytest.mark.parametrize("threshold", get_args(Threshold))
def test_the_plan_of_one_record_is_the_same_made_faster(threshold):
    rng = np.random.default_rng(1)
    for _ in range(300):
        probs = rng.dirichlet(np.full(9, 0.4)).astype(np.float32).round(2)  # some equal, some zero
        score = np.float32(rng.uniform(-0.2, 1.2))
        mask = select(probs[None], score[None], 3, threshold)
        (expected,) = plans(np.where(mask, probs, np.float32(-1))[:, None], probs[None, None], 5)
        one = plan(5, probs, score, 3, threshold)
        assert (one.layer, one.experts, one.weights) == (5, expected.experts, expected.weights)
        assert one.belief.tolist() == expected.belief.tolist()


def test_the_plan_of_one_record_and_layer_is_the_one_that_plans_makes_of_highest():
    """With ties, and with fewer positive probabilities than experts asked for."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        experts = int(rng.integers(2, 12))
        probs = rng.integers(0, 4, experts).astype(np.float32) / 3
        count = int(rng.integers(1, experts + 1))
        expected = plans(highest(probs[None, None], count), probs[None, None], 5)[0]
        got = highest_plan(5, probs, count)
        assert (got.layer, got.experts, got.weights) == (5, expected.experts, expected.weights)
        assert got.belief.dtype == expected.belief.dtype
        assert np.array_equal(got.belief, expected.belief)
