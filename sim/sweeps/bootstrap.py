"""Means over seeds, and how sure they are: percentile bootstrap at 95 %."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
EXACT_UP_TO = 8  # values, of which there are 6435 different resamples
DRAWN = 10_000  # resamples of more values


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    low: float | None
    """Lower end of the interval; None with a single seed, which says nothing of the spread."""
    high: float | None
    """Upper end of the interval."""
    seeds: int

    @property
    def sign(self) -> int:
        """1 or −1 where the mean differs from 0, its interval too if there is one; otherwise 0."""
        low, high = (self.mean if end is None else end for end in (self.low, self.high))
        return int(low > 0) - int(high < 0)


def estimate(values: Sequence[float], rng: np.random.Generator) -> Estimate | None:
    """The mean of one value per seed, with its interval; None without values.

    All resamples are enumerated where values are few; of more, 10,000 are drawn.
    """
    count = len(values)
    if not count:
        return None
    sample = np.array(values, float)
    mean = float(sample.mean())
    if count == 1:
        return Estimate(mean, None, None, 1)
    if count <= EXACT_UP_TO:
        often, weights = _all_resamples(count)
    else:
        often = rng.multinomial(count, np.full(count, 1 / count), size=DRAWN)
        weights = np.ones(DRAWN, np.int64)
    means = often @ (sample - mean) / count + mean  # around the mean, so that equal values give equal means
    order = means.argsort(kind="stable")
    reached = weights[order].cumsum()
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * reached[-1]
    low, high = means[order][np.searchsorted(reached, tails)].tolist()
    return Estimate(mean, low, high, count)


@cache
def _all_resamples(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each resample has each value, `[R, count]`, and in how many orders it can be drawn, `[R]`."""
    picks = list(combinations_with_replacement(range(count), count))
    often = np.array([np.bincount(pick, minlength=count) for pick in picks])
    orders = [factorial(count) // prod(map(factorial, row)) for row in often.tolist()]
    return often, np.array(orders)
