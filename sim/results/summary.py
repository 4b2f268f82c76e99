"""From runs to numbers: a summary per policy, the table that is printed, and tidy Parquet files."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from policies.cache.decision_log import DecisionLog
from common.errors import UserError
from sim.simulate import Run

RESIDENT = "no-offload"
BEST = "clairvoyant"
Summary = dict[str, Any]
DETAILS = ("requests", "iterations", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the policies of a comparison are measured against."""

    resident: Run  # with every expert on its GPU
    clairvoyant: Run  # told all that will be demanded
    makespan_s: float | None  # the least that any policy can take with this cache, where times are simulated


def summarise(run: Run, bounds: Bounds) -> Summary:
    """The figures of a run. Shares are of 1, times in seconds.

    A rate is null where it has no denominator: TTFT and the prefill's hit rate without a recorded prefill, the outcome
    of prefetches without any.
    """
    counts, model = run.counts, run.setting.model
    demands = counts.hits + counts.late + counts.misses
    prefill = run.iterations["prefill"]
    tokens = int(run.requests["output_tokens"].sum())
    return {
        "policy": run.policy,
        "simulated": run.simulated,
        "ttft_s_mean": _mean(run.requests["ttft_s"]),
        "ttft_s_p50": _quantile(run.requests["ttft_s"], 0.50),
        "ttft_s_p95": _quantile(run.requests["ttft_s"], 0.95),
        "tpot_s_mean": _mean(run.requests["tpot_s"]),
        "tpot_s_p50": _quantile(run.requests["tpot_s"], 0.50),
        "tpot_s_p95": _quantile(run.requests["tpot_s"], 0.95),
        "tpot_over_no_offload": _ratio(_mean(run.requests["tpot_s"]), _mean(bounds.resident.requests["tpot_s"])),
        "tpot_over_clairvoyant": _ratio(_mean(run.requests["tpot_s"]), _mean(bounds.clairvoyant.requests["tpot_s"])),
        "hit_rate": _ratio(counts.hits, demands),
        "hit_rate_prefill": _hit_rate(run.iterations[prefill]),
        "hit_rate_decode": _hit_rate(run.iterations[~prefill]),
        "late_rate": _ratio(counts.late, demands),
        "miss_rate": _ratio(counts.misses, demands),
        "distinct_demands": demands,
        "hits": counts.hits,
        "late": counts.late,
        "misses": counts.misses,
        "prefetched_copies": counts.prefetched,
        "prefetch_useful": _ratio(counts.useful, counts.prefetched),
        "prefetch_late": _ratio(counts.late, counts.prefetched),
        "prefetch_wasted": _ratio(counts.wasted, counts.prefetched),
        "prefetch_cancelled": _ratio(counts.cancelled, counts.prefetched),
        "prefetch_unused": _ratio(counts.unused, counts.prefetched),
        "copies": counts.copies,
        "evictions": counts.evictions,
        "copied_bytes": counts.bytes,
        "bytes_per_token": _ratio(counts.bytes, tokens),
        "expert_memory_bytes": run.peak_slots * model.expert_bytes,
        "expert_slots": run.expert_slots,
        "requests": len(run.requests),
        "iterations": len(run.iterations),
        "output_tokens": tokens,
        "makespan_s": run.makespan_s,
        "makespan_lower_bound_s": (bounds.resident if run.preloaded else bounds).makespan_s,
        "model": model.name,
        "hardware": run.setting.hardware.name,
        "gpus": run.setting.hardware.gpus,
        "batch_size": run.setting.batch_size,
        "placement": run.setting.placement,
        "replicas": run.setting.replicas,
        "seed": run.setting.seed,
        "note": run.note or None,
    }


