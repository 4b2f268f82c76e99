"""What the rules say of values made by hand, at and beyond every limit."""

import math

import pytest

from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, REPRODUCED, SAME_ORDER, Claim
from sim.paper.claims.claim_values import nothing
from sim.paper.verdicts.judgement import judge


def claim(rule: str, **fields: object) -> Claim:
    return Claim(key="x", figure="1", says="", rule=rule, ours=lambda tables: nothing(), **fields)


REDUCTION = claim("number", paper=-0.25, unit="share")
LAYERS = claim("number", paper=5, unit="layers")
ORDER = claim("order")
RANGE = claim("range", low=0.84, high=0.97)
BOUND = claim("bound", high=200, unit="MB")


@pytest.mark.parametrize(
    ("said", "values", "verdict"),
    [
        (REDUCTION, [-0.30], REPRODUCED),  # five points off
        (REDUCTION, [-0.31], SAME_ORDER),
        (REDUCTION, [-0.10, -0.38], REPRODUCED),  # the mean counts
        (REDUCTION, [-0.9, 0.4], NOT_REPRODUCED),  # the mean is right, but the sign is in one of two only
        (REDUCTION, [-0.9, -0.1, 0.25], REPRODUCED),
        (REDUCTION, [-0.1, -0.1, 0.9], NOT_REPRODUCED),  # the sign is in most, but not in the mean
        (REDUCTION, [0.0], NOT_REPRODUCED),  # no change has no sign
        (LAYERS, [6], REPRODUCED),
        (LAYERS, [4, 4, 8], REPRODUCED),
        (LAYERS, [6.1], SAME_ORDER),
        (LAYERS, [10], SAME_ORDER),
        (LAYERS, [10.1], NOT_REPRODUCED),
        (LAYERS, [2.4], NOT_REPRODUCED),
        (LAYERS, [1, 1, 13], NOT_REPRODUCED),  # the mean is right by chance
        (ORDER, [1, 1], REPRODUCED),
        (ORDER, [1, 1, 0], SAME_ORDER),
        (ORDER, [1, 0], NOT_REPRODUCED),
        (RANGE, [0.84, 0.97], REPRODUCED),
        (RANGE, [0.9, 0.9, 0.98], SAME_ORDER),
        (RANGE, [0.83, 0.98], NOT_REPRODUCED),  # though the mean lies between the limits
        (BOUND, [200], REPRODUCED),
        (BOUND, [200.1], NOT_REPRODUCED),
        (BOUND, [], NOT_JUDGED),
        (ORDER, [math.nan], NOT_JUDGED),
        (ORDER, [math.nan, 1], REPRODUCED),
    ],
)
def test_the_verdict_follows_from_the_values(said: Claim, values: list[float], verdict: str) -> None:
    assert judge(said, values).verdict == verdict


def test_only_traces_with_a_value_are_counted() -> None:
    found = judge(REDUCTION, [-0.1, math.nan, 0.1, -0.3])
    assert found.holds_in == "2 of 3"
    assert found.mean == pytest.approx(-0.1)


def test_without_values_nothing_is_counted() -> None:
    found = judge(ORDER, [])
    assert found.holds_in == "0 of 0"
    assert math.isnan(found.mean)
