"""Elasticities of times whose slope is known, and where the largest part changes."""

import math

import pytest

from sim.planning.resources import FACTORS
from sim.planning.sensitivity import Change, changes, elasticity, largest_part, parts_of_iteration


@pytest.mark.parametrize("slope", [-1.0, -0.25, 0.5])
@pytest.mark.parametrize("factors", [FACTORS, (0.25, 1.0, 1.2), (0.5, 1.0), (1.0, 4.0)])
def test_the_elasticity_of_a_power_law_is_its_exponent(slope: float, factors: tuple[float, ...]) -> None:
    assert elasticity({factor: 3 * factor**slope for factor in factors}) == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_elasticity_is_the_share_of_time_that_depends_on_the_resource(share: float) -> None:
    times = {factor: 1 - share + share / factor for factor in FACTORS}
    assert elasticity(times) == pytest.approx(-share, abs=0.003)


def test_an_elasticity_is_the_slope_at_1x_whatever_the_distance_of_its_neighbours() -> None:
    """ln(time) = −x + x²/2 of x = ln(factor), whose slope at 0 is −1: neighbours at unequal distances see the bend."""
    times = {math.exp(x): math.exp(-x + x * x / 2) for x in (-0.7, 0.0, 0.2)}
    assert elasticity({1.0 if factor == 1 else factor: time for factor, time in times.items()}) == pytest.approx(-1)


def test_elasticity_is_0_without_an_effect_and_none_without_a_neighbour() -> None:
    assert elasticity(dict.fromkeys(FACTORS, 0.0123)) == 0
    assert elasticity({0.5: 1.0, 1.0: 1 + 1e-15, 2.0: 1.0}) == 0
    assert elasticity({1.0: 2.0}) is None
    assert elasticity({0.5: 2.0, 2.0: 1.0}) is None
    assert elasticity({0.5: None, 1.0: None}) is None


def test_parts_are_of_a_decode_iteration_or_else_of_a_prefill() -> None:
    known = ("compute", "overhead", "exchange", "miss_wait", "late_wait", "wave_wait", "prefetch_wait", "search_wait")
    decode = {f"decode_{name}_s": float(2**place) for place, name in enumerate(known)}
    found = parts_of_iteration(decode | {f"prefill_{name}_s": 1.0 for name in known})
    assert found == {"compute": 1, "overhead": 2, "exchange": 4, "copies": 8 + 16 + 32 + 64, "search": 128}
    assert largest_part(found) == ("search", 128 / 255)
    prefill = dict.fromkeys(decode) | {f"prefill_{name}_s": 1.0 for name in known}
    assert largest_part(parts_of_iteration(prefill)) == ("copies", 0.5)
    assert largest_part(parts_of_iteration({})) is None


def test_a_change_lies_between_two_neighbours() -> None:
    largest = [(0.5, "copies"), (1.0, "copies"), (2.0, "compute"), (4.0, "overhead")]
    assert changes(largest) == [Change("copies", "compute", 1.0, 2.0), Change("compute", "overhead", 2.0, 4.0)]
