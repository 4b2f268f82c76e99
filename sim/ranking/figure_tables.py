"""The numbers of a comparison as tables: times, hit rates, and what each part of the subject contributes."""

from collections.abc import Iterable, Sequence

from common.tables import MISSING
from sim.ranking.comparison_table import Metric, Setting
from sim.ranking.order_tables import OrderTables, Rows, gigabytes, lead_text

NOT_CHARGED = "†"  # marks a system whose predictions take no time


class FigureTables:
    """Tables of numbers; a cell has one per cache, from the smallest to the largest."""

    def __init__(self, orders: OrderTables) -> None:
        self._orders, self._compared, self._table = orders, orders.compared, orders.table
        self._rows = {(row["trace"], row["cache_gb"], row["machine"], row["system"]): row for row in self._table.rows}
        self.traces = self._table.traces
        self.not_charged = {row["system"] for row in self._table.rows if row["prediction_charged"] == 0}

    @property
    def caches(self) -> str:
        """The cache sizes, in the order of a cell's numbers."""
        return " / ".join(map(gigabytes, self._compared.cache_gb))

    def time_rows(self, trace: str, metric: Metric) -> Rows:
        """A metric of systems and anchors on each machine, in ms."""
        rows = []
        for role in ("system", "reference"):
            for each in self._compared.of_role(role):
                cells = [self._times(trace, machine, each.name, metric) for machine in self._orders.machines]
                rows.append([f"{each.name} {NOT_CHARGED}" if each.name in self.not_charged else each.name, *cells])
        return Rows([f"{metric.upper()}, ms", *self._orders.machines], rows)

    def hit_rows(self) -> Rows:
        """Hit rate, and hit + late, on the base machine."""
        rows = []
        for each in self._compared.of_role("system"):
            for column, name in (("hit_rate", "hit"), ("hit_or_late_rate", "hit + late")):
                cells = [self._rates(trace, each.name, column) for trace in self.traces]
                rows.append([each.name if column == "hit_rate" else "", name, *cells])
        return Rows([f"on {self._compared.base}, %", "", *self.traces], rows)

    def ablation_rows(self, metric: Metric) -> Rows:
        """How much a metric grows or shrinks when a part of the subject is replaced."""
        rows = []
        for trace in self.traces:
            for each in self._compared.of_role("ablation"):
                cells = [self._changes(trace, machine, each.name, metric) for machine in self._orders.machines]
                if set(cells) != {MISSING}:
                    rows.append([trace, each.name, *cells])
        return Rows(["trace", f"{self._compared.subject}, but", *self._orders.machines], rows)

    def cache_rows(self) -> Rows:
        """The share of the experts that each cache holds."""
        rows = []
        for trace in self.traces:
            total = self._table.inputs["traces"][trace]["experts"]
            slots = [self._value(trace, gb, None, "cache_experts") for gb in self._gb]
            shares = [f"{count:.0f} ({count / total * 100:.0f} %)" if count is not None else MISSING for count in slots]
            rows.append([trace, str(total or MISSING), *shares])
        return Rows(["trace", "experts", *(f"{gigabytes(gb)} GB" for gb in self._gb)], rows)

    @property
    def _gb(self) -> Sequence[float]:
        return self._compared.cache_gb

    def _value(self, trace: str, gb: float, system: str | None, column: str) -> float | None:
        """A number from a run on the base machine; without a system, from any system that has this number."""
        for each in self._compared.systems:
            row = self._rows.get((trace, gb, self._compared.base, each.name))
            if row and row[column] is not None and system in (None, each.name):
                return float(row[column])
        return None

    def _rates(self, trace: str, system: str, column: str) -> str:
        values = [self._value(trace, gb, system, column) for gb in self._gb]
        return _cell(MISSING if value is None else f"{value * 100:.0f}" for value in values)

    def _times(self, trace: str, machine: str, system: str, metric: Metric) -> str:
        values = [self._rows[trace, gb, machine, system][f"{metric}_s_mean"] for gb in self._gb]
        return _cell(map(milliseconds_text, values))

    def _changes(self, trace: str, machine: str, ablation: str, metric: Metric) -> str:
        settings = [Setting(trace, gb, machine, metric) for gb in self._gb]
        leads = [self._orders.orders.lead(setting, ablation, self._compared.subject) for setting in settings]
        return _cell(map(lead_text, leads))


def _cell(texts: Iterable[str]) -> str:
    """One text for all caches; a single dash if none has a number."""
    found = list(texts)
    return " / ".join(found) if set(found) != {MISSING} else MISSING


def milliseconds_text(seconds: float | None) -> str:
    """Seconds in ms with three significant digits, at least whole ms; a dash for None."""
    if seconds is None:
        return MISSING
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
