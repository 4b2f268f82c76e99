"""How strongly a time depends on a resource, and which part of an iteration dominates it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sim.results.time_split_figure import PHASES

ROUNDING = 1e-9  # error of an elasticity, because the last digits of times depend on the order of summing

# The parts of `sim.engine.time_split`, grouped for someone who plans a machine.
GROUPS = {
    "compute": ("compute_s",),
    "overhead": ("overhead_s",),
    "exchange": ("exchange_s",),
    "copies": ("miss_wait_s", "late_wait_s", "wave_wait_s", "prefetch_wait_s"),
    "search": ("search_wait_s",),
}


class Change(NamedTuple):
    """A change of an iteration's largest part between two simulated factors."""

    before: str
    after: str
    low: float
    high: float


def elasticity(times: Mapping[float, float | None]) -> float | None:
    """d ln(time) / d ln(factor) at 1×: −1 if the time halves when the resource doubles, 0 if it does not change.

    The estimate is the slope at 1× of a parabola, in logarithms, through the times at 1× and at the nearest factor on
    each side; with one side only, the slope of a straight line; without any, None.
    """
    known = {factor: math.log(time) for factor, time in times.items() if time}
    below, above = sides(known)
    if 1.0 not in known or (below is None and above is None):
        return None
    slopes = {each: (known[each] - known[1.0]) / math.log(each) for each in (below, above) if each is not None}
    if below is None or above is None:
        value = sum(slopes.values())
    else:  # the nearer slope has the larger weight
        left, right = -math.log(below), math.log(above)
        value = (slopes[below] * right + slopes[above] * left) / (left + right)
    return value if abs(value) > ROUNDING else 0.0


def sides(factors: Iterable[float]) -> tuple[float | None, float | None]:
    """The nearest factors below and above 1; None if there is none."""
    known = [*factors]
    return max((each for each in known if each < 1), default=None), min(
        (each for each in known if each > 1), default=None
    )


def parts_of_iteration(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a mean decode iteration (of a prefill if nothing is decoded), by `GROUPS`; empty without a run."""
    for phase in PHASES:
        if summary.get(f"{phase}_{GROUPS['compute'][0]}") is not None:
            return {name: math.fsum(summary[f"{phase}_{part}"] for part in parts) for name, parts in GROUPS.items()}
    return {}


def largest_part(parts: Mapping[str, float]) -> tuple[str, float] | None:
    """The largest part and its share; None without a run."""
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
