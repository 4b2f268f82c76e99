"""`python -m traces fit`: give recorded requests the lengths and arrivals of a workload."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.commands import add_writing_arguments
from common.errors import UserError
from traces.format.reader import Trace
from traces.format.storage import file_info
from traces.format.writer import TraceWriter
from traces.workloads.arrivals import Workload, sample
from traces.workloads.fitting import MAX_PROMPT_TOKENS, Fitter, fitted_meta
from traces.workloads.workload_files import read_workload

_PART = 8  # requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces fit`."""
    parser.add_argument("trace", type=Path, metavar="TRACE", help="the recorded requests: a folder NAME.trace")
    parser.add_argument(
        "--workload",
        type=Path,
        required=True,
        metavar="FILE",
        help="lengths and arrivals: what `traces arrivals --out` wrote, or any file that it reads",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.trace", help="the trace to write")
    parser.add_argument("--requests", type=int, metavar="N", help="so many rows of the workload, drawn (default: all)")
    parser.add_argument("--rate", type=float, metavar="R", help="stretch its time to R requests per second")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all draws (default: %(default)s)")
    parser.add_argument(
        "--max-prompt-tokens",
        type=int,
        default=MAX_PROMPT_TOKENS,
        metavar="N",
        help="longer prompts are cut (default: %(default)s)",
    )
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fit and say what came out."""
    for name in ("seed", "max_prompt_tokens"):
        if getattr(args, name) < (name != "seed"):
            what = "positive" if name != "seed" else "0 or more"
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: it must be {what}")
    trace, whole = Trace.open(args.trace), read_workload(args.workload)
    workload = sample(whole, np.random.default_rng(args.seed), requests=args.requests, rate_per_s=args.rate)
    told = {
        "workload_sha256": file_info(args.workload).sha256,
        "requests": args.requests,
        "rate": args.rate,
        "seed": args.seed,
    }
    options = {"restart": args.restart, "overwrite": args.overwrite}
    print(
        fit(trace, workload, args.out, seed=args.seed, max_prompt_tokens=args.max_prompt_tokens, told=told, **options)
    )
    cut = int((workload.prompt_tokens > args.max_prompt_tokens).sum())
    if trace.meta.prefill and cut:
        print(f"{cut} of {len(workload)} prompts were cut to {args.max_prompt_tokens} tokens", file=sys.stderr)
    return 0


def fit(
    trace: Trace,
    workload: Workload,
    out: Path,
    *,
    seed: int,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    told: dict[str, Any],
    restart: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the trace `out` with a request for each row of the workload; it goes on where it was interrupted."""
    fitter = Fitter(trace, seed=seed, max_prompt_tokens=max_prompt_tokens)
    meta = fitted_meta(trace, workload, told, max_prompt_tokens=max_prompt_tokens)
    total = len(workload)
    with (
        TraceWriter(out, meta, plan={"fit": told}, restart=restart, overwrite=overwrite) as writer,
        tqdm(total=total, unit="request", file=sys.stderr, disable=None) as bar,
    ):
        for number, first in enumerate(range(0, total, _PART)):
            part = range(first, min(first + _PART, total))
            if number not in writer.finished:
                infos, recorded = zip(*(fitter.fitted(row, workload) for row in part), strict=True)
                writer.write_part(number, infos, recorded)
            bar.update(len(part))
        return writer.finish()
