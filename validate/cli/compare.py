"""`python -m validate compare`: simulated beside measured results, with the simulation's errors."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tabulate import tabulate

from common.errors import UserError
from common.files import replacing
from sim.cli.plot import PICTURES, read_summary
from sim.results.summary import write_frame
from traces.format import provenance
from validate.comparison import timelines


class Metric(NamedTuple):
    """A column of the summary in its `unit`, and how it is printed: times `factor` in the unit `printed`."""

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
    Metric("tpot_over_clairvoyant", "1", "TPOT over clairvoyant", "×", 1, 2),
    *_SHARES,
    Metric("bytes_per_token", "bytes", "copied per token", "MB", 1e-6, 2),
    Metric("makespan_s", "s", "makespan", "s", 1, 3),
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

_EQUAL = (
    "trace_digest",
    "cache_experts",
    "gpus",
    "placement",
    "replicas",
    "batch_size",
    "seed",
    "train_split",
)  # of the description
_EQUAL_OF_POLICY = ("requests", "expert_slots")  # of the summary


class Results(NamedTuple):
    """A results folder: a row per policy, and what its runs had in common."""

    folder: Path
    summary: pd.DataFrame
    meta: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("simulated", type=Path, metavar="SIMULATED", help="a folder that `sim run --out` wrote")
    parser.add_argument("measured", type=Path, metavar="MEASURED", help="a folder that `validate replay --out` wrote")
    parser.add_argument("--json", action="store_true", help="print a list on stdout, an object per policy and metric")
    parser.add_argument("--out", type=Path, metavar="FILE.parquet", help="write the comparison as a tidy table")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw both timelines of an iteration; needs --detail events"
    )
    parser.add_argument(
        "--iteration", type=int, metavar="N", help="the one to draw (default: the decode step of median measured time)"
    )


def run(args: argparse.Namespace) -> None:
    """Compare, draw, write and print."""
    _refuse_names(args)
    simulated, measured = (Results(folder, *read_summary(folder)) for folder in (args.simulated, args.measured))
    match(simulated, measured)
    compared = compare(simulated.summary, measured.summary)
    policies = list(dict.fromkeys(compared["policy"]))
    if args.plot:
        logs = [timelines.read_logs(results.folder, policies) for results in (simulated, measured)]
        iteration = timelines.typical_iteration(logs[1]) if args.iteration is None else args.iteration
        timelines.draw(logs[0], logs[1], iteration, args.plot, title=whose(simulated))
    if args.out:
        with replacing(args.out, "the comparison") as partial:
            write_frame(partial, compared, {"simulated": simulated.meta, "measured": measured.meta})
    if args.json:
        print(json.dumps(_objects(compared), indent=2))
    else:
        print(heading(simulated, measured))
        print(text(compared))
    for note in notes(simulated.summary, measured.summary):
        print(note, file=sys.stderr if args.json else sys.stdout)


def match(simulated: Results, measured: Results) -> None:
    """A `UserError` unless these are a simulation and a measurement of the same requests, model and capacities."""
    for results, expected, place in ((simulated, True, "first"), (measured, False, "second")):
        if results.meta["simulated"] != expected:
            kinds = ("simulated", "measured") if expected else ("measured", "simulated")
            raise UserError(f"{results.folder} holds {kinds[1]} results; the {place} folder must hold {kinds[0]} ones")
        for metric in (*METRICS, *COUNTS):
            if metric.column not in results.summary:
                raise UserError(f"{results.folder}: its summary has no column {metric.column}; run again to write one")
    pairs = [(field, simulated.meta.get(field), measured.meta.get(field)) for field in _EQUAL]
    sizes, others = simulated.meta["model"], measured.meta["model"]
    pairs += [(f"model {field}", sizes[field], others.get(field)) for field in sizes if field != "name"]
    here, there = simulated.summary.set_index("policy"), measured.summary.set_index("policy")
    common = [policy for policy in here.index if policy in there.index]
    for field in _EQUAL_OF_POLICY:
        pairs += [(f"{field} of {policy}", here.at[policy, field], there.at[policy, field]) for policy in common]
    for field, one, other in pairs:
        if one != other:
            raise UserError(
                f"{field} differs: {one} in {simulated.folder}, {other} in {measured.folder}; "
                "only runs of equal settings can be compared"
            )
    if not common:
        raise UserError(
            f"no policy is in both: {', '.join(here.index)} in {simulated.folder}, "
            f"{', '.join(there.index)} in {measured.folder}"
        )


def compare(simulated: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """A row of `COLUMNS` for each policy in both summaries and each of `METRICS` and `COUNTS`, in the summary's units.

    The error is simulated − measured, the relative one of what was measured; missing where either value is missing, the
    relative one also where nothing was measured.
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


