"""The statistics of a sweep: means over seeds, the best policy of each setting and its ties, inversions, regret.

A setting is a combination of values of all axes except the policy, its settings and the seed. Policies of one setting
are compared seed by seed, because requests and their order depend on the seed, so differences vary less than figures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import UserError
from policies.registry import make_policy
from sim.sweeps.bootstrap import Bootstrap, Estimate
from sim.sweeps.sweep_columns import Setting, metrics, plain, setting_axes

TPOT = "tpot_s_mean"
HIT_RATE = "hit_rate"
HIT_OR_LATE_RATE = "hit_or_late_rate"
LARGER_IS_BETTER = (
    *(f"{rate}{of}" for rate in (HIT_RATE, HIT_OR_LATE_RATE) for of in ("", "_prefill", "_decode")),
    "prefetch_useful",
)
BEST_KNOWN = "best_known_tpot_s_mean"
OWN_CACHE = "own_cache_tpot_s_mean"
PERFECT_PREDICTION = "perfect_prefetch_tpot_s_mean"
PERFECT_EVICTION = "belady_tpot_s_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The best policy of a setting, and those that tie with it."""

    best: str
    figure: Estimate
    ties: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """A policy that hits more often than another, yet takes longer per token."""

    setting: Setting
    hits_more: str
    faster: str
    hit_rate: Estimate
    """The difference of hit rates, between 0 and 1."""
    tpot_s: Estimate
    """The difference of times per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """Seconds per token that knowing the future would save a policy; the parts need not add up to the whole."""

    prediction_s: Estimate | None
    """Saved by perfect prediction with the policy's own evictor."""
    eviction_s: Estimate | None
    """Saved by Belady's evictor with the policy's own prefetching."""
    both_s: Estimate | None
    """Saved by the best known policy, which knows all future demands."""


