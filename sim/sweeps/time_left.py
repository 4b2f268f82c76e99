"""How long the rest of a sweep takes, by what its runs have taken so far."""

from collections.abc import Mapping, Sequence

from sim.sweeps.run_task import RunTask, TaskEnd


class TimeLeft:
    """The seconds that are left, from the mean time of the runs of each policy.

    A policy of which no run has ended yet counts like the mean of those that have. `before_s` are means of earlier
    sweeps; each counts as one run.
    """

    def __init__(self, tasks: Sequence[RunTask], before_s: Mapping[str, float], processes: int) -> None:
        self._processes = processes
        self._left: dict[str, int] = {}
        for task in tasks:
            self._left[task.name] = self._left.get(task.name, 0) + 1
        self._seconds = {policy: [before_s[policy]] for policy in self._left if policy in before_s}

    def ended(self, end: TaskEnd) -> None:
        """A task has ended."""
        self._left[end.policy] -= 1
        if end.end == "done":
            self._seconds.setdefault(end.policy, []).append(end.wall_s)

    def seconds(self) -> float | None:
        """What is left in seconds; None while nothing is known."""
        means = {policy: sum(each) / len(each) for policy, each in self._seconds.items()}
        if not means:
            return None
        unknown = sum(means.values()) / len(means)
        work_s = sum(count * means.get(policy, unknown) for policy, count in self._left.items())
        return work_s / self._processes

    def text(self) -> str:
        """`3 min left`."""
        left_s = self.seconds()
        return "" if left_s is None else f"{duration(left_s)} left"


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
