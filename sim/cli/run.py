"""`python -m sim run`: compare policies on a trace."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from policies.cache.placement import PLACEMENTS
from policies.registry import EVICTORS, policy_names
from policies.types import ModelShape, RecordedRequest
from sim.hardware.machines import Devices, Machine, machine, told
from sim.hardware.presets import PRESETS, Hardware
from sim.hardware.profile import Profile
from sim.results import summary
from sim.results.bounds import makespan_lower_bound_s
from sim.simulate import Run, Setting, needed_columns, simulate, simulated_as, slots_for
from traces.analysis.expert_counts import read_counts
from traces.format import provenance
from traces.format.reader import RecordedFuture, Requests, Trace, split
from traces.published_models import PUBLISHED, published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a NAME.trace folder")
    parser.add_argument(
        "--hardware",
        default="rtx3090x6",
        metavar="NAME|FILE.toml",
        help=f"one of {', '.join(PRESETS)}, or a profile that `validate calibrate` wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--as",
        dest="as_model",
        metavar="MODEL",
        help="simulate the sizes of a published model with the traced routing; "
        f"one of {', '.join(PUBLISHED)}; experts per layer and top-k must agree",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="TRACE",
        help="learn from all requests of this trace instead; which requests are run stays the same, with "
        "--train-split 0 all",
    )
    parser.add_argument(
        "--counts",
        type=Path,
        metavar="FILE.parquet",
        help="a table of expert counts for --placement balanced, in place of the history's demands",
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what simulated and real runs have in common."""
    parser.add_argument(
        "--policy",
        action="append",
        required=True,
        metavar="NAME[,setting=value…][+EVICTOR]",
        help=f"may be given several times; one of {', '.join(policy_names())}, or module:callable of your own; "
        f"an evictor in place of its own is one of {', '.join(EVICTORS)}; `python -m sim policies` tells more",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--cache-experts", type=int, metavar="N", help="experts that all GPUs together can hold")
    size.add_argument(
        "--cache-share", type=float, metavar="X", help="the same as a share of all experts (default: 0.25)"
    )
    size.add_argument("--cache-gb", type=float, metavar="GB", help="the same in gigabytes (1e9 bytes), rounded down")
    parser.add_argument(
        "--train-split",
        type=float,
        default=0.7,
        metavar="X",
        help="share of the requests that policies may learn from; the others are run (default: %(default)s)",
    )
    parser.add_argument("--requests", type=int, metavar="N", help="run only the first N of them")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="B", help="requests that run together (default: 1)"
    )
    parser.add_argument(
        "--placement",
        default="round-robin",
        choices=PLACEMENTS,
        help="which GPU each expert lives on: dealt in turn, or so that each layer's demands in the history fall "
        "evenly on the GPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        metavar="R",
        help="GPUs that each expert may live on, one at a time: the placement's and the next ones; what is copied goes "
        "to the one whose link has the least to do (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and of policies (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write tidy Parquet results into a new folder")
    parser.add_argument(
        "--detail",
        choices=summary.DETAILS,
        default="iterations",
        help="the finest rows to write; events is the decision log (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a list on stdout, an object per policy")
    parser.add_argument(
        "--check", action="store_true", help="hold the invariants of the cache after every call; slower"
    )


def run(args: argparse.Namespace) -> None:
    """Simulate, print the table or the JSON, write the results."""
    trace = Trace.open(args.trace)
    hardware = machine(args.hardware)
    model = simulated_as(trace.shape, published(args.as_model)) if args.as_model else trace.shape
    setting = setting_of(args, model, hardware)
    learned: dict[str, Any] = {"history": None, "expert_counts_sha256": None}
    if args.counts:
        if args.placement != "balanced":
            raise UserError(f"--counts {args.counts}: it is for --placement balanced, not {args.placement}")
        counts = read_counts(args.counts, trace.shape)
        setting = replace(setting, expert_counts=counts.tokens)
        learned["expert_counts_sha256"] = counts.sha256
    if args.out:
        summary.refuse_existing(args.out)
    read, history = trace, None
    if args.history:
        history = history_of(args.history, trace)
        learned["history"] = {"trace": history.path.name, "kind": history.meta.kind, "digest": history.digest}
        # Embeddings that only one of the two has can be compared with nothing.
        if history.meta.embedding != trace.meta.embedding:
            read, history = trace.without_embeddings(), history.without_embeddings()
    where = str(args.trace if read.meta.embedding == trace.meta.embedding else args.history)
    needed_columns(args.policy, embedding=read.meta.embedding, lookahead=read.meta.lookahead, where=where)
    runs, bounds = compare(read, args.policy, setting, args.train_split, args.requests, history)
    report(args, trace, setting, runs, bounds, learned)


def history_of(path: Path, trace: Trace) -> Trace:
    """The trace to learn from; layers, experts and top-k must be those of `trace`, and the size of embeddings."""
    history = Trace.open(path)
    names = ["layers", "experts", "top_k"]
    for name in [*names, "hidden"] if history.meta.embedding and trace.meta.embedding else names:
        found, wanted = getattr(history.shape, name), getattr(trace.shape, name)
        if found != wanted:
            raise UserError(f"--history {path}: field shape.{name}: must be {wanted} as in {trace.path}, value {found}")
    return history


def setting_of(args: argparse.Namespace, model: ModelShape, hardware: Machine | Devices) -> Setting:
    """What the arguments say about every run."""
    share = 0.25 if args.cache_share is None else args.cache_share
    return Setting(
        model=model,
        hardware=hardware,
        cache_experts=slots_for(model, experts=args.cache_experts, share=share, gb=args.cache_gb),
        batch_size=args.batch_size,
        placement=args.placement,
        replicas=args.replicas,
        seed=args.seed,
        check=args.check,
        log=args.detail == "events",
    )


