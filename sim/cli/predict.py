"""`python -m sim predict`: how well prefetchers predict, apart from time and caches."""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from common.errors import UserError
from common.files import replacing
from policies.registry import make_policy, policy_names
from policies.types import RecordedRequest
from sim.cli.plot import PICTURES
from sim.cli.run import divided
from sim.forecast import forecasts
from sim.forecast.forecasts import Forecasts, at_distance, measure
from sim.results.summary import refuse_existing, write_frame
from sim.simulate import needed_columns
from traces.format import provenance
from traces.format.reader import RecordedFuture, Requests, Trace

MEASURES = {"recall": "executed experts that were planned [%]", "recall_at_k": "executed experts among the first K [%]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = forecasts.__doc__
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a NAME.trace folder")
    parser.add_argument(
        "--policy",
        action="append",
        required=True,
        metavar="NAME[,setting=value…]",
        help=f"may be given several times; one of {', '.join(policy_names())}, or module:callable of your own",
    )
    parser.add_argument(
        "--distance",
        metavar="D",
        help="prefetch distances, as 3, 1,2,4 or 1..8 (default: 1..8, or as many as there are layers); a policy whose "
        "distance is fixed, by itself or by a setting, is shown at that",
    )
    parser.add_argument(
        "--train-split",
        type=float,
        default=0.7,
        metavar="X",
        help="share of the requests that policies may learn from; the others are predicted (default: %(default)s)",
    )
    parser.add_argument("--requests", type=int, metavar="N", help="predict only the first N of them")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="B", help="requests that run together (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and of policies (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write a Parquet file, a row per policy, distance, prefill and layer"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw recall over distance: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print the rows of --out on stdout, a list of objects")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table or the JSON, write the rows, draw the picture."""
    trace = Trace.open(args.trace)
    distances = distances_of(args.distance, trace.shape.layers)
    if args.out:
        refuse_existing(args.out)
    if args.plot and args.plot.suffix not in PICTURES:
        raise UserError(f"--plot {args.plot}: the name must end in {' or '.join(PICTURES)}")
    needed_columns(args.policy, embedding=trace.meta.embedding, lookahead=trace.meta.lookahead, where=str(args.trace))
    train, test = divided(trace.request_ids, args.train_split, args.seed, args.requests, where=str(trace.path))
    found = compare(trace, args.policy, distances, train, test, args)
    expert_bytes = trace.shape.expert_bytes
    frame = forecasts.tidy(found, expert_bytes)
    summary = forecasts.summarise(frame, expert_bytes)
    if args.out:
        with replacing(args.out, "the predictions") as partial:
            write_frame(partial, frame, describe(trace, args, distances, len(test)))
    if args.plot:
        save(summary, heading(trace, len(test)), args.plot)
    if args.json:
        told = frame.assign(trace_kind=trace.meta.kind)
        print(json.dumps(json.loads(told.to_json(orient="records", double_precision=15)), indent=2))
        return
    print(heading(trace, len(test)))
    print("Predicted in no time and without a cache; shares of all layers / of the layers from the distance on.\n")
    print(table(summary))
    for note in dict.fromkeys(each.note for _, each in found if each.note):
        policies = dict.fromkeys(policy for policy, each in found if each.note == note)
        print(f"\n{', '.join(policies)}: {note}")


def distances_of(text: str | None, layers: int) -> list[int]:
    """The prefetch distances that `--distance` names, in rising order."""
    if text is None:
        return list(range(1, min(8, layers) + 1))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= layers:
            raise UserError(f"--distance {text}: {part!r} is neither a number nor A..B with numbers from 1 to {layers}")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def compare(
    trace: Trace,
    policies: Sequence[str],
    distances: Sequence[int],
    train: Sequence[int],
    test: Sequence[int],
    args: argparse.Namespace,
) -> list[tuple[str, Forecasts]]:
    """What each policy predicts at each distance, under the name that the user gave it."""
    specs = {at_distance(policy, distance): policy for policy in policies for distance in distances}
    for spec in specs:
        make_policy(spec)  # mistakes are told before the first has run
    history, future = Requests(trace, train), RecordedFuture(trace, test)
    found = []
    for spec, policy in specs.items():
        with tqdm(total=len(test), desc=spec, unit="request", disable=None, leave=False) as progress:
            forecasts = measure(
                spec,
                trace.shape,
                _told(trace, test, progress),
                history=history,
                future=future,
                batch_size=args.batch_size,
                seed=args.seed,
            )
        found.append((policy, forecasts))
    return found


def heading(trace: Trace, requests: int) -> str:
    """What was predicted."""
    shape = trace.shape
    return (
        f"Prediction of {requests} requests of {trace.path.name} "
        f"({provenance.routing(trace.meta.kind, shape.name)}: "
        f"{shape.layers} × {shape.experts} experts of {shape.expert_bytes / 1e6:.3g} MB, top-{shape.top_k})"
    )


def describe(trace: Trace, args: argparse.Namespace, distances: Sequence[int], requests: int) -> dict[str, Any]:
    """Everything that the rows depend on."""
    return {
        "trace": trace.path.name,
        "trace_kind": trace.meta.kind,
        "trace_model": trace.shape.name,
        "trace_digest": trace.digest,
        "expert_bytes": trace.shape.expert_bytes,
        "policies": list(dict.fromkeys(args.policy)),
        "distances": list(distances),
        "train_split": args.train_split,
        "requests": requests,
        "batch_size": args.batch_size,
        "seed": args.seed,
    }


def table(summary: pd.DataFrame) -> str:
    """What a person reads: a row per policy, distance and kind of iteration; shares in percent."""

    def percent(*values: float) -> str:
        return " / ".join("–" if np.isnan(value) else f"{value * 100:.1f}" for value in values)

    rows = [
        [
            each["policy"],
            each["distance"],
            "prefill" if each["prefill"] else "decode",
            percent(each["recall"], each["recall_ahead"]),
            percent(each["precision"]),
            percent(each["recall_at_k"], each["recall_at_k_ahead"]),
            percent(each["coverage"], each["coverage_ahead"]),
            "–" if np.isnan(each["lead_mean"]) else f"{each['lead_mean']:.1f}",
            f"{each['useful_bytes'] / each['tokens'] / 1e6:.4g}",
            f"{each['wasted_bytes'] / each['tokens'] / 1e6:.4g}",
        ]
        for each in summary.to_dict("records")
    ]
    headers = ["policy", "distance", "", "recall %\nall / ahead", "precision\n%", "recall@K %\nall / ahead"]
    headers += ["coverage %\nall / ahead", "lead\nlayers", "useful\nMB/token", "wasted\nMB/token"]
    aligned = ["left", "right", "left", *["right"] * 7]
    return tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True)