def table(summaries: Sequence[Summary]) -> str:
    """What a person reads: a row per policy, times in milliseconds, rates in percent."""
    headers = [
        "policy",
        "TTFT ms\nmean / p50 / p95",
        "TPOT ms\nmean / p50 / p95",
        "TPOT over\nno-offload",
        "TPOT over\nclairvoyant",
        "hit rate %\nall / prefill / decode",
        "late\n%",
        "miss\n%",
        "prefetches %\nuseful / late / wasted",
        "copied\nMB/token",
        "peak expert\nmemory GB",
    ]
    rows = [
        [
            each["policy"],
            _cells(each, ["ttft_s_mean", "ttft_s_p50", "ttft_s_p95"], 1e3, 1),
            _cells(each, ["tpot_s_mean", "tpot_s_p50", "tpot_s_p95"], 1e3, 1),
            _cells(each, ["tpot_over_no_offload"], 1, 2) + " ×",
            _cells(each, ["tpot_over_clairvoyant"], 1, 2) + " ×",
            _cells(each, ["hit_rate", "hit_rate_prefill", "hit_rate_decode"], 100, 1),
            _cells(each, ["late_rate"], 100, 1),
            _cells(each, ["miss_rate"], 100, 1),
            _cells(each, ["prefetch_useful", "prefetch_late", "prefetch_wasted"], 100, 0),
            _cells(each, ["bytes_per_token"], 1e-6, 0),
            _cells(each, ["expert_memory_bytes"], 1e-9, 2),
        ]
        for each in summaries
    ]
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True)


def refuse_existing(directory: Path) -> None:
    """A `UserError` if the results have no place to go, to be asked before anything is simulated for them."""
    if directory.exists():
        raise UserError(f"{directory} exists already; choose another --out or remove it")


def write(
    directory: Path, runs: Sequence[Run], summaries: Sequence[Summary], meta: Mapping[str, Any], detail: str
) -> None:
    """Put the summary, requests and, by `detail`, iterations and events as Parquet files into a new folder.

    Each file holds the rows of all policies, and `meta` in its metadata. The folder appears whole or not at all; one
    that is there already is an error.
    """
    refuse_existing(directory)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_frame(partial / "summary.parquet", pd.DataFrame(list(summaries)), meta)
        write_frame(partial / "requests.parquet", _stack(runs, [run.requests for run in runs]), meta)
        if DETAILS.index(detail) >= DETAILS.index("iterations"):
            write_frame(partial / "iterations.parquet", _stack(runs, [run.iterations for run in runs]), meta)
        if detail == "events":
            logs = [
                pd.DataFrame(run.log.in_time() if run.log else [], columns=list(DecisionLog.COLUMNS)) for run in runs
            ]
            write_frame(partial / "events.parquet", _stack(runs, logs), meta)
        (partial / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
        partial.replace(directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{directory}: results could not be written: {error.strerror or error}") from error


def _stack(runs: Sequence[Run], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One frame below the other, with the policy as first column."""
    for run, frame in zip(runs, frames, strict=True):
        frame.insert(0, "policy", run.policy)
    return pd.concat(frames, ignore_index=True)


def write_frame(path: Path, frame: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """Put a table into a Parquet file, with `meta` as JSON in its metadata under the key `finemoe_lab`."""
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    described = {**(arrow.schema.metadata or {}), b"finemoe_lab": json.dumps(meta, sort_keys=True).encode()}
    pq.write_table(arrow.replace_schema_metadata(described), path, compression="zstd")


def _hit_rate(iterations: pd.DataFrame) -> float | None:
    demands = iterations[["hits", "late", "misses"]].to_numpy().sum()
    return _ratio(int(iterations["hits"].sum()), int(demands))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _mean(values: "pd.Series[float]") -> float | None:
    return float(values.mean()) if values.notna().any() else None


def _quantile(values: "pd.Series[float]", share: float) -> float | None:
    return float(np.quantile(values.dropna(), share)) if values.notna().any() else None


def _cells(summary: Summary, keys: Sequence[str], factor: float, digits: int) -> str:
    """The figures in one cell, a dash for each that is null."""
    values = [summary[key] for key in keys]
    return " / ".join("–" if value is None else f"{value * factor:.{digits}f}" for value in values)
