"""The tables of orders in a comparison: orders, first places, leads and flips, as texts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, groupby
from typing import NamedTuple

import numpy as np

from common.tables import MISSING
from sim.ranking.compared import Compared
from sim.ranking.comparison_table import METRICS, ComparisonTable, Metric, Setting
from sim.ranking.orders import Flip, Lead, Orders

NAMES: dict[Metric, str] = {"tpot": "TPOT", "ttft": "TTFT"}
TIES = "="


class Rows(NamedTuple):
    """A table as texts."""

    headers: list[str]
    rows: list[list[str]]


class OrderTables:
    """The orders in a table of runs, and the tables made from them."""

    def __init__(self, table: ComparisonTable, compared: Compared) -> None:
        self.table, self.compared = table, compared
        self.systems = [each.name for each in compared.of_role("system")]
        self.machines = [each.name for each in compared.machines]
        self.others = [name for name in self.machines if name != compared.base]
        self.metrics = [metric for metric in METRICS if table.places(metric)]
        self.orders = Orders(table, self.systems)
        self.flips: dict[Metric, list[Flip]] = {
            metric: list(self.orders.flips(metric, compared.base, self.others)) for metric in METRICS
        }
        self._letters = {each.name: each.letter for each in compared.of_role("system")}
        self._flipped = Counter(flip.setting for found in self.flips.values() for flip in found)

    def order_text(self, setting: Setting) -> str:
        """The letters of a setting's systems, fastest first; neighbours in brackets tie."""
        groups: list[str] = []
        for name, tie in self.orders.order(setting):
            if tie:
                groups[-1] += self._letters[name]
            else:
                groups.append(self._letters[name])
        return "".join(group if len(group) == 1 else f"({group})" for group in groups) or MISSING

    def order_rows(self, metrics: Sequence[Metric], form: str = "{}") -> Rows:
        """An order per trace and machine (rows), metric and cache (columns), followed by its number of flips."""
        columns = [(metric, gb) for metric in metrics for gb in self.compared.cache_gb]
        rows = []
        for trace in self.table.traces:
            for machine in self.machines:
                settings = [Setting(trace, gb, machine, metric) for metric, gb in columns]
                rows.append([trace, machine, *(self._order_cell(each, form) for each in settings)])
        return Rows(["trace", "machine", *(f"{NAMES[metric]}, {gigabytes(gb)} GB" for metric, gb in columns)], rows)

    def first_rows(self, metric: Metric) -> Rows:
        """In how many traces and caches each system without knowledge of the future is the fastest or ties with it."""
        candidates = [each.name for each in self.compared.of_role("system") if not each.knows_the_future]
        counts = {machine: Counter[str]() for machine in self.machines}
        for machine in self.machines:
            for trace, gb in self.table.places(metric):
                setting = Setting(trace, gb, machine, metric)
                there = [name for name, _ in self.orders.order(setting) if name in candidates]
                leads = {name: self.orders.lead(setting, name, there[0]) for name in there}
                counts[machine].update(name for name, lead in leads.items() if lead and lead.sign == 0)
        rows = [[name, *(str(counts[machine][name]) for machine in self.machines)] for name in candidates]
        return Rows(["fastest, or a tie with it", *self.machines], rows)

    def subject_rows(self, metric: Metric) -> Rows:
        """The subject against each system: settings in which it is faster, ties or is slower; the median difference."""
        subject, rows = self.compared.subject, []
        for other in self.systems:
            cells = [_standing(self.leads(metric, machine, subject, other)) for machine in self.machines]
            if other != subject and set(cells) != {MISSING}:
                rows.append([other, *cells])
        return Rows([f"{subject} against", *self.machines], rows)

    def changed(self, metric: Metric) -> list[tuple[str, int]]:
        """On each other machine, the traces and caches in which at least one pair flips."""
        settings = {flip.setting for flip in self.flips[metric]}
        return [(name, sum(setting.machine == name for setting in settings)) for name in self.others]

    def flip_rows(self, metric: Metric) -> Rows:
        """The pairs that flip anywhere, most frequent first, with the largest flip of each."""
        pairs: dict[frozenset[str], list[Flip]] = {}
        for flip in self.flips[metric]:
            pairs.setdefault(frozenset((flip.faster_on_base, flip.faster_there)), []).append(flip)
        rows = []
        for pair, flips in sorted(pairs.items(), key=lambda each: -len(each[1])):
            names = [name for name in self.systems if name in pair]
            there = Counter(flip.setting.machine for flip in flips)
            largest = max(flips, key=lambda flip: flip.there - flip.base)
            counts = [str(there[machine] or MISSING) for machine in self.others]
            rows.append([" / ".join(names), *counts, _where(largest), _by_how_much(largest)])
        return Rows(["pair", *self.others, "largest flip", f"{self.compared.base} → there"], rows)

    def subject_flip_rows(self, metric: Metric) -> Rows:
        """Flips between the subject and another system: its lead on each machine, bold where the pair flips."""
        subject = self.compared.subject
        flipped: dict[tuple[str, str, float], set[str]] = {}
        for flip in self.flips[metric]:
            pair = {flip.faster_on_base, flip.faster_there}
            if subject in pair:
                (other,) = pair - {subject}
                key = (other, flip.setting.trace, flip.setting.cache_gb)
                flipped.setdefault(key, set()).add(flip.setting.machine)
        rows = []
        for (other, trace, gb), machines in sorted(flipped.items(), key=lambda each: self.systems.index(each[0][0])):
            cells = []
            for machine in self.machines:
                text = lead_text(self.orders.lead(Setting(trace, gb, machine, metric), subject, other))
                cells.append(f"**{text}**" if machine in machines else text)
            rows.append([other, f"{trace}, {gigabytes(gb)} GB", *cells])
        return Rows([f"{subject}, % of", "in", *self.machines], rows)

    def constant(self, metric: Metric) -> Iterator[tuple[str, list[tuple[str, int]]]]:
        """Each system with those that it beats in every setting that shows both, and the number of settings."""
        for one in self.systems:
            beaten = []
            for other in self.systems:
                leads = [lead for machine in self.machines for lead in self.leads(metric, machine, one, other)]
                if one != other and leads and all(lead.sign < 0 for lead in leads):
                    beaten.append((other, len(leads)))
            if beaten:
                yield one, beaten

    def pairs(self, metric: Metric) -> int:
        """How many pairs of systems are compared in at least one setting."""
        return sum(
            any(self.leads(metric, machine, one, other) for machine in self.machines)
            for one, other in combinations(self.systems, 2)
        )

    def leads(self, metric: Metric, machine: str, one: str, other: str) -> list[Lead]:
        """The leads of one system over another on a machine, for each trace and cache that shows both."""
        settings = (Setting(trace, gb, machine, metric) for trace, gb in self.table.places(metric))
        return [lead for setting in settings if (lead := self.orders.lead(setting, one, other))]

    def _order_cell(self, setting: Setting, form: str) -> str:
        text = self.order_text(setting)
        if text == MISSING:
            return text
        return form.format(text) + (f" ⇅{self._flipped[setting]}" if self._flipped[setting] else "")


