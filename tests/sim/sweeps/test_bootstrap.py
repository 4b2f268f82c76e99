"""Intervals over seeds: every resample enumerated, against resampling by brute force."""

import itertools

import numpy as np
import pytest

from sim.sweeps.bootstrap import EXACT_UP_TO, Bootstrap, Estimate


def estimate(values: list[float]) -> Estimate | None:
    return Bootstrap(np.random.default_rng(0)).estimate(values)


def brute_force(values: list[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of the means of all resamples, drawn in order."""
    means = sorted(np.mean(resample) for resample in itertools.product(values, repeat=len(values)))
    return tuple(float(np.quantile(means, share, method="inverted_cdf")) for share in (0.025, 0.975))


@pytest.mark.parametrize("values", [[1.0, 5.0], [1.0, 2.0, 6.0], [3.0, 1.0, 4.0, 1.5], [9.0, 2.0, 6.0, 5.0, 3.5]])
def test_few_values_have_the_interval_of_all_resamples(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(np.mean(values)), len(values))
    assert (found.low, found.high) == pytest.approx(brute_force(values))


@pytest.mark.parametrize("values", [[1.0, 5.0], [1.0, 2.0, 6.0]])
def test_two_or_three_values_have_their_range_as_interval(values: list[float]) -> None:
    """The extreme resample of three has a probability of 1/27, more than 2.5 %."""
    found = estimate(values)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    assert estimate([2.5]) == Estimate(2.5, None, None, 1)
    assert estimate([]) is None


def test_many_values_have_nearly_the_interval_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(10, 2, 60)
    found = estimate(values.tolist())
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    margin = 1.96 * values.std() / np.sqrt(60)
    assert (found.low, found.high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.05)
    assert estimate(values.tolist()) == found


@pytest.mark.parametrize("count", [EXACT_UP_TO, EXACT_UP_TO + 1])
def test_equal_values_have_an_interval_of_that_value(count: int) -> None:
    found = estimate([0.1] * count)
    assert found is not None
    assert found.low == found.high == found.mean


@pytest.mark.parametrize(
    ("values", "sign"),
    [([1.0, 2.0], 1), ([-1.0, -2.0], -1), ([-1.0, 2.0], 0), ([0.0, 1.0], 0), ([0.5], 1), ([-0.5], -1), ([0.0], 0)],
)
def test_a_difference_has_a_sign_if_its_interval_excludes_zero(values: list[float], sign: int) -> None:
    found = estimate(values)
    assert found is not None
    assert found.sign == sign
