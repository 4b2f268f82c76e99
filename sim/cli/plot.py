"""`python -m sim plot`: draw the comparison that a results folder holds, simulated or measured."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import replacing
from traces.format import provenance

PICTURES = (".png", ".svg", ".pdf")
_HIT, _LATE, _MISS = "#2a6f97", "#e9a13b", "#c8553d"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder that `sim run --out` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture to write: .png, .svg or .pdf")


def run(args: argparse.Namespace) -> None:
    """Draw the picture and say where it is."""
    summary, meta = read_summary(args.results)
    if args.out.suffix not in PICTURES:
        raise UserError(f"--out {args.out}: the name must end in {' or '.join(PICTURES)}")
    draw(summary, meta, args.out)
    print(args.out)


def read_summary(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The row of each policy, and what the runs had in common."""
    path = folder / "summary.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing; {folder} is not a folder that `sim run --out` wrote")
    try:
        table = pq.read_table(path)
        return table.to_pandas(), json.loads(table.schema.metadata[b"finemoe_lab"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def draw(summary: pd.DataFrame, meta: dict[str, Any], path: Path) -> None:
    """Two panels with a bar per policy: time per output token, and what became of each demand.

    Axis and title say by `meta["simulated"]` whether the times were simulated or measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = "simulated" if meta["simulated"] else "measured"
    figure = Figure(figsize=(10, 1.9 + 0.5 * len(summary)), layout="constrained")
    FigureCanvasAgg(figure)
    times, shares = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(summary))[::-1]

    tpot_ms = summary["tpot_s_mean"] * 1e3
    times.barh(place, tpot_ms, color=_HIT)
    times.hlines(place, summary["tpot_s_p50"] * 1e3, summary["tpot_s_p95"] * 1e3, color="black", label="p50 to p95")
    for at, value in zip(place, tpot_ms, strict=True):
        times.annotate(f"{value:.1f}", (value, at), (6, 9), textcoords="offset points", va="center", fontsize=8)
    times.set(yticks=place, yticklabels=summary["policy"], xlabel=f"{kind} time per output token, mean [ms]")
    times.margins(x=0.15)
    times.legend(frameon=False, loc="lower right", fontsize=8)

    left = np.zeros(len(summary))
    for column, color, label in [("hit_rate", _HIT, "hit"), ("late_rate", _LATE, "late"), ("miss_rate", _MISS, "miss")]:
        percent = summary[column].to_numpy() * 100
        shares.barh(place, percent, left=left, color=color, label=label)
        for at, width, start in zip(place, percent, left, strict=True):
            if width >= 6:
                shares.text(start + width / 2, at, f"{width:.0f}", ha="center", va="center", color="white", fontsize=8)
        left = left + percent
    shares.set(xlim=(0, 100), xlabel="share of the distinct experts demanded [%]")
    shares.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    for axes in (times, shares):
        axes.spines[["top", "right"]].set_visible(False)

    routing = provenance.routing(meta["trace_kind"], meta["trace_model"])
    of_profile = meta["simulated"] and meta.get("profile_sha256")
    machine = f"a measured profile of {meta['hardware']}" if of_profile else meta["hardware"]
    model = meta["model"]
    total = model["layers"] * model["experts"]
    figure.suptitle(
        f"{kind.capitalize()}: {routing} with the sizes of {model['name']}\n"
        f"on {machine}, {meta['cache_experts']} of {total} experts in the cache",
        fontsize=10,
    )
    with replacing(path, "the picture") as partial:
        figure.savefig(partial, dpi=150)
