"""Small traces to test with, and ways to break them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from policies.types import ModelShape, RecordedRequest
from traces.format.schema import RequestInfo, TraceMeta
from traces.format.writer import TraceWriter

Pair = tuple[RequestInfo, RecordedRequest]


def small_shape(**changes: Any) -> ModelShape:
    sizes = {"layers": 3, "experts": 6, "top_k": 2, "hidden": 4, "vocab": 40}
    rest = {"expert_ffn": 8, "attention_heads": 1, "kv_heads": 1, "head_dim": 4}
    return ModelShape(name="small", **(sizes | rest | changes))


def small_meta(**changes: Any) -> TraceMeta:
    known = {"kind": "synthetic", "model": "small", "shape": small_shape(), "embedding": True, "lookahead": (1,)}
    return TraceMeta(**(known | changes))


def random_request(request: int, meta: TraceMeta, seed: int = 0, prompt: int = 5, output: int = 4) -> Pair:
    """A legal request: a prefill of `prompt` tokens if the trace has one, and `output` iterations in all."""
    rng, shape = np.random.default_rng([seed, request]), meta.shape
    decode = output - 1 if meta.prefill else output
    iteration = [0] * (prompt if meta.prefill else 0) + [i + meta.first_iteration for i in range(output)][
        -decode or output :
    ]
    rows = len(iteration)
    experts = np.argsort(rng.random((rows, shape.layers, shape.experts)), axis=2)[:, :, : shape.top_k]
    gate = distributions(rng, (rows, shape.layers, shape.experts))
    if not meta.gate_complete:
        gate[:] = 0
        np.put_along_axis(gate, experts, distributions(rng, experts.shape), axis=2)
    residency = rng.integers(0, 3, experts.shape)
    if not meta.all_executed:  # all but the last token of an iteration may pass layers by; some experts are dropped
        skipped = rng.random((rows, shape.layers)) < 0.5
        skipped[:, 0] = skipped[np.flatnonzero(np.diff(iteration, append=-1))] = False
        gate[skipped] = 0
        experts[skipped] = -1
        residency[skipped] = -1
    lookahead = {}
    for distance in meta.lookahead:
        lookahead[distance] = distributions(rng, gate.shape)
        lookahead[distance][:, shape.layers - distance :] = 0
    token = rng.integers(0, shape.vocab, rows)
    recorded = RecordedRequest(
        request=request,
        source=f"source {request % 3}",
        iteration=np.array(iteration, np.int32),
        position=np.arange(rows, dtype=np.int32),
        token=token.astype(np.int32),
        gate=gate,
        experts=experts.astype(np.int16),
        embedding=embedding_layer(shape)[token] if meta.embedding else None,
        lookahead=lookahead,
        residency=residency.astype(np.int8) if meta.residency else None,
    )
    info = RequestInfo(
        request=request,
        source=recorded.source,
        split=[None, "train", "test"][request % 3],
        arrival_s=None if request % 2 else request / 7,
        prompt_tokens=prompt if meta.prefill else None,
        output_tokens=output,
        prompt_sha256="ab" * 32 if request % 2 else None,
        prompt=f"Frage {request}: ¿qué?" if meta.prompt_text and request % 2 else None,
    )
    return info, recorded


def distributions(rng: np.random.Generator, size: tuple[int, ...]) -> Any:
    values = rng.random(size) + 0.01
    return (values / values.sum(axis=-1, keepdims=True)).astype(np.float16)


def embedding_layer(shape: ModelShape) -> Any:
    return np.random.default_rng(9).normal(size=(shape.vocab, shape.hidden)).astype(np.float16)


def write_trace(path: Path, meta: TraceMeta, parts: Sequence[Sequence[Pair]], **options: Any) -> Path:
    """Write or resume a trace of which each part holds the given requests."""
    with TraceWriter(path, meta, plan=PLAN, **options) as writer:
        for number, part in enumerate(parts):
            if number not in writer.finished:
                writer.write_part(number, [info for info, _ in part], [recorded for _, recorded in part])
        return writer.finish()


PLAN = {"prompts": "none", "batch": 2}


def small_trace(path: Path, requests: int = 4, **changes: Any) -> Path:
    meta = small_meta(**changes)
    return write_trace(path, meta, [[random_request(request, meta) for request in range(requests)]])


def content(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def assert_same(found: RecordedRequest, expected: RecordedRequest) -> None:
    assert (found.request, found.source) == (expected.request, expected.source)
    for name in ("iteration", "position", "token", "gate", "experts", "embedding", "residency"):
        one, other = getattr(found, name), getattr(expected, name)
        if other is None:
            assert one is None
        else:
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert found.lookahead.keys() == expected.lookahead.keys()
    for distance, gate in expected.lookahead.items():
        assert found.lookahead[distance].dtype == np.float16
        np.testing.assert_array_equal(found.lookahead[distance], gate)


def change_values(path: Path, file: str, column: str, change: Callable[[Any], None], rehash: bool = True) -> None:
    """Let `change` edit a column `[rows, …]` in place; everything else, the hashes too, stays right."""
    source = pq.ParquetFile(path / file)
    groups = [source.read_row_group(group) for group in range(source.num_row_groups)]
    schema, table = source.schema_arrow, pa.concat_tables(groups)
    kind = schema.field(column).type
    if pa.types.is_fixed_size_list(kind):
        flat = table.column(column).combine_chunks().flatten().to_numpy().copy()
        change(flat.reshape(table.num_rows, -1))
        array = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    else:
        values = table.column(column).to_pylist()
        change(values)
        array = pa.array(values, kind)
    table = table.set_column(schema.get_field_index(column), schema.field(column), array)
    start = 0
    with pq.ParquetWriter(path / file, schema, compression="zstd") as sink:
        for group in groups:
            sink.write_table(table.slice(start, group.num_rows), row_group_size=max(1, group.num_rows))
            start += group.num_rows
    if rehash:
        fix_hashes(path)


def change_meta(path: Path, change: Callable[[dict[str, Any]], None], rehash: bool = True) -> None:
    meta = json.loads((path / "meta.json").read_text())
    change(meta)
    (path / "meta.json").write_text(json.dumps(meta))
    if rehash:
        fix_own_hash(path)


def fix_hashes(path: Path) -> None:
    """Make sizes and hashes those of the files as they are."""

    def measure(meta: dict[str, Any]) -> None:
        for name in meta["files"]:
            data = (path / name).read_bytes()
            meta["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    change_meta(path, measure)


def fix_own_hash(path: Path) -> None:
    """Make the description's own hash right; written here anew, not with the project's own code."""
    meta = json.loads((path / "meta.json").read_text())
    body = {key: value for key, value in meta.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    meta["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "meta.json").write_text(json.dumps(meta))