class SweepStatistics:
    """The figures of finished runs, by setting and policy."""

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str], rng: np.random.Generator) -> None:
        self.setting_axes = setting_axes(axes)
        self._estimate = Bootstrap(rng).estimate
        keys = [self._setting(row) for row in frame[list(self.setting_axes)].itertuples(index=False, name=None)]
        done = frame["status"] == "done"
        names = metrics(frame, axes)
        values = frame[names].to_numpy(float, na_value=np.nan)
        self._column = {name: place for place, name in enumerate(names)}
        self._runs: dict[tuple[Setting, str], dict[int, np.ndarray]] = {}  # by seed, the figures [metrics]
        for key, policy, seed, is_done, row in zip(keys, frame["policy"], frame["seed"], done, values, strict=True):
            if is_done:
                self._runs.setdefault((key, policy), {}).setdefault(int(seed), row)
        best = frame.reindex(columns=["best_known"])["best_known"]
        places = zip(keys, map(int, frame["seed"]), strict=True)
        self.best_known = {place: str(name) for place, name in zip(places, best, strict=True) if plain(name)}
        """The name of the run behind `best_known_tpot_s_mean`, by setting and seed."""
        self.settings = list(dict.fromkeys(keys))
        """All settings, even without a finished run, in the order of the matrix."""
        self.policies = list(dict.fromkeys(frame["policy"][done]))
        """The policies with a finished run, in the order of the matrix."""
        preloaded = frame["preloaded"].fillna(False).astype(bool) if "preloaded" in frame else done & False
        self.preloaded = set(frame["policy"][preloaded])
        """The policies that keep every expert on its GPU."""
        self.prophets = {policy for policy in self.policies if knows_the_future(policy)}
        """The policies that know future demands."""

    @property
    def candidates(self) -> list[str]:
        """The policies that may be called best."""
        return [policy for policy in self.policies if policy not in self.preloaded | self.prophets]

    def figure(self, setting: Setting, policy: str, metric: str = TPOT) -> Estimate | None:
        """The mean of a metric over the seeds of a setting; None without a value."""
        return self._estimate(list(self._values(setting, policy, metric).values()))

    def difference(self, setting: Setting, one: str, other: str, metric: str = TPOT) -> Estimate | None:
        """The mean of one policy's metric minus another's, over the seeds that both have."""
        return self._estimate(self._differences(setting, one, other, metric))

    def standing(self, setting: Setting, metric: str = TPOT) -> Standing | None:
        """The candidate with the best mean (the first if equal) and its ties; None if no candidate has a value.

        A tie is a policy whose difference to the best has an interval that includes 0; with one seed, an equal one.
        """
        figures = {policy: found for policy in self.candidates if (found := self.figure(setting, policy, metric))}
        if not figures:
            return None
        sign = -1 if metric in LARGER_IS_BETTER else 1
        best = min(figures, key=lambda policy: sign * figures[policy].mean)
        apart = {policy: self.difference(setting, policy, best, metric) for policy in figures if policy != best}
        ties = tuple(policy for policy, found in apart.items() if found and found.sign == 0)
        return Standing(best=best, figure=figures[best], ties=ties)

    def inversions(self) -> Iterator[Inversion]:
        """Pairs of policies, in each setting, of which one hits more often and yet takes longer.

        With several seeds, the intervals of both differences must exclude 0. Policies that keep every expert are left
        out.
        """
        policies = [policy for policy in self.policies if policy not in self.preloaded]
        for setting in self.settings:
            for more in policies:
                for less in policies:
                    if more == less:
                        continue
                    differences = [self._differences(setting, more, less, metric) for metric in (HIT_RATE, TPOT)]
                    if any(sum(each) <= 0 for each in differences):
                        continue  # most pairs; computing intervals takes time
                    hits, tpot = map(self._estimate, differences)
                    if hits and tpot and hits.sign > 0 and tpot.sign > 0:
                        yield Inversion(setting=setting, hits_more=more, faster=less, hit_rate=hits, tpot_s=tpot)

    def over(self, setting: Setting, policy: str, reference: str, metric: str = TPOT) -> Estimate | None:
        """The mean of a metric divided by a reference column, seed by seed."""
        own, theirs = self._values(setting, policy, metric), self._values(setting, policy, reference)
        return self._estimate([own[seed] / theirs[seed] for seed in own if theirs.get(seed)])

    def prefetching_pays(self, setting: Setting, policy: str) -> bool:
        """Whether a token takes no longer than with the policy's own cache without prefetching; True if unknown."""
        over = self._saved(setting, policy, OWN_CACHE)
        return over is None or over.mean <= 0

    def regret(self, setting: Setting, policy: str) -> Regret:
        """The time that perfect prediction, perfect eviction and both would save; None if not requested."""
        return Regret(
            prediction_s=self._saved(setting, policy, PERFECT_PREDICTION),
            eviction_s=self._saved(setting, policy, PERFECT_EVICTION),
            both_s=self._saved(setting, policy, BEST_KNOWN),
        )

    def seeds(self, setting: Setting, policy: str) -> int:
        """The number of finished seeds of a setting."""
        return len(self._runs.get((setting, policy), ()))

    def _differences(self, setting: Setting, one: str, other: str, metric: str) -> list[float]:
        """One policy's metric minus the other's, for each seed that both have."""
        left, right = (self._values(setting, policy, metric) for policy in (one, other))
        return [left[seed] - right[seed] for seed in left if seed in right]

    def _saved(self, setting: Setting, policy: str, reference: str) -> Estimate | None:
        own, theirs = self._values(setting, policy, TPOT), self._values(setting, policy, reference)
        return self._estimate([own[seed] - theirs[seed] for seed in own if seed in theirs])

    def _values(self, setting: Setting, policy: str, metric: str) -> dict[int, float]:
        """The known values of a metric, by seed."""
        place = self._column.get(metric)
        if place is None:
            return {}
        runs = self._runs.get((setting, policy), {})
        return {seed: value for seed, row in runs.items() if not np.isnan(value := float(row[place]))}

    @staticmethod
    def _setting(row: tuple[object, ...]) -> Setting:
        return tuple(plain(value) for value in row)


def knows_the_future(policy: str) -> bool:
    """Whether a policy knows future demands."""
    try:
        return "future" in make_policy(policy).requires
    except UserError:  # an outside policy that cannot be imported here
        return False
