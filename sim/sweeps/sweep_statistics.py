"""What a sweep says of its policies: means over seeds, the best of each setting and its ties, inversions, regret.

A setting is the values of all axes but the policy, its settings and the seed. Policies of one setting are compared seed
by seed: requests and their order depend on it, so differences vary less than the figures themselves.
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
    """The best policy of a setting, and those that cannot be told from it."""

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
    """By how much more often, a share of 1."""
    tpot_s: Estimate
    """How much longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """Seconds per token that knowing the future would save a policy; the parts need not add up to the whole."""

    prediction_s: Estimate | None
    """With perfect prediction and the policy's own evictor."""
    eviction_s: Estimate | None
    """With the policy's own prefetching and Belady's evictor."""
    both_s: Estimate | None
    """With the best known policy that knows all future demands."""


class SweepStatistics:
    """The figures of the runs that are done, by setting and policy."""

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
        """By setting and seed, the name of the run that `best_known_tpot_s_mean` is of."""
        self.settings = list(dict.fromkeys(keys))
        """In the order of the matrix, those without a finished run too."""
        self.policies = list(dict.fromkeys(frame["policy"][done]))
        """Those with a finished run, in the order of the matrix."""
        preloaded = frame["preloaded"].fillna(False).astype(bool) if "preloaded" in frame else done & False
        self.preloaded = set(frame["policy"][preloaded])
        """Those that keep every expert on its GPU."""
        self.prophets = {policy for policy in self.policies if knows_the_future(policy)}
        """Those that are told what will be demanded."""

    @property
    def candidates(self) -> list[str]:
        """The policies that may be called best."""
        return [policy for policy in self.policies if policy not in self.preloaded | self.prophets]

    def figure(self, setting: Setting, policy: str, metric: str = TPOT) -> Estimate | None:
        """The mean of a metric over the seeds of a setting; None where there is none."""
        return self._estimate(list(self._values(setting, policy, metric).values()))

    def difference(self, setting: Setting, one: str, other: str, metric: str = TPOT) -> Estimate | None:
        """The mean of one policy's metric less another's, over the seeds that both have."""
        return self._estimate(self._differences(setting, one, other, metric))

    def standing(self, setting: Setting, metric: str = TPOT) -> Standing | None:
        """The candidate with the best mean, the first of equals, and its ties; None if no candidate has a figure.

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
        """Pairs of policies of which one hits more often and yet takes longer, in every setting.

        With several seeds, both differences must have intervals without 0. Those that keep every expert are left out.
        """
        policies = [policy for policy in self.policies if policy not in self.preloaded]
        for setting in self.settings:
            for more in policies:
                for less in policies:
                    if more == less:
                        continue
                    differences = [self._differences(setting, more, less, metric) for metric in (HIT_RATE, TPOT)]
                    if any(sum(each) <= 0 for each in differences):
                        continue  # as most are; intervals take time
                    hits, tpot = map(self._estimate, differences)
                    if hits and tpot and hits.sign > 0 and tpot.sign > 0:
                        yield Inversion(setting=setting, hits_more=more, faster=less, hit_rate=hits, tpot_s=tpot)

    def over(self, setting: Setting, policy: str, reference: str, metric: str = TPOT) -> Estimate | None:
        """The mean of metric over reference column, seed by seed."""
        own, theirs = self._values(setting, policy, metric), self._values(setting, policy, reference)
        return self._estimate([own[seed] / theirs[seed] for seed in own if theirs.get(seed)])

    def prefetching_pays(self, setting: Setting, policy: str) -> bool:
        """Whether a token takes no longer than with the policy's own cache without prefetch, or that is not known."""
        over = self._saved(setting, policy, OWN_CACHE)
        return over is None or over.mean <= 0

    def regret(self, setting: Setting, policy: str) -> Regret:
        """What perfect prediction, perfect eviction and both would save; None for what was not asked for."""
        return Regret(
            prediction_s=self._saved(setting, policy, PERFECT_PREDICTION),
            eviction_s=self._saved(setting, policy, PERFECT_EVICTION),
            both_s=self._saved(setting, policy, BEST_KNOWN),
        )

    def seeds(self, setting: Setting, policy: str) -> int:
        """How many seeds of a setting are done."""
        return len(self._runs.get((setting, policy), ()))

    def _differences(self, setting: Setting, one: str, other: str, metric: str) -> list[float]:
        """By seed that both have, one policy's metric less the other's."""
        left, right = (self._values(setting, policy, metric) for policy in (one, other))
        return [left[seed] - right[seed] for seed in left if seed in right]

    def _saved(self, setting: Setting, policy: str, reference: str) -> Estimate | None:
        own, theirs = self._values(setting, policy, TPOT), self._values(setting, policy, reference)
        return self._estimate([own[seed] - theirs[seed] for seed in own if seed in theirs])

    def _values(self, setting: Setting, policy: str, metric: str) -> dict[int, float]:
        """By seed, what is there of a metric."""
        place = self._column.get(metric)
        if place is None:
            return {}
        runs = self._runs.get((setting, policy), {})
        return {seed: value for seed, row in runs.items() if not np.isnan(value := float(row[place]))}

    @staticmethod
    def _setting(row: tuple[object, ...]) -> Setting:
        return tuple(plain(value) for value in row)


def knows_the_future(policy: str) -> bool:
    """Whether a policy is told what will be demanded."""
    try:
        return "future" in make_policy(policy).requires
    except UserError:  # from outside, and not at hand where the sweep is read
        return False
