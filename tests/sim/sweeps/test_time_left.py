"""How long a sweep still takes, from what its runs have taken."""

from pathlib import Path

import pytest

from sim.scenario import Scenario
from sim.sweeps.run_task import RunTask, TaskEnd
from sim.sweeps.time_left import TimeLeft, duration


def tasks(**counts: int) -> list[RunTask]:
    return [
        RunTask(scenario=Scenario(Path("a.trace"), policy=policy), key=f"{policy}{number}")
        for policy, count in counts.items()
        for number in range(count)
    ]


def ended(policy: str, wall_s: float) -> TaskEnd:
    return TaskEnd(key="", policy=policy, end="done", wall_s=wall_s)


def test_there_is_no_estimate_before_the_first_run_ends() -> None:
    left = TimeLeft(tasks(lru=3), {}, 1)
    assert left.seconds() is None
    assert left.text() == ""


def test_each_policy_counts_by_its_own_mean_and_processes_share_the_work() -> None:
    left = TimeLeft(tasks(lru=3, finemoe=3), {}, 2)
    for end in (ended("lru", 1.0), ended("lru", 3.0), ended("finemoe", 10.0)):
        left.ended(end)
    assert left.seconds() == (1 * 2.0 + 2 * 10.0) / 2
    assert left.text() == "11 s left"


def test_an_unknown_policy_is_assumed_to_take_the_mean_of_the_others() -> None:
    left = TimeLeft(tasks(lru=2, finemoe=1), {}, 1)
    left.ended(ended("lru", 4.0))
    assert left.seconds() == 4.0 + 4.0


def test_earlier_sweeps_count_from_the_start() -> None:
    assert TimeLeft(tasks(lru=2), {"lru": 5.0, "other": 100.0}, 1).seconds() == 10.0


def test_stored_runs_do_not_change_the_estimate() -> None:
    left = TimeLeft(tasks(lru=2), {"lru": 5.0}, 1)
    left.ended(TaskEnd(key="", policy="lru", end="known"))
    assert left.seconds() == 5.0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_times_are_shown_in_a_fitting_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said
