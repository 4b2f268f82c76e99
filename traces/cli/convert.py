"""`finemoe traces convert FORMAT`: other people's recordings in our format, a function for each."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.commands import OUTPUT, Command, application, under
from common.outputs import new, reserved
from traces.convert.conversion_settings import (
    Beginnings,
    CountsTarget,
    ImportTarget,
    LayerNumbers,
    LogReading,
    PerhapsTracedModel,
    TracedModel,
)

MODEL = Group("Traced model", sort_key=1)
READING = Group("Reading", sort_key=2)

FORMATS = {
    "npz": Command(
        "traces.cli.convert:npz",
        "Arrays of executed experts and their weights.",
        "npz routing.npz --model gpt-oss-20b --out gpt-oss.trace",
    ),
    "jsonl": Command(
        "traces.cli.convert:jsonl",
        "A line per token and layer, token, or response: route logs of vLLM and alike.",
        "jsonl routes.jsonl --model qwen1.5-moe-a2.7b --index pass --warmup-passes 1 --out vllm.trace",
    ),
    "policylang": Command(
        "traces.cli.convert:policylang",
        "What moe-policylang's recorder wrote, .jsonl or .parquet.",
        "policylang trace.parquet --model mixtral-8x7b --out policylang.trace",
    ),
    "route-trace": Command(
        "traces.cli.convert:route_trace",
        "What BigMoeOnEdge measured: routing, and the hits of its own cache.",
        "route-trace gemma.route.csv --out gemma.trace",
    ),
    "store": Command(
        "traces.cli.convert:store",
        "The expert-map store of FineMoE's authors, for `sim run --history`.",
        "store states/qwen~traj~1000.npy --model qwen1.5-moe-a2.7b --out store.trace",
    ),
    "counts": Command(
        "traces.cli.convert:counts",
        "How often each expert was used (SGLang, vLLM), for `sim run --counts`.",
        "counts expert_distribution_recorder_1.pt --model qwen1.5-moe-a2.7b --out counts.parquet",
    ),
}
app = application(
    "finemoe traces convert",
    "Make a trace of somebody else's recording.",
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
    beginnings: Annotated[Beginnings, under(OUTPUT)] = Beginnings(),
    target: Target,
) -> None:
    """Make a trace of the arrays experts, probs, offsets, token and source.

    Parameters
    ----------
    source
        The file routing.npz, or the folder that holds it.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.convert.npz import convert_npz

        print(convert_npz(source, model.sizes(), target, max_tokens=beginnings.max_tokens))


def jsonl(
    source: Path,
    /,
    *,
    model: Model,
    how: Annotated[LogReading, under(READING)] = LogReading(),
    target: Target,
) -> None:
    """Make a trace of a route log.

    Parameters
    ----------
    source
        The rows as JSON Lines, those of each request together.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.convert.jsonl import convert_jsonl

        print(convert_jsonl(source, model.sizes(), target, how))


def policylang(source: Path, /, *, model: Model, numbers: Numbers = LayerNumbers(), target: Target) -> None:
    """Make a trace of what moe-policylang recorded.

    Parameters
    ----------
    source
        FILE.jsonl or FILE.parquet.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.convert.policylang import convert_policylang

        print(convert_policylang(source, model.sizes(), target, numbers.first_layer))


def route_trace(
    source: Path,
    /,
    *,
    model: Annotated[PerhapsTracedModel, under(MODEL)] = PerhapsTracedModel(),
    target: Target,
) -> None:
    """Make a trace of a route trace of BigMoeOnEdge, and say how often the engine's own cache hit.

    Parameters
    ----------
    source
        FILE.csv, as the engine wrote it with --route-trace.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
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
    """Make a trace to learn from of an expert-map store.

    Parameters
    ----------
    source
        NAME~traj~C.npy, or NAME.npz with the arrays maps and embeds.
    embeddings
        The embeddings, if they are not beside it as NAME~embed~C.npy.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
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
    """Make a table of how often each expert was used.

    Parameters
    ----------
    source
        A .pt of SGLang, or counts as .npy, .npz or .json.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.convert.count_dumps import convert_counts

        print(convert_counts(source, model.sizes(), target, first_layer=numbers.first_layer))
