"""The table behind a comparison: a row per system, trace, cache and machine, and facts about the traces.

    runs.csv       a row per combination: the numbers of its run, or the reason why it has none
    inputs.json    descriptions and digests of traces and machines

The document is computed from these two files alone, so it can be written again without running anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from common.tables import MISSING
from sim.sweeps.run_table import RunTable

Metric = Literal["tpot", "ttft"]
METRICS: tuple[Metric, ...] = ("tpot", "ttft")

KEYS = ("trace", "cache_gb", "machine", "system")
FIGURES = (
    *("requests", "output_tokens", "cache_experts", "tpot_s_mean", "ttft_s_mean", "hit_rate", "hit_or_late_rate"),
    *("bytes_per_token", "prediction_charged", "note"),
)
COLUMNS = (*KEYS, "policy", "status", "reason", *FIGURES, "request_tpot_ms", "request_ttft_ms")
_TEXTS = ("trace", "machine", "system", "policy", "status", "reason", "note", "request_tpot_ms", "request_ttft_ms")


class Setting(NamedTuple):
    """One comparison of systems: a trace, a cache, a machine and a metric."""

    trace: str
    cache_gb: float
    machine: str
    metric: Metric


class Times(NamedTuple):
    """The values of a metric in one run, in seconds."""

    mean: float
    requests: tuple[float, ...]
    """One value per request, in the order in which they ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable(RunTable):
    """The results of a comparison's runs, in the order in which they were planned. All times are simulated.

    `status` is done, refused, failed, or lacking (the trace lacks something that the system needs). `inputs` describes
    each trace and each machine, by name.
    """

    columns: ClassVar = COLUMNS
    texts: ClassVar = _TEXTS

    @property
    def traces(self) -> list[str]:
        """The titles of the traces, in their order."""
        return list(dict.fromkeys(row["trace"] for row in self.rows))

    def places(self, metric: Metric) -> list[tuple[str, float]]:
        """The traces and caches with at least one value of a metric, in their order."""
        there = (row for row in self.rows if row[f"{metric}_s_mean"] is not None)
        return list(dict.fromkeys((row["trace"], row["cache_gb"]) for row in there))

    def times(self, metric: Metric) -> dict[Setting, dict[str, Times]]:
        """The values of a metric by setting and system; unknown ones are left out."""
        found: dict[Setting, dict[str, Times]] = {}
        for row in self.rows:
            if (mean := row[f"{metric}_s_mean"]) is not None:
                setting = Setting(row["trace"], row["cache_gb"], row["machine"], metric)
                found.setdefault(setting, {})[row["system"]] = Times(mean, _seconds(row[f"request_{metric}_ms"]))
        return found


def milliseconds(seconds: Iterable[float]) -> str:
    """The times of requests as one text, in ms to 0.1 µs; a dash for a request without a time."""
    return " ".join(f"{value * 1e3:.4f}" if value == value else MISSING for value in seconds)


def _seconds(text: str) -> tuple[float, ...]:
    return tuple(float("nan") if each == MISSING else float(each) / 1e3 for each in text.split())
