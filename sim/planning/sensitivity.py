"""How strongly a time depends on a resource, and which part of an iteration it hangs on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sim.results.time_split_figure import PHASES

ROUNDING = 1e-9  # of an elasticity: times are sums of which the last digits depend on when things happen

# The parts of `sim.engine.time_split`, as a reader who plans a machine thinks of them.
GROUPS = {
    "compute": ("compute_s",),
    "overhead": ("overhead_s",),
    "exchange": ("exchange_s",),
    "copies": ("miss_wait_s", "late_wait_s", "wave_wait_s", "prefetch_wait_s"),
    "search": ("search_wait_s",),
}


class Change(NamedTuple):
    """The largest part of an iteration becomes another one between two factors that were run."""

    before: str
    after: str
    low: float
    high: float


def elasticity(times: Mapping[float, float | None]) -> float | None:
    """d ln(time) / d ln(factor) at 1×: −1 where a time halves as the resource doubles, 0 where it stays as it is.

    Estimated as the slope at 1× of the parabola, in logarithms, through the time at 1× and at the nearest factor on
    either side; with one side only, as the slope of the straight line. None with none.
    """
    known = {factor: math.log(time) for factor, time in times.items() if time}
    below, above = sides(known)
    if 1.0 not in known or (below is None and above is None):
        return None
    slopes = {each: (known[each] - known[1.0]) / math.log(each) for each in (below, above) if each is not None}
    if below is None or above is None:
        value = sum(slopes.values())
    else:  # each slope counts by how near it is
        left, right = -math.log(below), math.log(above)
        value = (slopes[below] * right + slopes[above] * left) / (left + right)
    return value if abs(value) > ROUNDING else 0.0


def sides(factors: Iterable[float]) -> tuple[float | None, float | None]:
    """The nearest factor below 1 and the nearest above; None where there is none."""
    known = [*factors]
    return max((each for each in known if each < 1), default=None), min(
        (each for each in known if each > 1), default=None
    )


def parts_of_iteration(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a mean decode iteration, of a prefill where nothing is decoded, by `GROUPS`; empty without a run."""
    for phase in PHASES:
        if summary.get(f"{phase}_{GROUPS['compute'][0]}") is not None:
            return {name: math.fsum(summary[f"{phase}_{part}"] for part in parts) for name, parts in GROUPS.items()}
    return {}


def largest_part(parts: Mapping[str, float]) -> tuple[str, float] | None:
    """The part that takes longest, and its share; None without a run."""
    total_s = math.fsum(parts.values())
    if not total_s:
        return None
    name = max(parts, key=lambda each: parts[each])
    return name, parts[name] / total_s


def changes(largest: Sequence[tuple[float, str]]) -> list[Change]:
    """Where the largest part changes, from pairs of factor and part in rising order."""
    return [
        Change(part, following, low, high) for (low, part), (high, following) in pairwise(largest) if part != following
    ]