def heading(simulated: Results, measured: Results) -> str:
    """What is compared, and what its errors mean."""
    meta, model = simulated.meta, simulated.meta["model"]
    machine = f"a measured profile of {meta['hardware']}" if meta.get("profile_sha256") else meta["hardware"]
    return (
        f"Simulated on {machine}, measured on {measured.meta['hardware']}: "
        f"{simulated.summary['requests'].iloc[0]} requests of {whose(simulated)}\n"
        f"with the sizes of {model['name']}, {meta['cache_experts']} of {model['layers'] * model['experts']} experts "
        "in the cache\n"
        "Errors are simulated − measured; relative ones are shares of what was measured.\n"
    )


def whose(results: Results) -> str:
    """The trace, and what kind of routing is in it."""
    meta = results.meta
    return f"{meta['trace']} ({provenance.routing(meta['trace_kind'], meta['trace_model'])})"


def text(compared: pd.DataFrame) -> str:
    """What a person reads: a table per policy, and the exact counts of all."""
    rows = _objects(compared)
    blocks = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        found = {row["metric"]: row for row in rows if row["policy"] == policy}
        cells = [[metric.name, metric.printed, *_cells(metric, found[metric.column])] for metric in METRICS]
        blocks.append(_table([policy, "", "simulated", "measured", "absolute\nerror", "relative\nerror"], cells))
    names = {metric.column: metric.name for metric in COUNTS}
    counts = [
        [row["policy"], names[row["metric"]], f"{row['simulated']:.0f}", f"{row['measured']:.0f}", _difference(row)]
        for row in rows
        if row["metric"] in names
    ]
    blocks.append("Exact counts; a policy that copies on demand alone must be equal in all of them.")
    blocks.append(_table(["policy", "experts", "simulated", "measured", "difference"], counts))
    return "\n\n".join(blocks)


def notes(simulated: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """A line for each folder that has policies which the other lacks."""
    for kind, one, other in (("simulated", simulated, measured), ("measured", measured, simulated)):
        alone = [policy for policy in one["policy"] if policy not in set(other["policy"])]
        if alone:
            yield f"only {kind}, so not compared: {', '.join(alone)}"


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)


def _cells(metric: Metric, row: dict[str, Any]) -> list[str]:
    """Simulated, measured, absolute and relative error; a dash for what is missing."""
    scaled = [("simulated", ""), ("measured", ""), ("absolute_error", "+")]
    values = [(row[key], f"{sign}.{metric.digits}f", metric.factor) for key, sign in scaled]
    values.append((row["relative_error"], "+.1%", 1))
    return ["–" if value is None else f"{value * factor:{form}}" for value, form, factor in values]


def _difference(row: dict[str, Any]) -> str:
    return f"{row['absolute_error']:+.0f}" if row["absolute_error"] else "equal"


def _table(headers: list[str], cells: list[list[str]]) -> str:
    texts = headers.index("simulated")
    aligned = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(cells, headers=headers, colalign=aligned, disable_numparse=True)


def _objects(compared: pd.DataFrame) -> list[dict[str, Any]]:
    """For JSON: a value that is missing is null."""
    rows: list[dict[str, Any]] = compared.astype(object).where(compared.notna(), None).to_dict("records")  # type: ignore
    return rows


def _refuse_names(args: argparse.Namespace) -> None:
    if args.out and args.out.suffix != ".parquet":
        raise UserError(f"--out {args.out}: the name must end in .parquet")
    if args.plot and args.plot.suffix not in PICTURES:
        raise UserError(f"--plot {args.plot}: the name must end in {' or '.join(PICTURES)}")
    if args.iteration is not None and not args.plot:
        raise UserError(f"--iteration {args.iteration}: it chooses what --plot draws, which is not given")
