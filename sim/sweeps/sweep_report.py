"""The text report of a sweep, 100 columns wide: heading, tables, notes, and runs that did not finish."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from common.folding import WIDTH, folded
from common.tables import MISSING, number, quantity, text_table
from common.wide_tables import wide_table
from sim.labels import DOES_NOT_PAY, footnotes, marked
from sim.results.working_set import cache_too_small
from sim.sweeps.bootstrap import DRAWN, EXACT_UP_TO, Estimate
from sim.sweeps.short_names import SettingNames, legend, short_names
from sim.sweeps.sweep_columns import Setting, plain, plain_rows, setting_axes, value_text
from sim.sweeps.sweep_statistics import BEST_KNOWN, HIT_OR_LATE_RATE, HIT_RATE, Inversion, Standing, SweepStatistics
from sim.sweeps.sweep_subject import heading

NAME, VALUE, SETTING, TIES = 24, 17, 26, 30  # characters of a policy, an axis' value, a setting, a list
BEST, TIE = "●", "○"
OUTSIDE, FEWER = "‡", "#"
PAIRS_SHOWN = 12
TOO_SMALL = (
    "least_copied_bytes_per_iteration",
    "least_link_s_per_iteration",
    "working_set_bytes_token",
    "batch_size",
)


def report(frame: pd.DataFrame, axes: Sequence[str], experiment: Mapping[str, Any]) -> str:
    """The report, in lines of at most 100 characters; it covers every run."""
    lines = [folded(line, WIDTH, "  ") for line in heading(frame, axes, experiment)]
    parts = ["\n".join(lines)]
    if (frame["status"] == "done").any():
        parts += _Report(frame, axes).parts()
    parts += not_done(frame, axes)
    return "\n\n".join(part for part in parts if part)


class _Report:
    """The parts of a report on the runs that are done."""

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str]) -> None:
        self.statistics = SweepStatistics(frame, axes, np.random.default_rng(0))
        done = frame[frame["status"] == "done"]
        small = done.reindex(columns=[*TOO_SMALL]).drop_duplicates()
        self.too_small = [*dict.fromkeys(filter(None, map(cache_too_small, plain_rows(small))))]
        facts = done.reindex(columns=["policy", "fits", "prediction_charged", "note"]).drop_duplicates()
        self.facts = plain_rows(facts)
        self.digits = _digits(self.statistics)
        self.policies = short_names(self.statistics.policies, NAME)
        self.settings = SettingNames(setting_axes(axes), self.statistics.settings, VALUE)
        self.standings = {setting: self.statistics.standing(setting) for setting in self.statistics.settings}
        self.outside = self.statistics.prophets | self.statistics.preloaded
        self.seeds = {
            setting: max(self.statistics.seeds(setting, policy) for policy in self.statistics.policies)
            for setting in self.statistics.settings
        }

    def parts(self) -> Iterator[str]:
        """The parts in order; some may be empty."""
        names = [*legend(self.policies), *legend(self.settings.shortened)]
        yield "\n".join(folded(line, WIDTH, "    ") for line in names)
        yield self.tpot()
        yield self.notes()
        for name, metric in (("Hit rate", HIT_RATE), ("Hit + late (there or on its way)", HIT_OR_LATE_RATE)):
            yield self.matrix(f"{name}, mean %", partial(self.statistics.figure, metric=metric), 100, 1)
        yield self.best()
        yield self.inversions()
        yield self.distance()
        yield self.regret()

    def tpot(self) -> str:
        """The table of time per output token, with the best of each setting marked and a note on intervals."""
        table = self.matrix("TPOT, mean ms", self.statistics.figure, 1e3, self.digits, marks=True)
        count = max(self.seeds.values())
        legend = f"{BEST} lowest mean of its setting; {TIE} a tie with it. "
        if count > 1:
            how = "all resamples" if count <= EXACT_UP_TO else f"{DRAWN} resamples"
            legend += (
                f"In brackets: 95% bootstrap interval over {count} seeds ({how}). A tie's difference to the best, "
                "paired by seed, has an interval that includes 0."
            )
            if rate := _false_alarms(count):
                legend += f" With {count} seeds two equal policies look different in {rate:.0%} of cases, not in 5%."
        else:
            legend += "With one seed there are no intervals, and only equal values tie."
        return f"{table}\n{folded(legend, WIDTH)}"

    def matrix(
        self,
        name: str,
        figure: Callable[[Setting, str], Estimate | None],
        factor: float,
        digits: int,
        *,
        marks: bool = False,
    ) -> str:
        """A row per policy and a column per setting, in blocks as wide as the report."""
        ordered = sorted(self.statistics.policies, key=lambda policy: policy in self.outside)
        columns: list[list[str]] = []
        between = "\n" if max(self.seeds.values()) > 1 else " "
        for setting in self.statistics.settings:
            cells = [
                _cell(figure(setting, policy), factor, digits, self._mark(setting, policy) if marks else "", between)
                for policy in ordered
            ]
            if any(cell != MISSING for cell in cells):
                columns.append(["\n".join(self.settings.values(setting)), *cells])
        if not columns:
            return ""
        first = ["\n".join(self.settings.axes), *(self._marked(policy) for policy in ordered)]
        if not self.settings.axes:
            columns[0][0] = "all runs"
        return f"{name}\n" + "\n\n".join(wide_table(first, columns, WIDTH))

    def best(self) -> str:
        """A row per setting."""
        rows: list[tuple[Setting | None, list[str]]] = []
        for setting, standing in self.standings.items():
            if standing:
                ties = ", ".join(self.policies[policy] for policy in standing.ties) or MISSING
                tpot = number(standing.figure.mean, f".{self.digits}f", 1e3)
                rows.append((setting, [self.policies[standing.best], folded(ties, TIES), tpot]))
        if not rows:
            return "No candidate for the best policy has a finished run."
        lines = ["Best policy of each setting", self._by_setting(rows, ["best", "ties with it", "TPOT ms"], texts=2)]
        if len(rows) > 1:
            found = [policy for each in self.standings.values() if each for policy in (each.best, *each.ties)]
            counts = sorted(Counter(found).items(), key=lambda pair: -pair[1])
            text = ", ".join(f"{self.policies[policy]} in {count}" for policy, count in counts)
            lines.append(folded(f"Best or a tie, of {len(rows)} settings: {text}", WIDTH))
        return "\n".join(lines)

    def inversions(self) -> str:
        """A line per pair of policies, those that are inverted in most settings first."""
        pairs: dict[tuple[str, str], list[Inversion]] = {}
        for found in self.statistics.inversions():
            pairs.setdefault((found.hits_more, found.faster), []).append(found)
        if not pairs:
            return "Inversions (better hit rate, worse TPOT): none."
        ordered = sorted(pairs.items(), key=lambda pair: (-len(pair[1]), -max(each.tpot_s.mean for each in pair[1])))
        rows = []
        for (more, faster), inversions in ordered[:PAIRS_SHOWN]:
            widest = max(inversions, key=lambda each: each.tpot_s.mean)
            rows.append(
                [
                    f"{self.policies[more]}\n  than {self.policies[faster]}",
                    folded(self.settings.text(widest.setting), SETTING),
                    f"{len(inversions)} of {self._settings_with(more, faster)}",
                    number(widest.hit_rate.mean, "+.1f", 100),
                    number(widest.tpot_s.mean, f"+.{self.digits}f", 1e3),
                ]
            )
        headers = ["hits more, yet is slower", "largest at", "settings", "hit rate\npoints", "TPOT\nms"]
        lines = ["Inversions: better hit rate, worse TPOT", text_table(rows, headers, texts=2)]
        if len(ordered) > PAIRS_SHOWN:
            lines.append(f"and {len(ordered) - PAIRS_SHOWN} more pairs")
        return "\n".join(lines)

    def _settings_with(self, *policies: str) -> int:
        """The number of settings in which all of these policies have finished runs."""
        seeds = self.statistics.seeds
        return sum(all(seeds(setting, policy) for policy in policies) for setting in self.statistics.settings)

    def distance(self) -> str:
        """TPOT over that of the best known, with the best known's name; empty if it was not requested."""
        table = self.matrix(
            "TPOT over best known, mean ×",
            lambda setting, policy: self.statistics.over(setting, policy, BEST_KNOWN),
            1,
            2,
        )
        counts = Counter(self.statistics.best_known.values()).most_common()
        names = ", ".join(name if len(counts) == 1 else f"{name} in {count}" for name, count in counts)
        legend = (
            f"Best known, of clairvoyant and perfect prefetch with Belady's evictor: {names}. They know all demands "
            "but are strong heuristics, not bounds: a ratio below 1 is possible."
        )
        return f"{table}\n{folded(legend, WIDTH)}" if table else ""

    def regret(self) -> str:
        """The time that knowing the future would save: a row per setting and candidate for the best policy."""
        rows: list[tuple[Setting | None, list[str]]] = []
        for setting in self.statistics.settings:
            shown: Setting | None = setting
            for policy in self.statistics.candidates:
                found = self.statistics.regret(setting, policy)
                if not found.prediction_s and not found.eviction_s:
                    continue
                parts = [_saved(each, found.both_s, self.digits) for each in (found.prediction_s, found.eviction_s)]
                both = number(found.both_s.mean if found.both_s else None, f".{self.digits}f", 1e3)
                rows.append((shown, [self.policies[policy], *parts, both]))
                shown = None  # shown once
        if not rows:
            return ""
        headers = ["policy", "prediction\nms (share)", "eviction\nms (share)", "both\nms"]
        legend = (
            "Time saved per output token by perfect prediction (with the policy's own evictor), by Belady's evictor "
            "(with the policy's own prefetching), and by the best known, which has both. Shares are of the last. The "
            "parts need not add up, because the two interact. Perfect prediction also avoids the policy's blocking, "
            "chunks and search time."
        )
        return f"Regret\n{self._by_setting(rows, headers, texts=1)}\n{folded(legend, WIDTH)}"

    def notes(self) -> str:
        """The meaning of marks, and warnings about runs."""
        lines = list(self.too_small)
        lines += footnotes((self.policies[str(run["policy"])], run) for run in self.facts)
        named = self.policies
        if without := list(self._does_not_pay()):
            lines.append(f"{DOES_NOT_PAY.mark} {', '.join(without)}: {DOES_NOT_PAY.text}; {DOES_NOT_PAY.note}")
        if prophets := [named[each] for each in self.statistics.policies if each in self.statistics.prophets]:
            lines.append(f"{OUTSIDE} {', '.join(prophets)}: knows future demands; excluded from the best")
        if preloaded := [named[each] for each in self.statistics.policies if each in self.statistics.preloaded]:
            lines.append(f"{OUTSIDE} {', '.join(preloaded)}: keeps every expert on its GPU; excluded from the best")
        if fewer := [named[policy] for policy in self.statistics.policies if self._fewer(policy)]:
            lines.append(f"{FEWER} {', '.join(fewer)}: has fewer seeds than other policies in some settings")
        policies_by_note: dict[str, dict[str, None]] = {}
        for run in self.facts:
            if run["note"]:
                policies_by_note.setdefault(str(run["note"]), {})[named[str(run["policy"])]] = None
        lines += [f"{', '.join(policies)}: {note}" for note, policies in policies_by_note.items()]
        return "\n".join(folded(line, WIDTH, "  ") for line in lines)

    def _by_setting(self, rows: Sequence[tuple[Setting | None, list[str]]], headers: list[str], *, texts: int) -> str:
        """A table that begins with the setting, a column per axis if they fit; None repeats the one above."""
        axes = list(self.settings.axes)
        if axes:
            split = [
                [*(self.settings.values(setting) if setting is not None else [""] * len(axes)), *cells]
                for setting, cells in rows
            ]
            wide = text_table(split, [*axes, *headers], texts=len(axes) + texts)
            if max(map(len, wide.splitlines())) <= WIDTH:
                return wide
        joint = [
            ["" if setting is None else folded(self.settings.text(setting), SETTING), *cells] for setting, cells in rows
        ]
        return text_table(joint, ["setting", *headers], texts=1 + texts)

    def _mark(self, setting: Setting, policy: str) -> str:
        standing: Standing | None = self.standings[setting]
        marks = [] if self.statistics.prefetching_pays(setting, policy) else [DOES_NOT_PAY.mark]
        if standing and policy in (standing.best, *standing.ties):
            marks.insert(0, BEST if policy == standing.best else TIE)
        return "".join(f"{mark} " for mark in marks)

    def _does_not_pay(self) -> Iterator[str]:
        """For each policy, the number of settings in which prefetching does not pay."""
        for policy in self.statistics.policies:
            settings = [each for each in self.statistics.settings if self.statistics.seeds(each, policy)]
            count = sum(not self.statistics.prefetching_pays(each, policy) for each in settings)
            if count:
                yield f"{self.policies[policy]} in {count} of {len(settings)} settings"

    def _marked(self, policy: str) -> str:
        name = marked(self.policies[policy], *(run for run in self.facts if run["policy"] == policy))
        own = [OUTSIDE] * (policy in self.outside) + [FEWER] * self._fewer(policy)
        return " ".join([name, *own])

    def _fewer(self, policy: str) -> bool:
        return any(0 < self.statistics.seeds(setting, policy) < most for setting, most in self.seeds.items())


