"""The figures of a run: times, hit rates, bytes moved, and more."""

from typing import Any

import numpy as np
import pandas as pd

from sim.engine.time_split import PARTS
from sim.inputs import Inputs
from sim.results.working_set import working_set
from sim.scenario import Scenario
from sim.started_policy import Outcome

Summary = dict[str, Any]

WITHOUT_PREFETCH = "plans are not carried out: experts are copied on demand only"
ARRIVALS_IGNORED = "fixed batches ignore the arrival times in the trace"


def summarise(run: Outcome, scenario: Scenario, inputs: Inputs) -> Summary:
    """Compute the figures of a run. Shares are between 0 and 1, times in seconds.

    `hit_or_late_rate` is the share of demanded experts that were present or on their way ("hit + late"): two of the
    three counters in the FineMoE authors' demo count a prefetch in flight as a hit.

    `prefill_…_s` and `decode_…_s` are the parts of a mean iteration's time, as in `sim.engine.time_split`. `prefills`
    counts the `iterations` in which any request is prefilled.

    `search_score_semantic_mean` and `search_score_trajectory_mean` are the similarity of the expert maps that searches
    found: the cosine (eq. 4 and 5) of the nearest entry, averaged over the records of each search, then over searches.
    They are null without such searches.

    `equal_requests` and `equal_tokens` (real runs only) count the outputs that were compared with the resident model's
    and found equal.

    A rate is null if its denominator is 0: TTFT and the prefill hit rate without a recorded prefill, outcomes of
    prefetches without any. `fits` is whether the experts fit on the GPUs beside dense weights and KV cache; it is null
    if the machine does not state its memory.
    """
    counts = run.counts
    demands = counts.hits + counts.late + counts.misses
    prefill = run.iterations["prefill"]
    prefills, decodes = run.iterations[prefill], run.iterations[~prefill]
    tokens = int(run.requests["output_tokens"].sum())
    without_prefetch = "" if scenario.prefetch else WITHOUT_PREFETCH
    arrivals = ARRIVALS_IGNORED if inputs.arrivals else ""
    return {
        "policy": scenario.policy,
        "label": scenario.name,
        "simulated": run.simulated,
        "ttft_s_mean": _mean(run.requests["ttft_s"]),
        "ttft_s_p50": _quantile(run.requests["ttft_s"], 0.50),
        "ttft_s_p95": _quantile(run.requests["ttft_s"], 0.95),
        "tpot_s_mean": _mean(run.requests["tpot_s"]),
        "tpot_s_p50": _quantile(run.requests["tpot_s"], 0.50),
        "tpot_s_p95": _quantile(run.requests["tpot_s"], 0.95),
        "hit_rate": ratio(counts.hits, demands),
        "hit_rate_prefill": _rate(prefills, "hits"),
        "hit_rate_decode": _rate(decodes, "hits"),
        "hit_or_late_rate": ratio(counts.hits + counts.late, demands),
        "hit_or_late_rate_prefill": _rate(prefills, "hits", "late"),
        "hit_or_late_rate_decode": _rate(decodes, "hits", "late"),
        "late_rate": ratio(counts.late, demands),
        "miss_rate": ratio(counts.misses, demands),
        "distinct_demands": demands,
        "hits": counts.hits,
        "late": counts.late,
        "misses": counts.misses,
        "prefetched_copies": counts.prefetched,
        "prefetch_useful": ratio(counts.useful, counts.prefetched),
        "prefetch_late": ratio(counts.late, counts.prefetched),
        "prefetch_wasted": ratio(counts.wasted, counts.prefetched),
        "prefetch_cancelled": ratio(counts.cancelled, counts.prefetched),
        "prefetch_unused": ratio(counts.unused, counts.prefetched),
        "copies": counts.copies,
        "evictions": counts.evictions,
        "copied_bytes": counts.bytes,
        "copied_bytes_decode": int(decodes["copied_bytes"].sum()),
        "bytes_per_token": ratio(counts.bytes, tokens),
        **_time_split("prefill", prefills),
        **_time_split("decode", decodes),
        **working_set(run, inputs),
        "expert_memory_bytes": run.peak_slots * inputs.model.expert_bytes,
        "expert_slots": run.expert_slots,
        "fits": inputs.memory.fits(run.expert_slots * inputs.model.expert_bytes) if inputs.memory else None,
        "preloaded": run.preloaded,
        "prediction_charged": run.prediction_charged,
        "search_score_semantic_mean": run.search_score_semantic,
        "search_score_trajectory_mean": run.search_score_trajectory,
        "equal_requests": None,
        "equal_tokens": None,
        "requests": len(run.requests),
        "iterations": len(run.iterations),
        "prefills": len(prefills),
        "output_tokens": tokens,
        "makespan_s": run.makespan_s,
        "model": inputs.model.name,
        "machine": inputs.machine.name,
        "gpus": inputs.machine.gpus,
        "batch_size": scenario.batch_size,
        "placement": scenario.placement,
        "replicas": scenario.replicas,
        "chunk_bytes": run.chunk_bytes,
        "seed": scenario.seed,
        "note": "; ".join(filter(None, (run.note, without_prefetch, arrivals))) or None,
    }


def _time_split(phase: str, iterations: pd.DataFrame) -> dict[str, float | None]:
    """The parts of a mean iteration's time, which add up to it; null without iterations."""
    return {f"{phase}_{part}": _mean(iterations[part]) for part in PARTS}


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part / whole`; None if either is missing or the whole is 0."""
    return part / whole if part is not None and whole else None


def _rate(iterations: pd.DataFrame, *outcomes: str) -> float | None:
    """The share of these outcomes in all demands."""
    counted = {name: int(iterations[name].sum()) for name in ("hits", "late", "misses")}
    return ratio(sum(counted[name] for name in outcomes), sum(counted.values()))


def _mean(values: "pd.Series[float]") -> float | None:
    """The mean without missing values, bit for bit as pandas computes it, but faster on few numbers."""
    numbers = values.to_numpy(float)
    known = ~np.isnan(numbers)
    return float(np.where(known, numbers, 0.0).sum() / known.sum()) if known.any() else None


def _quantile(values: "pd.Series[float]", share: float) -> float | None:
    numbers = values.to_numpy(float)
    known = numbers[~np.isnan(numbers)]
    return float(np.quantile(known, share)) if len(known) else None
