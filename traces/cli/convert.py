"""`finemoe traces convert FORMAT`: convert recordings of other tools to traces, one function per format."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, application, under
from common.listed_command import Command
from common.outputs import reserved, table
from traces.convert.conversion_settings import (
    CountsTarget,
    ImportTarget,
    LayerNumbers,
    LogReading,
    OptionalTracedModel,
    RequestPart,
    TracedModel,
)

MODEL = Group("Traced model", sort_key=1)
READING = Group("Reading", sort_key=2)

FORMATS = {
    "npz": Command(
        "traces.cli.convert:npz",
        "NumPy arrays of executed experts and their weights.",
        "npz routing.npz --model gpt-oss-20b --out gpt-oss.trace",
    ),
    "jsonl": Command(
        "traces.cli.convert:jsonl",
        "Route logs of vLLM and similar: one line per token and layer, per token, or per response.",
        "jsonl routes.jsonl --model qwen1.5-moe-a2.7b --index pass --warmup-passes 1 --out vllm.trace",
    ),
    "policylang": Command(
        "traces.cli.convert:policylang",
        "Recordings of moe-policylang, .jsonl or .parquet.",
        "policylang trace.parquet --model mixtral-8x7b --out policylang.trace",
    ),
    "route-trace": Command(
        "traces.cli.convert:route_trace",
        "Route traces of BigMoeOnEdge: routing, and the hits of its own cache.",
        "route-trace gemma.route.csv --out gemma.trace",
    ),
    "store": Command(
        "traces.cli.convert:store",
        "The expert-map store of FineMoE's authors, for `finemoe sim run --history`.",
        "store states/qwen~traj~1000.npy --model qwen1.5-moe-a2.7b --out store.trace",
    ),
    "counts": Command(
        "traces.cli.convert:counts",
        "How often each expert was used (SGLang, vLLM), for `finemoe sim run --counts`.",
        "counts expert_distribution_recorder_1.pt --model qwen1.5-moe-a2.7b --out counts.parquet",
    ),
}
app = application(
    "finemoe traces convert",
    "Convert a recording made by another tool to a trace.",
    FORMATS,
    example="npz routing.npz --model gpt-oss-20b --out gpt-oss.trace",
    nested=True,
)

Model = Annotated[TracedModel, under(MODEL)]
Numbers = Annotated[LayerNumbers, under(READING)]
Target = Annotated[ImportTarget, under(OUTPUT)]


def npz(
    source: Path,
    /,
    *,
    model: Model,
    part: Annotated[RequestPart, under(OUTPUT)] = RequestPart(),
    target: Target,
) -> None:
    """Convert the NumPy arrays experts, probs, offsets, token and source.

    Parameters
    ----------
    source
        The file routing.npz, or the folder that contains it.
    """
    with target.reserved(source):
        from traces.convert.npz import convert_npz

        print(convert_npz(source, model.sizes(), target, max_tokens=part.max_tokens))


def jsonl(
    source: Path,
    /,
    *,
    model: Model,
    how: Annotated[LogReading, under(READING)] = LogReading(),
    target: Target,
) -> None:
    """Convert a route log: one line per token and layer, per token, or per response.

    Parameters
    ----------
    source
        JSON Lines; the rows of a request must be adjacent.
    """
    with target.reserved(source):
        from traces.convert.jsonl import convert_jsonl

        print(convert_jsonl(source, model.sizes(), target, how))


def policylang(source: Path, /, *, model: Model, numbers: Numbers = LayerNumbers(), target: Target) -> None:
    """Convert a recording of moe-policylang.

    Parameters
    ----------
    source
        FILE.jsonl or FILE.parquet.
    """
    with target.reserved(source):
        from traces.convert.policylang import convert_policylang

        print(convert_policylang(source, model.sizes(), target, numbers.first_layer))


def route_trace(
    source: Path,
    /,
    *,
    model: Annotated[OptionalTracedModel, under(MODEL)] = OptionalTracedModel(),
    target: Target,
) -> None:
    """Convert a route trace of BigMoeOnEdge, and print the hit rate of the engine's own cache.

    Parameters
    ----------
    source
        FILE.csv that the engine wrote with its option --route-trace.
    """
    with target.reserved(source):
        from traces.convert.route_trace import convert_route_trace
        from traces.format.reader import Trace
        from traces.format.recorded_hits import described, recorded_hits

        out = convert_route_trace(source, model, target)
        print(out)
        print(f"the engine's own cache: {described(recorded_hits(Trace.open(out)))}")


def store(
    source: Path,
    /,
    *,
    model: Model,
    embeddings: Annotated[Path | None, Parameter(group=READING)] = None,
    target: Target,
) -> None:
    """Convert an expert-map store to a trace that policies learn from (`finemoe sim run --history`).

    Parameters
    ----------
    source
        NAME~traj~C.npy, or NAME.npz with the arrays maps and embeds.
    embeddings
        File of the embeddings, if it is not NAME~embed~C.npy in the same folder.
    """
    with target.reserved(source):
        from traces.convert.authors_store import convert_store

        print(convert_store(source, embeddings, model.sizes(), target))


def counts(
    source: Path,
    /,
    *,
    model: Model,
    numbers: Numbers = LayerNumbers(),
    target: Annotated[CountsTarget, under(OUTPUT)],
) -> None:
    """Convert counts of how often each expert was used to a table.

    Parameters
    ----------
    source
        A .pt file of SGLang, or counts as .npy, .npz or .json.
    """
    with reserved(table(target.out, "layer", "expert", "tokens"), overwrite=target.overwrite, inputs=[source]):
        from traces.convert.count_dumps import convert_counts

        print(convert_counts(source, model.sizes(), target, first_layer=numbers.first_layer))