def _digits(statistics: SweepStatistics) -> int:
    """The decimals of milliseconds that give the shortest TPOT four digits."""
    found = [statistics.figure(setting, policy) for setting, policy in _product(statistics)]
    smallest = min((each.mean * 1e3 for each in found if each and each.mean > 0), default=1.0)
    return int(np.clip(3 - np.floor(np.log10(smallest)), 0, 6))


def _product(statistics: SweepStatistics) -> Iterator[tuple[Setting, str]]:
    return ((setting, policy) for setting in statistics.settings for policy in statistics.policies)


def _cell(found: Estimate | None, factor: float, digits: int, mark: str, between: str) -> str:
    """The mean, and the interval if there are several seeds."""
    if found is None:
        return MISSING
    form = f".{digits}f"
    mean = f"{mark}{number(found.mean, form, factor)}"
    if found.low is None:
        return mean
    return f"{mean}{between}[{number(found.low, form, factor)}, {number(found.high, form, factor)}]"


def _false_alarms(seeds: int) -> float | None:
    """How often the interval excludes 0 although there is no difference; None if so many seeds make it about 5%.

    Measured with 2000 draws of normal differences each (1/2 and 1/4 follow from the signs alone).
    """
    measured = {2: 0.50, 3: 0.25, 4: 0.19, 5: 0.17, 6: 0.16, 7: 0.13, 8: 0.11, 9: 0.11}
    return measured.get(seeds)


