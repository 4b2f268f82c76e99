"""`python -m traces synthetic`: draw a trace from stated statistics, or from those of another trace."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from common.commands import add_writing_arguments
from common.errors import UserError
from policies.types import ModelShape
from traces.format import provenance
from traces.format.reader import Trace
from traces.published_models import PUBLISHED, published
from traces.synthetic.coefficients import PHRASES, Calibration, calibrate
from traces.synthetic.drawn_trace import Lengths, generate
from traces.synthetic.measured_statistics import Measured, measure
from traces.synthetic.parameters import Parameters, PerLayer, Statistics
from traces.synthetic.trajectory_search import DISTANCE, MAPS
from traces.workloads.arrivals import sample
from traces.workloads.workload_files import read_workload

_REACHED = 0.02  # how near a statistic that was asked for must come, entropy relative to its maximum
_OWN = {"layers": 32, "experts": 8, "top_k": 2, "hidden": 64, "vocab": 32000}
_TOLD = {
    "entropy_bits": "entropy of a decode iteration [bits]",
    "overlap": "overlap with the iteration before",
    "request_overlap": "overlap within a request, far away",
    "cluster_overlap": "overlap between requests of a cluster",
    "token_overlap": "overlap between requests at the same token",
    "load_cv": "load of experts, coefficient of variation",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces synthetic`."""
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.trace", help="the trace to write")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="TRACE",
        help="take shape, lengths, columns and every statistic that is not given from this trace",
    )
    shape = parser.add_argument_group("shape (default: that of --like)")
    shape.add_argument("--model", help=f"of a published model: {', '.join(PUBLISHED)}")
    for name, size in _OWN.items():
        shape.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"(default: {size})")
    drawn = parser.add_argument_group(
        "statistics", "X for all layers, or one X per layer with commas; overlaps are shares of the executed experts"
    )
    drawn.add_argument("--entropy", metavar="BITS", help="mean entropy of single decode iterations (0.6 · log2 J)")
    drawn.add_argument("--overlap", metavar="X", help="of a decode iteration with the one before (chance + 30 %%)")
    drawn.add_argument(
        "--request-overlap", metavar="X", help="of iterations of one request and topic, far apart (chance + 22 %%)"
    )
    drawn.add_argument(
        "--cluster-overlap", metavar="X", help="of iterations of two requests of a cluster (chance + 15 %%)"
    )
    drawn.add_argument(
        "--token-overlap", metavar="X", help="of iterations of two requests with the same token (chance + 45 %%)"
    )
    drawn.add_argument(
        "--trajectory-recall",
        type=float,
        metavar="X",
        help=f"executed experts in the top K of the nearest map, {DISTANCE} layers ahead, among {MAPS:,} of other "
        f"requests and those before in the request (what {PHRASES} phrases of tokens in each cluster give)",
    )
    drawn.add_argument("--load-cv", metavar="X", help="popularity of experts: standard deviation / mean of load (0.3)")
    drawn.add_argument("--clusters", type=int, metavar="N", help="semantic clusters, one per request (16)")
    drawn.add_argument(
        "--topic-change", type=float, default=0.0, metavar="P", help="chance per iteration to change the cluster (0)"
    )
    drawn.add_argument(
        "--drift",
        type=float,
        default=0.0,
        metavar="D",
        help="what all favour moves until, in the last request, it correlates by 1 − D with the first's (0)",
    )
    drawn.add_argument(
        "--token-similarity", type=float, default=0.6, metavar="X", help="cosine of embeddings within a cluster (0.6)"
    )
    drawn.add_argument("--lookahead", metavar="1,3", help="also what routers so many layers ahead seem to say")
    drawn.add_argument("--lookahead-recall", type=float, metavar="X", help="executed experts in its top K (0.8)")
    drawn.add_argument("--seed", type=int, default=0, metavar="S", help="of all draws (default: %(default)s)")
    drawn.add_argument("--no-prefill", action="store_true", help="decode iterations only")
    drawn.add_argument("--no-embeddings", action="store_true", help="no embeddings of tokens")
    sizes = parser.add_argument_group("lengths (default: those of --like, each once)")
    sizes.add_argument("--requests", type=int, metavar="N", help="(default: 100)")
    sizes.add_argument("--prompt-tokens", type=int, metavar="N", help="of every request (default: 64)")
    sizes.add_argument("--output-tokens", type=int, metavar="N", help="of every request (default: 128)")
    sizes.add_argument("--workload", type=Path, metavar="FILE", help="lengths and arrivals; as of `traces fit`")
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, and say what was asked for and what came out."""
    if args.out.exists() and not args.overwrite:  # said now, not after the fit
        raise UserError(f"{args.out} exists already; overwrite to replace it")
    source = Trace.open(args.like) if args.like else None
    lengths = lengths_of(args, source)
    fitted = measure(source, _watch("fit", "request"), seed=0) if source else None
    parameters = parameters_of(args, source, fitted)
    calibration = calibrate(parameters, round(float(np.mean(lengths.output_tokens))), _watch("calibrate", "layer"))
    _refuse_unreachable(args, parameters, calibration)
    told = {"like": source.path.name, "like_sha256": source.digest} if source else {}
    out = generate(
        parameters, calibration, lengths, args.out, told=told, restart=args.restart, overwrite=args.overwrite
    )
    found = measure(Trace.open(out), _watch("measure", "request"))
    print(report(out, parameters, calibration, found, fitted))
    return 0


def parameters_of(args: argparse.Namespace, source: Trace | None, fitted: Measured | None) -> Parameters:
    """What the arguments say, else what was fitted, else the defaults."""
    shape = _shape(args, source)
    chance = shape.top_k / shape.experts
    usual = {
        "entropy_bits": 0.6 * float(np.log2(shape.experts)),
        **{name: chance + part * (1 - chance) for name, part in _USUAL_OVERLAPS.items()},
        "load_cv": min(0.3, float(np.sqrt(1 / chance - 1))),
    }
    known = {name: getattr(fitted.statistics, name) if fitted else (usual[name],) * shape.layers for name in usual} | {
        name: _per_layer(args, name, shape.layers) for name in usual if _given(args, name) is not None
    }
    clusters = args.clusters if args.clusters is not None else fitted.clusters if fitted else 16
    if clusters == 1 and args.cluster_overlap is not None:
        raise UserError(f"--cluster-overlap {args.cluster_overlap}: with one cluster --load-cv alone decides it")
    meta = source.meta if source else None
    recall = args.trajectory_recall
    if recall is None and fitted:
        recall = fitted.trajectory_recall
    return Parameters(
        shape=shape,
        statistics=Statistics(**known),
        clusters=clusters,
        topic_change=args.topic_change,
        drift=args.drift,
        token_similarity=args.token_similarity,
        trajectory_recall=recall,
        lookahead=_lookahead(args, shape, fitted),
        gate_complete=meta.gate_complete if meta else True,
        prefill=not args.no_prefill and (meta is None or meta.prefill),
        embedding=not args.no_embeddings and (meta is None or meta.embedding),
        seed=args.seed,
    )


_USUAL_OVERLAPS = {
    "overlap": 0.30,
    "request_overlap": 0.22,
    "cluster_overlap": 0.15,
    "token_overlap": 0.45,
}  # of what is above chance


def lengths_of(args: argparse.Namespace, source: Trace | None) -> Lengths:
    """Of the workload, of the trace that this one is like, or constant; a constant that is given goes before."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: it must not be negative")
    for name in ("requests", "prompt_tokens", "output_tokens"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: it must be positive")
    rng = np.random.default_rng(args.seed)
    if args.workload:
        found = Lengths.of_workload(sample(read_workload(args.workload), rng, requests=args.requests))
    elif source:
        found = Lengths.of_trace(source, args.requests, rng)
    else:
        found = Lengths.constant(args.requests or 100, 64, 128)
    if args.prompt_tokens is not None:
        found = replace(found, prompt_tokens=np.full(len(found), args.prompt_tokens))
    if args.output_tokens is not None:
        found = replace(found, output_tokens=np.full(len(found), args.output_tokens))
    return found


def report(
    out: Path, parameters: Parameters, calibration: Calibration, found: Measured, fitted: Measured | None
) -> str:
    """What was asked for, what the model gives, and what the trace has."""
    columns = [parameters.statistics.mean(), calibration.expected.mean(), found.statistics.mean()]
    rows: list[list[Any]] = [[told, *(f"{one[name]:.3f}" for one in columns)] for name, told in _TOLD.items()]
    rows.append(["clusters", parameters.clusters, "", found.clusters])
    if calibration.trajectory_recall is not None:
        recalls = [parameters.trajectory_recall, calibration.trajectory_recall, found.trajectory_recall]
        told = f"recall of the nearest map, {DISTANCE} layers ahead"
        rows.append([told, *("" if one is None else f"{one:.3f}" for one in recalls)])
    for distance, recall in parameters.lookahead.items():
        reached = [recall, calibration.lookahead[distance], found.lookahead[distance]]
        rows.append([f"lookahead {distance}: recall of its top K", *(f"{one:.3f}" for one in reached)])
    table = tabulate(rows, ["mean over layers", "asked", "model", "measured"], disable_numparse=True, colalign=_ALIGNED)
    lines = [f"{out} ({provenance.explained('synthetic')}), in the shape of {parameters.shape.name}", table]
    if found.clusters != parameters.clusters:
        lines.append(
            "Measured: clusters are sought anew, among whole requests; too few requests, or changes of topic, hide "
            "them, and then the overlap within one is that of others."
        )
    if fitted:
        clear = "too few requests to look for clusters" if fitted.silhouette is None else f"{fitted.silhouette:.2f}"
        lines.append(
            "Asked: as measured of the other trace, where nothing else was said (silhouette of its clusters: "
            f"{clear}). Not fitted: changes of topic, drift, embeddings."
        )
    if not parameters.gate_complete:
        lines.append("Gates and their entropy are of the executed experts alone, as in the other trace.")
    if parameters.drift or parameters.topic_change:
        lines.append("Asked and model are of one moment and topic; what moves is measured with the rest.")
    return "\n\n".join(lines)


_ALIGNED = ("left", "right", "right", "right")


def _refuse_unreachable(args: argparse.Namespace, parameters: Parameters, calibration: Calibration) -> None:
    """A statistic that was given must come out, or its mistake be told before anything is written."""
    for one in fields(Statistics):
        asked, got = (np.array(getattr(which, one.name)) for which in (parameters.statistics, calibration.expected))
        scale = np.log2(parameters.shape.experts) if one.name == "entropy_bits" else 1
        layer = int(np.abs(asked - got).argmax())
        if one.name == "cluster_overlap" and parameters.clusters == 1:
            continue
        if _given(args, one.name) is not None and abs(asked[layer] - got[layer]) > _REACHED * scale:
            raise UserError(
                f"--{_option(one.name)} {asked[layer]:g}: in layer {layer} nothing nearer than {got[layer]:.3f} goes "
                "with the other statistics; overlaps must rise from --cluster-overlap to --request-overlap, and "
                "--load-cv alone raises all of them"
            )

    recall, reached = args.trajectory_recall, calibration.trajectory_recall
    if recall is not None and reached is not None and abs(recall - reached) > _REACHED:
        raise UserError(
            f"--trajectory-recall {recall:g}: nothing nearer than {reached:.3f} goes with the other statistics; it "
            "must lie between --cluster-overlap and --token-overlap"
        )


def _option(name: str) -> str:
    return name.removesuffix("_bits").replace("_", "-")


def _given(args: argparse.Namespace, name: str) -> str | None:
    value: str | None = getattr(args, name.removesuffix("_bits"))
    return value


def _per_layer(args: argparse.Namespace, name: str, layers: int) -> PerLayer:
    text = _given(args, name) or ""
    try:
        values = tuple(float(one) for one in text.split(","))
    except ValueError:
        raise UserError(f"--{_option(name)} {text}: it must be a number, or numbers with commas") from None
    return values * layers if len(values) == 1 else values


def _shape(args: argparse.Namespace, source: Trace | None) -> ModelShape:
    own = {name: getattr(args, name) for name in _OWN if getattr(args, name) is not None}
    for name, size in own.items():
        if size < 1:
            raise UserError(f"--{_option(name)} {size}: it must be positive")
    if args.model and source:
        raise UserError(f"--model {args.model}: --like gives the shape")
    base = published(args.model) if args.model else source.shape if source else None
    if base:
        for name, size in own.items():
            if name != "layers" or source:
                raise UserError(f"--{_option(name)} {size}: {base.name} has {getattr(base, name)}")
        return replace(base, **own)
    sizes = _OWN | own
    if sizes["top_k"] > sizes["experts"]:
        raise UserError(f"--top-k {sizes['top_k']}: there are {sizes['experts']} experts")
    head = min(64, sizes["hidden"])
    heads = max(1, sizes["hidden"] // 64)
    rest = {"expert_ffn": 4 * sizes["hidden"], "attention_heads": heads, "kv_heads": heads, "head_dim": head}
    return ModelShape(name=f"{sizes['layers']}x{sizes['experts']}-top{sizes['top_k']}", **sizes, **rest)


def _lookahead(args: argparse.Namespace, shape: ModelShape, fitted: Measured | None) -> dict[int, float]:
    """Recall by distance."""
    known = fitted.lookahead if fitted else {}
    if args.lookahead is not None:
        try:
            distances = sorted({int(one) for one in args.lookahead.split(",")})
        except ValueError:
            distances = []
        if not distances or not 0 < distances[0] <= distances[-1] < shape.layers:
            raise UserError(f"--lookahead {args.lookahead}: distances are whole numbers from 1 to {shape.layers - 1}")
        usual = max(0.8, shape.top_k / shape.experts)
        known = {distance: known.get(distance, usual) for distance in distances}
    if args.lookahead_recall is None:
        return known
    if not known:
        raise UserError(f"--lookahead-recall {args.lookahead_recall:g}: of which distance? --lookahead names it")
    return dict.fromkeys(known, args.lookahead_recall)


def _watch(what: str, unit: str) -> Callable[[Sequence[int]], Iterable[int]]:
    def bar(items: Sequence[int]) -> Iterator[int]:
        yield from tqdm(items, desc=what, unit=unit, file=sys.stderr, disable=None, leave=False)

    return bar
