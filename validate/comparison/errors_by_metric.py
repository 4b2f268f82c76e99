"""Simulated beside measured figures, with the simulation's errors."""

import math
from typing import Any, NamedTuple

import pandas as pd


class Metric(NamedTuple):
    """A column of the summary in its `unit`, and how it is printed: times `factor`, in the unit `printed`."""

    column: str
    unit: str
    name: str
    printed: str
    factor: float
    digits: int


_TIMES = [
    Metric(f"{key}_s_{of}", "s", f"{key.upper()} {of}", "ms", 1e3, 2)
    for key in ("ttft", "tpot")
    for of in ("mean", "p50", "p95")
]
_SHARES = [
    Metric(column, "1", name, "%", 100, 1)
    for column, name in (
        ("hit_rate", "hit rate"),
        ("hit_rate_prefill", "hit rate, prefill"),
        ("hit_rate_decode", "hit rate, decode"),
        ("hit_or_late_rate", "hit + late"),
        ("late_rate", "late"),
        ("miss_rate", "miss"),
        ("prefetch_useful", "prefetches useful"),
        ("prefetch_late", "prefetches late"),
        ("prefetch_wasted", "prefetches wasted"),
    )
]
METRICS = [
    *_TIMES,
    Metric("tpot_over_no_offload", "1", "TPOT over no-offload", "×", 1, 2),
    *_SHARES,
    Metric("bytes_per_token", "bytes", "copied per token", "MB", 1e-6, 2),
    Metric("makespan_s", "s", "makespan", "s", 1, 3),
]
BRIEF_METRICS = [
    metric for metric in METRICS if metric.column in ("ttft_s_mean", "tpot_s_mean", "hit_rate", "bytes_per_token")
]
COUNTS = [
    Metric(column, "experts", name, "experts", 1, 0)
    for column, name in (
        ("distinct_demands", "distinct demands"),
        ("hits", "hits"),
        ("late", "late"),
        ("misses", "misses"),
    )
]
COLUMNS = ("policy", "metric", "unit", "simulated", "measured", "absolute_error", "relative_error")


def errors_of(simulated: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """A row of `COLUMNS` for each policy in both summaries and each of `METRICS` and `COUNTS`, in the summary's units.

    The absolute error is simulated − measured; the relative error divides it by the measured value. Both are missing if
    either value is missing, the relative one also if the measured value is 0.
    """
    here, there = simulated.set_index("policy"), measured.set_index("policy")
    rows = [
        (
            policy,
            metric.column,
            metric.unit,
            _number(here.at[policy, metric.column]),
            _number(there.at[policy, metric.column]),
        )
        for policy in here.index
        if policy in there.index
        for metric in (*METRICS, *COUNTS)
    ]
    compared = pd.DataFrame(rows, columns=list(COLUMNS[:5]))
    compared["absolute_error"] = compared["simulated"] - compared["measured"]
    compared["relative_error"] = compared["absolute_error"] / compared["measured"].where(compared["measured"] != 0)
    return compared


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)