def report(
    args: argparse.Namespace,
    trace: Trace,
    setting: Setting,
    runs: Sequence[Run],
    bounds: summary.Bounds,
    learned: Mapping[str, Any] | None = None,
) -> None:
    """Print the table or the JSON, and write the results if they have a place to go.

    `learned` says what policies and placement learned from beside the trace; it joins what describes the results.
    """
    summaries = [{**summary.summarise(each, bounds), "trace_kind": trace.meta.kind} for each in runs]
    if args.out:
        summary.write(args.out, runs, summaries, describe(trace, setting, args) | dict(learned or {}), args.detail)
    if args.json:
        print(json.dumps(summaries, indent=2))
        return
    print(heading(trace, setting, len(bounds.resident.requests)))
    if learned and learned["history"]:
        print(f"learned from {learned['history']['trace']} ({provenance.label(learned['history']['kind'])})")
    print()
    print(summary.table(summaries))
    shown = {each.policy: each for each in [*runs, bounds.clairvoyant]}.values()
    for note in dict.fromkeys(each.note for each in shown if each.note):
        print(f"\n{', '.join(each.policy for each in shown if each.note == note)}: {note}")


def compare(
    trace: Trace,
    policies: Sequence[str],
    setting: Setting,
    train_share: float,
    limit: int | None = None,
    learned: Trace | None = None,
) -> tuple[list[Run], summary.Bounds]:
    """A run per policy on the requests that are not learned from, and the bounds that they are measured against.

    With `learned` all of that trace is learned from, and the requests that would have been stay unused.
    """
    train, test = divided(trace.request_ids, train_share, setting.seed, limit, where=str(trace.path))
    history = Requests(trace, train) if learned is None else Requests(learned)
    future = RecordedFuture(trace, test)
    runs: dict[str, Run] = {}
    for policy in dict.fromkeys([*policies, summary.BEST, summary.RESIDENT]):
        progress = tqdm(total=len(test), desc=policy, unit="request", disable=None, leave=False)
        with progress:
            runs[policy] = simulate(policy, setting, _told(trace, test, progress), history=history, future=future)
    resident = runs[summary.RESIDENT]
    least_s = makespan_lower_bound_s(setting, trace.iter(test), resident, history)
    bounds = summary.Bounds(resident=resident, clairvoyant=runs[summary.BEST], makespan_s=least_s)
    return [runs[policy] for policy in dict.fromkeys(policies)], bounds


def divided(
    requests: Sequence[int], train_share: float, seed: int, limit: int | None, *, where: str
) -> tuple[list[int], list[int]]:
    """A random share of the requests to learn from, and the first `limit` of the others, which are to be run."""
    if not 0 <= train_share < 1:
        raise UserError(f"--train-split {train_share}: it is a share from 0 to below 1")
    if limit is not None and limit < 1:
        raise UserError(f"--requests {limit}: at least 1 must be run")
    if seed < 0:
        raise UserError(f"--seed {seed}: it must not be negative")
    train, test = split(requests, train_share, np.random.default_rng(seed))
    if not test:
        raise UserError(f"{where}: with --train-split {train_share} none of {len(requests)} requests is left to run")
    return train, test[:limit]


def describe(trace: Trace, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the results depend on."""
    model, hardware = setting.model, setting.hardware
    return {
        "simulated": not isinstance(setting.hardware, Devices),
        "trace": trace.path.name,
        "trace_kind": trace.meta.kind,
        "trace_model": trace.shape.name,
        "trace_digest": trace.digest,
        "policies": list(dict.fromkeys(args.policy)),
        "train_split": args.train_split,
        "requests": args.requests,
        "model": {name: getattr(model, name) for name in model.__slots__},
        "hardware": hardware.name,
        "gpus": hardware.gpus,
        "profile_sha256": hardware.sha256 if isinstance(hardware, Profile) else None,
        "cache_experts": setting.cache_experts,
        "batch_size": setting.batch_size,
        "placement": setting.placement,
        "replicas": setting.replicas,
        "seed": setting.seed,
        "check": setting.check,
        "detail": args.detail,
    }


def heading(trace: Trace, setting: Setting, requests: int) -> str:
    """Two lines that say what the times stand for."""
    model, hardware = setting.model, setting.hardware
    total, room = model.total_experts, _size(setting.cache_experts * model.expert_bytes)
    if isinstance(hardware, Hardware):
        room += f" of their {hardware.gpus * hardware.gpu.memory_bytes / 1e9:.0f} GB"
    if isinstance(hardware, Devices):
        kind = provenance.label(trace.meta.kind)
        what = f"Measured, not simulated: {requests} requests of {trace.path.name} ({kind}) by {model.name}"
    else:
        what = (
            f"Simulated, not measured: {requests} requests of {trace.path.name} "
            f"({provenance.routing(trace.meta.kind, trace.shape.name)}) with the sizes of {model.name}"
        )
    return (
        f"{what}\non {told(hardware)}; {'the GPUs' if isinstance(hardware, Hardware) else 'these'} hold "
        f"{setting.cache_experts} of {total} experts ({setting.cache_experts / total:.0%}), {room}; "
        f"all experts have {_size(total * model.expert_bytes)}"
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"


def _told(trace: Trace, requests: Sequence[int], progress: "tqdm[Any]") -> Iterator[RecordedRequest]:
    for recorded in trace.iter(requests):
        yield recorded
        progress.update()
