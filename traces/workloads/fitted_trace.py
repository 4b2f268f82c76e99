"""Fit recorded requests to a workload and write the trace in parts."""

import sys
from pathlib import Path

import numpy as np

from common.progress import bar
from common.tables import number
from traces.format.reader import Trace
from traces.format.schema import TraceError
from traces.format.storage import file_info
from traces.format.target import TraceTarget
from traces.format.writer import TraceWriter
from traces.workloads.arrivals import sample
from traces.workloads.fitting import FitPlan, Fitter, fitted_meta, plan_fit
from traces.workloads.workload_files import read_workload
from traces.workloads.workload_settings import FitSettings

_PART = 8  # requests


def fit_trace(trace: Trace, settings: FitSettings, target: TraceTarget) -> Path:
    """Write a trace with one request per row of the workload, or resume it.

    Prints on stderr how many recorded rows were reused and how many prompts were cut.
    """
    if not trace.meta.all_executed:
        what = "tokens of its prefills skip layers (experts -1), so prompts of other lengths cannot be built from them"
        raise TraceError.at(trace.path, what)
    whole, rng = read_workload(settings.workload), np.random.default_rng(settings.seed)
    workload = sample(whole, rng, requests=settings.requests, rate=settings.rate)
    longest = settings.max_prompt_tokens
    noted = {
        "workload_sha256": file_info(settings.workload).sha256,
        "requests": settings.requests,
        "rate": settings.rate,
        "seed": settings.seed,
    }
    plan = plan_fit(trace, workload, seed=settings.seed, max_prompt_tokens=longest)
    fitter = Fitter(trace, plan)
    meta = fitted_meta(trace, workload, plan, noted, max_prompt_tokens=longest)
    options = {"restart": target.restart, "overwrite": target.overwrite}
    total = len(workload)
    with (
        TraceWriter(target.out, meta, plan={"fit": noted}, **options) as writer,
        bar("fit", total) as done,
    ):
        for number, first in enumerate(range(0, total, _PART)):
            part = range(first, min(first + _PART, total))
            if number not in writer.finished:
                infos, recorded = zip(*(fitter.fitted(row, workload) for row in part), strict=True)
                writer.write_part(number, infos, recorded)
            done(len(part))
        out = writer.finish()
    print(_repeated(plan, prefill=trace.meta.prefill), file=sys.stderr)
    cut = int((workload.prompt_tokens > longest).sum())
    if trace.meta.prefill and cut:
        print(f"{cut} of {total} prompts were cut to {longest} tokens", file=sys.stderr)
    return out


def _repeated(plan: FitPlan, *, prefill: bool) -> str:
    shares = [(plan.repeated_decode_rows, f"{plan.decode_rows:,} decode rows")]
    if prefill:
        shares.append((plan.repeated_prompt_rows, f"{plan.prompt_rows:,} rows of prompts"))
    return "reused recorded rows: " + ", ".join(f"{number(share, '.1%')} of {rows}" for share, rows in shares)
