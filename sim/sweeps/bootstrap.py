"""Means over seeds with their intervals: percentile bootstrap at 95 %."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
EXACT_UP_TO = 8  # values; they have 6435 different resamples
DRAWN = 10_000  # resamples if there are more values


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    low: float | None
    """Lower end of the interval; None with a single seed, which has no spread."""
    high: float | None
    """Upper end of the interval; None with a single seed."""
    seeds: int

    @property
    def sign(self) -> int:
        """The sign of the mean if its interval (with one seed, the mean) excludes 0; otherwise 0."""
        low, high = (self.mean if end is None else end for end in (self.low, self.high))
        return int(low > 0) - int(high < 0)


class Bootstrap:
    """Makes estimates from one value per seed.

    Of few values, all resamples are enumerated. Of more, 10,000 are drawn, once for each number of values.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drawn: dict[int, NDArray[np.float64]] = {}  # [R, count] how often each resample has each value

    def estimate(self, values: Sequence[float]) -> Estimate | None:
        """The mean with its interval; None without values."""
        count = len(values)
        if not count:
            return None
        sample = np.array(values, float)
        mean = float(sample.mean())
        if count == 1:
            return Estimate(mean, None, None, 1)
        often, weights = _all_resamples(count) if count <= EXACT_UP_TO else (self._draw(count), None)
        means = often @ (sample - mean) / count + mean  # around the mean, so that equal values give equal means
        shares = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low, high = np.quantile(means, shares, method="inverted_cdf", weights=weights).tolist()
        return Estimate(mean, low, high, count)

    def _draw(self, count: int) -> NDArray[np.float64]:
        if count not in self._drawn:
            self._drawn[count] = self._rng.multinomial(count, np.full(count, 1 / count), size=DRAWN).astype(float)
        return self._drawn[count]


@cache
def _all_resamples(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each resample has each value, `[R, count]`, and in how many orders it can be drawn, `[R]`."""
    picks = list(combinations_with_replacement(range(count), count))
    often = np.array([np.bincount(pick, minlength=count) for pick in picks])
    orders = [factorial(count) // prod(map(factorial, row)) for row in often.tolist()]
    return often.astype(float), np.array(orders, float)
