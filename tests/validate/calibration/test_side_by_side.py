"""What goes on at once: from rates that are made up, so that the answers are known; and the rates of sleeping."""

import sys
from collections.abc import Sequence
from itertools import cycle
from time import sleep
from typing import Any

import pytest

from sim.hardware.parts import Contention
from validate.calibration.side_by_side import calls_per_s, side_by_side

COMPUTE, ONE, OTHER = "compute", "a copy", "a copy over another link"


def rates(known: dict[tuple[str, ...], list[float]], noise: Sequence[float] = (1.0,)) -> Any:
    """Answers with the rates that are known, times what disturbs the machine while all of a window is measured."""
    disturbed = cycle(noise)
    return lambda calls: [each * next(disturbed) for each in known[tuple(calls)]]


ALONE = {(COMPUTE,): [100.0], (ONE,): [50.0]}


def test_slowdowns_are_the_ratios_of_rates_alone_and_at_once() -> None:
    answer: Any = rates({**ALONE, (COMPUTE, ONE): [80.0, 20.0]})
    found = side_by_side(COMPUTE, [ONE], rates_of=answer)  # type: ignore[arg-type]
    assert found.contention == Contention(compute_slowdown=1.25, copy_slowdown=2.5)
    assert found.links_worth == 1.0


def test_a_speedup_beside_others_is_noise() -> None:
    answer = rates({**ALONE, (COMPUTE, ONE): [120.0, 55.0]})
    assert side_by_side(COMPUTE, [ONE], rates_of=answer).contention == Contention()  # type: ignore[arg-type]


def test_a_disturbance_that_meets_fewer_than_half_of_the_windows_does_not_count() -> None:
    answer = rates({**ALONE, (COMPUTE, ONE): [80.0, 20.0]}, noise=[0.1] * 8 + [1.0] * 12)
    found = side_by_side(COMPUTE, [ONE], rates_of=answer)  # type: ignore[arg-type]
    assert found.contention == Contention(compute_slowdown=1.25, copy_slowdown=2.5)


@pytest.mark.parametrize(("at_once", "worth"), [([50.0, 50.0], 2.0), ([40.0, 30.0], 1.4), ([20.0, 20.0], 1.0)])
def test_links_share_their_total_rate_which_is_at_least_that_of_one(at_once: list[float], worth: float) -> None:
    answer = rates({**ALONE, (COMPUTE, ONE): [100.0, 50.0], (ONE, OTHER): at_once})
    found = side_by_side(COMPUTE, [ONE, OTHER], rates_of=answer)  # type: ignore[arg-type]
    assert found.links_worth == worth


def test_all_calls_run_at_once_and_the_interpreter_switches_as_before() -> None:
    found = calls_per_s([lambda: sleep(0.001)] * 3)
    assert len(found) == 3
    assert all(0 < each <= 1000 for each in found)  # each call takes a millisecond or longer
    before = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda: 1 // 0, [lambda: None])
    assert sys.getswitchinterval() == before
