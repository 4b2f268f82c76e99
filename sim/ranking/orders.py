"""Orders of systems, and pairs that swap places from one machine to another.

**Ties.** Two systems of one setting tie if their means differ by less than `TIE` of the smaller one, or if the 95 %
bootstrap interval of their difference, paired by request and resampled over requests, includes 0. With one request
there is no interval, so only the first rule applies.

**Flips.** A pair flips between two machines, for one trace and one cache, if one system is faster on the first machine,
the other is faster on the second, and neither is a tie.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from sim.ranking.comparison_table import METRICS, ComparisonTable, Metric, Setting, Times
from sim.sweeps.bootstrap import Bootstrap

TIE = 0.01  # of the smaller mean


@dataclass(frozen=True, slots=True)
class Lead:
    """The time of one system relative to another in one setting."""

    share: float
    """How much longer it takes, as a share of the other's time; negative if it is faster."""
    sign: int
    """−1 if it is faster, 1 if it is slower, 0 for a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A pair of systems that swaps places between the base and another machine."""

    setting: Setting
    """The setting on the other machine."""
    faster_on_base: str
    faster_there: str
    base: float
    """The lead of `faster_on_base` over `faster_there` on the base, as a share of the latter's time; negative."""
    there: float
    """The same on the other machine; positive."""


class Orders:
    """The orders in a table of runs."""

    def __init__(self, table: ComparisonTable, systems: Sequence[str]) -> None:
        self._table, self._systems = table, systems
        self._bootstrap = Bootstrap(np.random.default_rng(0))
        self._times = {setting: each for metric in METRICS for setting, each in table.times(metric).items()}
        self._leads: dict[tuple[Setting, str, str], Lead | None] = {}

    def times(self, setting: Setting) -> Mapping[str, Times]:
        """The values of the setting's metric, by system."""
        return self._times.get(setting, {})

    def lead(self, setting: Setting, one: str, other: str) -> Lead | None:
        """The lead of one system over another in a setting; None if either is missing."""
        key = (setting, one, other)
        if key not in self._leads:
            times = self.times(setting)
            both = one in times and other in times
            self._leads[key] = self._compared(times[one], times[other]) if both else None
        return self._leads[key]

    def order(self, setting: Setting) -> list[tuple[str, bool]]:
        """The systems of a setting, fastest first, and whether each ties with the one before it."""
        times = self.times(setting)
        there = sorted((name for name in self._systems if name in times), key=lambda name: times[name].mean)
        ties = [self._compared(times[one], times[other]).sign == 0 for one, other in pairwise(there)]
        return list(zip(there, [False, *ties], strict=True)) if there else []

    def flips(self, metric: Metric, base: str, machines: Sequence[str]) -> Iterator[Flip]:
        """Every flip between the base and the other machines, ordered by trace, cache, machine and systems."""
        for trace, gb in self._table.places(metric):
            for machine in machines:
                on_base, elsewhere = (Setting(trace, gb, each, metric) for each in (base, machine))
                for one, other in combinations(self._systems, 2):
                    before, there = self.lead(on_base, one, other), self.lead(elsewhere, one, other)
                    if before is None or there is None or before.sign * there.sign >= 0:
                        continue
                    if before.sign > 0:
                        one, other = other, one
                        before, there = self.lead(on_base, one, other), self.lead(elsewhere, one, other)
                        assert before
                        assert there
                    yield Flip(
                        setting=elsewhere, faster_on_base=one, faster_there=other, base=before.share, there=there.share
                    )

    def _compared(self, one: Times, other: Times) -> Lead:
        share = one.mean / other.mean - 1
        if abs(one.mean - other.mean) < TIE * min(one.mean, other.mean):
            return Lead(share, 0)
        differences = np.subtract(one.requests, other.requests)
        return Lead(share, self._sign(differences[~np.isnan(differences)]))

    def _sign(self, differences: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> int:
        """The sign of the mean difference if its interval does not include 0, else 0."""
        if (differences > 0).all() or (differences < 0).all():  # then every resample has this sign, too
            return int(np.sign(differences.sum()))
        estimate = self._bootstrap.estimate(differences.tolist())
        return estimate.sign if estimate else 0
