"""Estimates the time left of a sweep from its finished runs."""

from collections.abc import Mapping, Sequence

from sim.sweeps.run_task import RunTask, TaskEnd


class TimeLeft:
    """The time left in seconds, from the mean time of each policy's runs.

    A policy without a finished run is assumed to take the mean of the others. `before_s` are means of earlier sweeps;
    each counts as one run.
    """

    def __init__(self, tasks: Sequence[RunTask], before_s: Mapping[str, float], processes: int) -> None:
        self._processes = processes
        self._left: dict[str, int] = {}
        for task in tasks:
            self._left[task.name] = self._left.get(task.name, 0) + 1
        self._seconds = {policy: [before_s[policy]] for policy in self._left if policy in before_s}

    def ended(self, end: TaskEnd) -> None:
        """Count a task that has ended."""
        self._left[end.policy] -= 1
        if end.end == "done":
            self._seconds.setdefault(end.policy, []).append(end.wall_s)

    def seconds(self) -> float | None:
        """The time left in seconds; None while no run has finished."""
        means = {policy: sum(each) / len(each) for policy, each in self._seconds.items()}
        if not means:
            return None
        unknown = sum(means.values()) / len(means)
        work_s = sum(count * means.get(policy, unknown) for policy, count in self._left.items())
        return work_s / self._processes

    def text(self) -> str:
        """The time left as text: `3 min left`."""
        left_s = self.seconds()
        return "" if left_s is None else f"{duration(left_s)} left"


def duration(seconds: float) -> str:
    """A time as text: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
