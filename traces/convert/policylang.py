"""Convert recordings of moe-policylang.

The format follows `TraceRecording.save_jsonl` and `save_parquet` of moe-policylang 1.15.0 (PyPI), read but not copied.
JSONL has a header with `num_experts`, `top_k` and more. Then follow, per prompt, token and layer, `p`, `t`, `l`, `e`
(experts), `s` (the top-k probabilities) and optionally `sm` (softmax over all), `ti` (token id) and `ph` (prefill or
decode). Parquet has the same entries under their full names and no header. The recorder writes a pass layer by layer,
so a prefill of several tokens is recognised without `ph`. It uses the model's own layer numbers: if dense layers come
first, `first_layer` is their number.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from policies.types import ModelShape
from traces.convert.assembled_trace import write_rows
from traces.convert.conversion_settings import ImportTarget
from traces.convert.imported_trace import (
    json_objects,
    sha256_of,
)
from traces.convert.routing_row import Row
from traces.convert.row_assembly import Assembler
from traces.format.schema import TraceError
from traces.format.storage import ABSENT, reading

JSONL = {
    "request": "p",
    "position": "t",
    "layer": "l",
    "experts": "e",
    "weights": "s",
    "gate": "sm",
    "token": "ti",
    "phase": "ph",
}
PARQUET = {
    "request": "prompt_id",
    "position": "token_idx",
    "layer": "layer_idx",
    "experts": "selected_experts",
    "weights": "router_scores",
    "gate": "router_softmax",
    "token": "token_id",
    "phase": "phase",
}
_NEEDED = ("request", "position", "layer", "experts")
_BATCH = 1024  # rows of a Parquet file read at once


def convert_policylang(file: Path, shape: ModelShape, target: ImportTarget, first_layer: int = 0) -> Path:
    """Convert a recording, with one prompt at a time in memory."""
    digest = sha256_of(file)
    parquet = file.suffix.lower() == ".parquet"
    names, unit = (PARQUET, "row") if parquet else (JSONL, "line")
    rows = _rows(file, _parquet(file) if parquet else _jsonl(file, shape), names, unit, first_layer)
    plan = {"convert": "policylang", "sha256": digest, "first_layer": first_layer}
    notes = [f"converted from moe-policylang's {file.name}, SHA-256 {digest}"]
    return write_rows(rows, Assembler(file, shape, names=names, unit=unit), target, notes, plan)


def _rows(
    file: Path, entries: Iterator[tuple[int, dict[str, Any]]], names: Mapping[str, str], unit: str, first_layer: int
) -> Iterator[Row]:
    for number, entry in entries:
        for name in _NEEDED:
            if entry.get(names[name]) is None:
                raise TraceError.at(f"{file}: {unit} {number}, field {names[name]}", "is missing")
        row = Row(line=number, **{name: entry.get(key) for name, key in names.items()})
        if type(row.layer) is int:
            row.layer -= first_layer
        yield row


def _jsonl(file: Path, shape: ModelShape) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = {"num_experts": shape.experts, "top_k": shape.top_k}
    for number, entry in json_objects(file):
        if number > 1:
            yield number, entry
            continue
        for key, value in wanted.items():
            if entry.get(key) != value:
                what = f"must be {value} for {shape.name}"
                raise TraceError.at(f"{file}: line 1, field {key}", what, value=entry.get(key))


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each row; rows count from 0, as everywhere in Parquet."""
    with reading(file, ABSENT), pq.ParquetFile(file, memory_map=False, pre_buffer=False) as table:
        columns = [name for name in PARQUET.values() if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(_BATCH, columns=columns, use_threads=False):
            for entry in batch.to_pylist():
                yield number, entry
                number += 1
