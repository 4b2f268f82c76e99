"""Summary of a trace, as JSON and as a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from common.folding import WIDTH, folded
from common.tables import name_table
from policies.types import ModelShape
from traces.format import provenance
from traces.format.reader import Trace
from traces.format.recorded_hits import RecordedHits, described, recorded_hits
from traces.format.schema import META


def summary(trace: Trace) -> dict[str, Any]:
    """Counts and sizes of a trace, as plain JSON."""
    meta = trace.meta
    rows = sum(trace.rows_of(request) for request in trace.request_ids)
    iterations = sum(info.output_tokens for info in trace.infos.values())
    decode = iterations - len(trace) if meta.prefill else iterations
    arrivals = [info.arrival_s for info in trace.infos.values() if info.arrival_s is not None]
    return {
        "path": str(trace.path),
        "kind": meta.kind,
        "model": meta.model,
        "shape": meta.to_json()["shape"],
        "requests": len(trace),
        "prefill_tokens": rows - decode,
        "decode_tokens": decode,
        "sources": dict(Counter(info.source for info in trace.infos.values()).most_common()),
        "splits": dict(Counter(info.split for info in trace.infos.values() if info.split is not None)),
        "arrivals": len(arrivals),
        "last_arrival_s": max(arrivals, default=None),
        "columns": meta.columns,
        "file_bytes": {name: (trace.path / name).stat().st_size for name in (META, *meta.schemas)},
        "sha256": trace.digest,
        "recorded_hits": {phase: asdict(found) for phase, found in recorded_hits(trace).items()}
        if meta.residency
        else None,
    } | {name: getattr(meta, name) for name in _DESCRIPTIVE}


_DESCRIPTIVE = (
    "dtype",
    "score",
    "gate_complete",
    "prefill",
    "lookahead",
    "embedding",
    "revision",
    "seed",
    "prompts",
    "generation",
    "versions",
    "license",
    "notes",
)


def table(trace: Trace, more: Sequence[tuple[str, Any]] = ()) -> str:
    """The summary as a table of at most 100 columns, with `more` rows of name and value at the end."""
    found, shape = summary(trace), trace.shape
    sources = list(found["sources"].items())
    shown = ", ".join(f"{name} ({count})" for name, count in sources[:8])
    lines = [
        ("trace", found["path"]),
        ("kind", provenance.explained(found["kind"])),
        ("model", found["model"] + (f" @ {found['revision']}" if found["revision"] else "")),
        (
            "shape",
            f"{shape.layers} layers of {shape.experts} experts, top-{shape.top_k}, hidden {shape.hidden}, "
            f"expert FFN {shape.expert_ffn} ({_expert_size(shape)} an expert)"
            + (f", shared experts of FFN {shape.shared_ffn} in all" if shape.shared_ffn else ""),
        ),
        ("dtype", found["dtype"]),
        ("requests", f"{found['requests']:,}"),
        ("prefill tokens", f"{found['prefill_tokens']:,}" if found["prefill"] else "none: no prefill was recorded"),
        ("decode tokens", f"{found['decode_tokens']:,}"),
        ("sources", shown + (f" and {len(sources) - 8} more" if len(sources) > 8 else "")),
        ("splits", ", ".join(f"{name} ({count})" for name, count in found["splits"].items())),
        ("arrivals", f"{found['arrivals']:,} to {found['last_arrival_s']:.1f} s" if found["arrivals"] else None),
        ("gate", found["score"] + ("" if found["gate_complete"] else ", only at the executed experts")),
        ("engine's cache", _engine(found["recorded_hits"])),
        ("lookahead", ", ".join(f"{distance}" for distance in found["lookahead"]) or "none"),
        ("embeddings", "yes" if found["embedding"] else "none"),
        ("prompts", found["prompts"]),
        ("decoded tokens", provenance.tokens(found["generation"])),
        ("generation", _pairs(found["generation"])),
        ("seed", found["seed"]),
        ("versions", _pairs(found["versions"])),
        ("license", found["license"]),
        ("notes", found["notes"]),
        ("size", ", ".join(f"{name} {_megabytes(size)}" for name, size in found["file_bytes"].items())),
        ("sha256", found["sha256"]),
        *more,
    ]
    there = [(name, str(value)) for name, value in lines if value not in (None, "")]
    room = WIDTH - 2 - max(len(name) for name, _ in there)
    return name_table([(name, value if name == "trace" else folded(value, room)) for name, value in there])


def _pairs(mapping: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in mapping.items())


def _engine(hits: dict[str, Any] | None) -> str | None:
    return described({phase: RecordedHits(**each) for phase, each in hits.items()}) if hits else None


def _expert_size(shape: ModelShape) -> str:
    """Size of an expert, or the range if layers differ."""
    least, most = min(shape.layer_expert_bytes), max(shape.layer_expert_bytes)
    return _megabytes(most) if least == most else f"{_megabytes(least).removesuffix(' MB')} to {_megabytes(most)}"


def _short(value: Any) -> Any:
    """The value; a list of five or more numbers as its range, since one number per layer does not fit on a line."""
    if not isinstance(value, list) or len(value) < 5:
        return value
    return f"{min(value)} … {max(value)} ({len(value)} values)"


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e7 else f"{size_bytes / 1e6:.2g} MB"
