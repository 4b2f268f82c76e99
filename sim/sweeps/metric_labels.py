"""Labels of metrics in pictures: a column's name, its unit, and the factor to this unit."""

from typing import NamedTuple


class MetricLabel(NamedTuple):
    """The label of a metric, and the factor to its unit."""

    text: str
    """The name, with the unit in brackets."""
    factor: float


_KNOWN = {
    "tpot_s_mean": "TPOT, mean",
    "ttft_s_mean": "TTFT, mean",
    "makespan_s": "time of the whole run",
    "hit_rate": "hit rate",
    "hit_or_late_rate": "hit + late rate",
    "bytes_per_token": "copied per output token",
    "expert_memory_bytes": "expert memory, peak",
}
_SHARES = {"hit_rate", "hit_rate_prefill", "hit_rate_decode", "late_rate", "miss_rate", "prefetch_useful"}
_SHARES |= {"hit_or_late_rate", "hit_or_late_rate_prefill", "hit_or_late_rate_decode"}
_SHARES |= {"prefetch_late", "prefetch_wasted", "prefetch_cancelled", "prefetch_unused"}


def metric_label(metric: str, largest: float) -> MetricLabel:
    """The label of a column; its `largest` value decides between MB and GB, or ms and s."""
    text = _KNOWN.get(metric, metric.replace("_", " "))
    if metric in _SHARES:
        return MetricLabel(f"{text} [%]", 100)
    if "bytes" in metric.split("_"):
        return MetricLabel(f"{text} [GB]", 1e-9) if largest >= 1e9 else MetricLabel(f"{text} [MB]", 1e-6)
    if "s" in metric.split("_"):
        plain = _KNOWN.get(metric, " ".join(word for word in metric.split("_") if word != "s"))
        return MetricLabel(f"{plain} [s]", 1) if largest >= 10 else MetricLabel(f"{plain} [ms]", 1e3)
    return MetricLabel(text, 1)


def axis_label(axis: str) -> str:
    """The name of an axis, with its unit if the name does not have it."""
    units = {"cache.share": "of all experts", "cache.gb": "GB", "cache.experts": "experts", "batch_size": "requests"}
    return f"{axis} [{units[axis]}]" if axis in units else axis