def with_groups(rows: Sequence[list[str]]) -> list[list[str]]:
    """The same rows; the first cell is empty where it repeats the row before."""
    return [
        [name if place == 0 else "", *rest]
        for _, group in groupby(rows, key=lambda row: row[0])
        for place, (name, *rest) in enumerate(group)
    ]


def gigabytes(value: float) -> str:
    """The number without trailing zeros."""
    return f"{value:g}"


def percent(share: float) -> str:
    """A difference in whole percent, with its sign."""
    return f"{share * 100:+.0f}".replace("-", "−") if abs(share) >= 0.005 else "0"


def lead_text(lead: Lead | None) -> str:
    """A lead in whole percent; `=` for a tie."""
    return MISSING if lead is None else TIES if lead.sign == 0 else percent(lead.share)


def _standing(leads: Sequence[Lead]) -> str:
    if not leads:
        return MISSING
    signs = Counter(lead.sign for lead in leads)
    median = float(np.median([lead.share for lead in leads]))
    return f"{signs[-1]} / {signs[0]} / {signs[1]}, {percent(median)} %"


def _where(flip: Flip) -> str:
    return f"{flip.setting.trace}, {gigabytes(flip.setting.cache_gb)} GB, {flip.setting.machine}"


def _by_how_much(flip: Flip) -> str:
    return f"{flip.faster_on_base} {percent(flip.base)} → {percent(flip.there)} %"
