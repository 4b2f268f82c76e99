"""The table behind a comparison: a row for each system, trace, cache and machine, and what is known of the traces.

    runs.csv       a row per combination, with the figures of its run or the reason why there is none
    inputs.json    traces and machines: what they are, and digests

Everything that the document says is computed from these two, so it can be made again from them alone.
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
    """Where systems are compared, and by what."""

    trace: str
    cache_gb: float
    machine: str
    metric: Metric


class Times(NamedTuple):
    """What a metric is in one run, in seconds."""

    mean: float
    requests: tuple[float, ...]
    """Of each request, in the order in which they ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable(RunTable):
    """What the runs of a comparison gave, in the order in which they were asked for. All times are simulated.

    `status` is done, refused, failed, or lacking, where the trace does not have what the system needs. `inputs` has of
    each trace and each machine, by name, what readers must know.
    """

    columns: ClassVar = COLUMNS
    texts: ClassVar = _TEXTS

    @property
    def traces(self) -> list[str]:
        """The titles of the traces, in their order."""
        return list(dict.fromkeys(row["trace"] for row in self.rows))

    def places(self, metric: Metric) -> list[tuple[str, float]]:
        """Traces and caches in which anything has a value of a metric, in their order."""
        there = (row for row in self.rows if row[f"{metric}_s_mean"] is not None)
        return list(dict.fromkeys((row["trace"], row["cache_gb"]) for row in there))

    def times(self, metric: Metric) -> dict[Setting, dict[str, Times]]:
        """By setting and system, what a metric is; what is not known is left out."""
        found: dict[Setting, dict[str, Times]] = {}
        for row in self.rows:
            if (mean := row[f"{metric}_s_mean"]) is not None:
                setting = Setting(row["trace"], row["cache_gb"], row["machine"], metric)
                found.setdefault(setting, {})[row["system"]] = Times(mean, _seconds(row[f"request_{metric}_ms"]))
        return found


def milliseconds(seconds: Iterable[float]) -> str:
    """The times of requests as one text, in ms to 0.1 µs; a dash for a request without one."""
    return " ".join(f"{value * 1e3:.4f}" if value == value else MISSING for value in seconds)


def _seconds(text: str) -> tuple[float, ...]:
    return tuple(float("nan") if each == MISSING else float(each) / 1e3 for each in text.split())