def _saved(part: Estimate | None, whole: Estimate | None, digits: int) -> str:
    share = part.mean / whole.mean if part and whole and whole.mean > 0 else None
    return f"{number(part.mean if part else None, f'.{digits}f', 1e3)} ({number(share, '.0%')})"


def not_done(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """The refused and failed runs, by reason, most frequent first."""
    for status, text in ("refused", "Refused before they ran"), ("failed", "Failed while they ran"):
        rows = frame[frame["status"] == status]
        if rows.empty:
            continue
        groups = sorted(rows.groupby("reason", sort=False, dropna=False), key=lambda group: -len(group[1]))
        lines = [f"{text}: {len(rows)} of {len(frame)} runs"]
        for reason, group in groups:
            lines.append(
                folded(f"  {quantity(len(group), 'run')}: {plain(reason) or 'no reason was recorded'}", WIDTH, "      ")
            )
            lines.append(folded(f"      {_where(group, frame, axes)}", WIDTH, "      "))
        yield "\n".join(lines)


def _where(group: pd.DataFrame, frame: pd.DataFrame, axes: Sequence[str]) -> str:
    """The values of each axis in a group of runs, and of policy and seed."""
    parts = []
    for axis in dict.fromkeys([*axes, "policy", "seed"]):
        values, known = (list(dict.fromkeys(map(plain, rows[axis]))) for rows in (group, frame))
        every = len(values) == len(known) > 1
        parts.append(f"every {axis}" if every else f"{axis} {', '.join(map(value_text, values))}")
    return "; ".join(parts)