def save(summary: pd.DataFrame, title: str, path: Path) -> None:
    """Draw recall over distance, a line per policy: solid for the layers from the distance on, dotted for all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phases = [each for each in (False, True) if (summary["prefill"] == each).any()]
    figure = Figure(figsize=(11, 0.8 + 3.6 * len(phases)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(phases), len(MEASURES), sharex=True, sharey="row", squeeze=False)
    for row, prefill in zip(panels, phases, strict=True):
        for axes, (measure_name, label) in zip(row, MEASURES.items(), strict=True):
            shown = summary[summary["prefill"] == prefill]
            for number, (policy, each) in enumerate(shown.groupby("policy", sort=False)):
                color, distance = f"C{number}", each["distance"]
                axes.plot(distance, each[f"{measure_name}_ahead"] * 100, "o-", color=color, label=policy, markersize=4)
                axes.plot(distance, each[measure_name] * 100, ":", color=color)
            axes.set(xlabel="prefetch distance [layers]", ylabel=label, title="prefill" if prefill else "decode")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
    panels[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"{title}\nsolid: layers from the distance on; dotted: all layers", fontsize=10)
    with replacing(path, "the picture") as partial:
        figure.savefig(partial, dpi=150)


def _told(trace: Trace, requests: Sequence[int], progress: "tqdm[Any]") -> Iterator[RecordedRequest]:
    for recorded in trace.iter(requests):
        yield recorded
        progress.update()
