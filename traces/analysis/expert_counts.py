"""A Parquet table of how often each expert was used, for sources that recorded counts but no tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.files import replacing
from common.hashing import canonical_json
from common.parquet import META_KEY, parquet_sink
from policies.types import Int, ModelShape
from traces.analysis.iterations import shares
from traces.format.schema import TraceError
from traces.format.storage import ABSENT, file_info, reading

_COLUMNS = ("layer", "expert", "tokens")


@dataclass(frozen=True, slots=True, eq=False)
class ExpertCounts:
    """Tokens that executed each expert, `[L, J]`, and the SHA-256 of their file."""

    tokens: Int
    sha256: str


def read_counts(file: Path, shape: ModelShape) -> ExpertCounts:
    """Read a table with columns layer, expert and tokens, one row for every expert of the model in any order.

    `finemoe traces convert counts` writes such tables; `finemoe traces analyse` writes one as `popularity.parquet`.
    """
    with reading(file, ABSENT):
        names = pq.read_schema(file).names
        for name in _COLUMNS:
            if name not in names:
                raise TraceError.at(file, "is missing", field=name)
        table = pq.read_table(
            file, columns=list(_COLUMNS), memory_map=False, use_threads=False, page_checksum_verification=True
        )
        layer, expert, tokens = (table.column(name).to_numpy() for name in _COLUMNS)
    rows = len(tokens)
    if not rows:
        raise TraceError.at(file, "has no row")
    for name, values, end in (("layer", layer, shape.layers), ("expert", expert, shape.experts), ("tokens", tokens, 0)):
        if values.dtype.kind not in "iu":
            raise TraceError.at(file, "must be whole numbers", field=name, value=values.dtype)
        outside = (values < 0) | ((values >= end) if end else False)
        if outside.any():
            row = int(np.argmax(outside))
            what = f"must be from 0 to {end - 1} for {shape.name}" if end else "must be at least 0"
            raise TraceError.at(file, what, row=row, field=name, value=values[row])
    number = layer.astype(np.int64) * shape.experts + expert
    if rows != shape.total_experts or len(np.unique(number)) != rows:
        what = f"must have one row for each of the {shape.total_experts} experts of {shape.name}"
        raise TraceError.at(file, what, value=f"{rows} rows for {len(np.unique(number))} experts")
    counts = np.zeros(shape.total_experts, np.int64)
    counts[number] = tokens
    return ExpertCounts(counts.reshape(shape.layers, shape.experts), file_info(file).sha256)


def write_counts(path: Path, counts: Int, meta: Mapping[str, Any]) -> None:
    """Write a table of counts `[L, J]`, with `meta` as JSON in its metadata."""
    layers, experts = counts.shape
    table = pa.table(
        {
            "layer": pa.array(np.repeat(np.arange(layers), experts)),
            "expert": pa.array(np.tile(np.arange(experts), layers)),
            "tokens": pa.array(counts.astype(np.int64).ravel()),
            "token_share": pa.array(shares(counts).ravel()),
        }
    ).replace_schema_metadata({META_KEY: canonical_json(dict(meta))})
    with replacing(path, "the counts") as partial, parquet_sink(partial, table.schema) as sink:
        sink.write_table(table)
