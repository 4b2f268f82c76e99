"""`python -m traces arrivals`: look at a workload, sample one, draw one."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from common.errors import UserError
from common.files import replacing
from traces.format.storage import file_info
from traces.workloads.arrivals import (
    MINUTE_S,
    Workload,
    counts_per,
    describe,
    gamma_arrivals,
    poisson_arrivals,
    sample,
    with_fixed_lengths,
    with_lengths_of,
)
from traces.workloads.workload_files import read_workload, write_workload

PROCESSES = ("poisson", "gamma")
_PICTURES = (".png", ".svg", ".pdf")
_BLUE, _ORANGE = "#2a6f97", "#e9a13b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces arrivals`."""
    parser.add_argument(
        "workload",
        metavar="FILE|poisson|gamma",
        help="Azure LLM inference traces or BurstGPT (CSV), Mooncake (JSONL), our own Parquet; or a process",
    )
    parser.add_argument("--rate", type=float, metavar="R", help="mean requests per second; a file's time is stretched")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="so many requests, drawn from a file's (default: all)"
    )
    parser.add_argument(
        "--burstiness", type=float, metavar="CV", help="of gamma: coefficient of variation of the gaps; 1 is Poisson"
    )
    parser.add_argument(
        "--lengths", type=Path, metavar="FILE", help="of a process: draw prompt and output lengths from this workload"
    )
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="of a process: every prompt has this length")
    parser.add_argument("--output-tokens", type=int, metavar="N", help="of a process: every output has this length")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all draws (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.parquet", help="write the workload, a row per request")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw arrivals over time and lengths")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Show the workload, and write and draw it when asked to."""
    if args.out and args.out.suffix != ".parquet":
        raise UserError(f"--out {args.out}: the name must end in .parquet")
    if args.plot and args.plot.suffix not in _PICTURES:
        raise UserError(f"--plot {args.plot}: the name must end in {' or '.join(_PICTURES)}")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: it must not be negative")
    rng = np.random.default_rng(args.seed)
    workload = drawn(args, rng) if args.workload in PROCESSES else sampled(args, rng)
    if args.out:
        write_workload(args.out, workload, settings(args))
    if args.plot:
        draw(workload, args.plot)
    print(json.dumps(describe(workload), indent=1) if args.json else table(workload))
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """All that the workload depends on; files by their hashes, since their places mean nothing elsewhere."""
    names = ("rate", "requests", "burstiness", "prompt_tokens", "output_tokens", "seed")
    file = args.lengths if args.workload in PROCESSES else Path(args.workload)
    return {name: getattr(args, name) for name in names} | {"file_sha256": file and file_info(file).sha256}


def sampled(args: argparse.Namespace, rng: np.random.Generator) -> Workload:
    """The workload of a file, or what `--requests` and `--rate` make of it."""
    for name in ("burstiness", "lengths", "prompt_tokens", "output_tokens"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: it is for poisson and gamma; {args.workload} has its own")
    return sample(read_workload(Path(args.workload)), rng, requests=args.requests, rate_per_s=args.rate)


def drawn(args: argparse.Namespace, rng: np.random.Generator) -> Workload:
    """The workload of a process."""
    name = args.workload
    for needed in ("rate", "requests"):
        if getattr(args, needed) is None:
            raise UserError(f"--{needed}: {name} needs it")
    if name == "gamma":
        if args.burstiness is None:
            raise UserError("--burstiness: gamma needs it; 1 is a Poisson process")
        arrival_s = gamma_arrivals(args.requests, args.rate, args.burstiness, rng)
        source = f"gamma process at {args.rate:g}/s with burstiness {args.burstiness:g}"
    else:
        if args.burstiness not in (None, 1.0):
            raise UserError(f"--burstiness {args.burstiness:g}: that of poisson is 1; gamma has any")
        arrival_s = poisson_arrivals(args.requests, args.rate, rng)
        source = f"poisson process at {args.rate:g}/s"
    fixed = (args.prompt_tokens, args.output_tokens)
    if args.lengths is not None and fixed == (None, None):
        return with_lengths_of(arrival_s, read_workload(args.lengths), rng, source)
    if args.lengths is not None or None in fixed:
        raise UserError(f"lengths: {name} needs either --lengths or both --prompt-tokens and --output-tokens")
    return with_fixed_lengths(arrival_s, *fixed, source)


def table(workload: Workload) -> str:
    """Rates and lengths for people."""
    found = describe(workload)
    rate, spread = found["rate_per_s"], found["gap_cv"]
    head = [
        ("workload", found["source"]),
        ("requests", f"{found['requests']:,}"),
        ("dropped", f"{found['dropped']:,} without prompt or output" if found["dropped"] else None),
        ("duration", f"{found['duration_s']:,.1f} s"),
        ("mean rate", "all at once" if rate is None else f"{rate:.3f} requests/s"),
        ("peak rate", f"{found['peak_per_minute']:,} requests in a minute"),
        ("gaps", None if spread is None else f"coefficient of variation {spread:.2f} (Poisson: 1)"),
    ]
    lengths = [
        (f"{name} [tokens]", *(f"{found[f'{name}_tokens'][what]:,.0f}" for what in ("mean", "p50", "p95", "max")))
        for name in ("prompt", "output")
    ]
    top = tabulate([line for line in head if line[1] is not None], tablefmt="plain", disable_numparse=True)
    columns = ("", "mean", "p50", "p95", "max")
    return f"{top}\n\n{tabulate(lengths, columns, disable_numparse=True, stralign='right')}"


def draw(workload: Workload, path: Path) -> None:
    """Three panels: arrivals over time, and how prompt and output lengths are spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    over_time, *histograms = figure.subplots(1, 3, width_ratios=(2, 1, 1))

    # Up to ten minutes by the second; longer ones by the minute, or the bars would be too thin to see.
    by_minute = workload.duration_s > 10 * MINUTE_S
    width_s, unit = (MINUTE_S, "minute") if by_minute else (1.0, "second")
    counts = counts_per(workload, width_s)
    over_time.stairs(counts, np.arange(len(counts) + 1), fill=True, color=_BLUE)
    over_time.set(xlabel=f"time since the first arrival [{'min' if by_minute else 's'}]", ylabel=f"requests per {unit}")

    lengths: list[tuple[Any, str]] = [(workload.prompt_tokens, "prompt"), (workload.output_tokens, "output")]
    for axes, (tokens, name) in zip(histograms, lengths, strict=True):
        # Equal steps of a logarithm, since the longest is often a hundred times the median; whole tokens at the edges.
        edges = np.unique(np.geomspace(tokens.min(), tokens.max() + 1, 50).round())
        axes.hist(tokens, bins=edges, color=_BLUE)
        axes.axvline(float(tokens.mean()), color=_ORANGE, label=f"mean {tokens.mean():,.0f}")
        axes.set(xscale="log", xlabel=f"{name} length [tokens]", ylabel="requests")
        axes.legend(frameon=False, fontsize=8)
    for axes in (over_time, *histograms):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(workload.source, fontsize=10)
    with replacing(path, "the picture") as partial:
        figure.savefig(partial, dpi=150)
