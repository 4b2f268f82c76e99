"""Every way in which a trace can be broken, with the line that must tell it.

Every request of the small traces has 8 rows: a prefill of 5 tokens, then 3 decode steps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.trace_helpers import change_meta, change_values, fix_hashes

Breaker = Callable[[Path], None]


def put(file: str, column: str, row: int, *value: Any) -> Breaker:
    """Overwrite the first numbers of one row, and make the hashes right again."""

    def change(values: Any) -> None:
        if isinstance(values, list):
            values[row] = value[0]
        else:
            values[row, : len(value)] = value

    return lambda path: change_values(path, file, column, change)


def scale_gate(path: Path) -> None:
    def change(values: Any) -> None:
        values[9, :6] *= np.float16(1.02)

    change_values(path, "tokens.parquet", "gate", change)


def truncate(name: str) -> Breaker:
    def run(path: Path) -> None:
        (path / name).write_bytes((path / name).read_bytes()[:-100])
        fix_hashes(path)

    return run


def replace_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Breaker:
    def run(path: Path) -> None:
        pq.write_table(change(pq.read_table(path / name)), path / name)
        fix_hashes(path)

    return run


def meta_with(rehash: bool = True, **values: Any) -> Breaker:
    return lambda path: change_meta(path, lambda meta: meta.update(values), rehash)


def wider_shape(meta: dict[str, Any]) -> None:
    meta["shape"]["experts"] = 7


def as_double(table: pa.Table) -> pa.Table:
    column = pa.array([[float(x) for x in row] for row in table["gate"].to_pylist()], pa.list_(pa.float64(), 18))
    return table.set_column(table.schema.get_field_index("gate"), "gate", column)


def beyond(values: Any) -> None:
    values[4, 12] = 0.5


def wrong_counts(path: Path) -> None:
    """One prompt token fewer and one iteration more, so that the number of rows still agrees."""
    put("requests.parquet", "output_tokens", 1, 5)(path)
    put("requests.parquet", "prompt_tokens", 1, 4)(path)


def meta_text(text: str) -> Breaker:
    def run(path: Path) -> None:
        (path / "meta.json").write_text(text)

    return run


def missing(name: str) -> Breaker:
    return lambda path: (path / name).unlink()


BROKEN: dict[str, tuple[Breaker, str]] = {
    "nan": (
        put("tokens.parquet", "gate", 9, np.nan),
        r"tokens.parquet: row 9, layer 0, field gate: must be finite, not nan",
    ),
    "infinity": (
        put("tokens.parquet", "gate", 9, np.inf),
        r"tokens.parquet: row 9, layer 0, field gate: must be finite, not inf",
    ),
    "sum": (scale_gate, r"tokens.parquet: row 9, layer 0, field gate: must sum to 1 within 0.005, not 1.0\d+"),
    "negative": (
        put("tokens.parquet", "gate", 9, -0.5, 1.5, 0, 0, 0, 0),
        r"tokens.parquet: row 9, layer 0, field gate: must be at least 0, not -0.5",
    ),
    "lookahead": (
        put("tokens.parquet", "lookahead_1", 4, 0.9),
        r"tokens.parquet: row 4, layer 0, field lookahead_1: must sum to 1",
    ),
    "beyond": (
        lambda path: change_values(path, "tokens.parquet", "lookahead_1", beyond),
        r"row 4, layer 2, field lookahead_1: must be 0 where the target is beyond the last layer, not 0.5",
    ),
    "expert range": (
        put("tokens.parquet", "experts", 17, 6),
        r"tokens.parquet: row 17, layer 0, field experts: must be from 0 to 5, not 6",
    ),
    "expert twice": (
        put("tokens.parquet", "experts", 17, 3, 3),
        r"tokens.parquet: row 17, layer 0, field experts: must be distinct, not \[3, 3\]",
    ),
    "token": (
        put("tokens.parquet", "token", 30, 40),
        r"tokens.parquet: row 30, field token: must be from 0 to 39, not 40",
    ),
    "position": (
        put("tokens.parquet", "position", 30, 0),
        r"tokens.parquet: row 30, field position: must be greater than in the row before, not 0",
    ),
    "start": (
        put("tokens.parquet", "iteration", 8, 1),
        r"tokens.parquet: row 8, field iteration: must start at 0, not 1",
    ),
    "gap": (
        put("tokens.parquet", "iteration", 15, 4),
        r"tokens.parquet: row 15, field iteration: must be the same as in the row before, or one higher, not 4",
    ),
    "two rows": (
        put("tokens.parquet", "iteration", 14, 1),
        r"tokens.parquet: row 14, field iteration: must be one higher than in the decode row before, not 1",
    ),
    "owner": (put("tokens.parquet", "request", 12, 0), r"tokens.parquet: row 12, field request: must be 1, not 0"),
    "output tokens": (
        put("requests.parquet", "output_tokens", 1, 5),
        r"tokens.parquet: row 8, field request: request 1 must have 9 rows according to requests.parquet, not 8",
    ),
    "both counts": (
        wrong_counts,
        r"tokens.parquet: row 15, field iteration: request 1 must have 5 iterations according to output_tokens, not 4",
    ),
    "order": (
        put("requests.parquet", "request", 1, 0),
        r"requests.parquet: row 1, field request: must be at least 0, and greater than in the row before, not 0",
    ),
    "arrival": (
        put("requests.parquet", "arrival_s", 1, -1.0),
        r"requests.parquet: row 1, field arrival_s: must be finite and at least 0, not -1.0",
    ),
    "no output": (
        put("requests.parquet", "output_tokens", 2, 0),
        r"requests.parquet: row 2, field output_tokens: must be at least 1, not 0",
    ),
    "vector": (
        put("embeddings.parquet", "vector", 3, np.nan),
        r"embeddings.parquet: row 3, field vector: must be finite, not nan",
    ),
    "no embedding": (
        replace_table("embeddings.parquet", lambda table: table.slice(1)),
        r"tokens.parquet: row \d+, field token: \d+ has no embedding",
    ),
    "embedding order": (
        replace_table("embeddings.parquet", lambda table: table.take(list(range(table.num_rows))[::-1])),
        r"embeddings.parquet: row 1, field token: must be greater than in the row before",
    ),
    "truncated tokens": (truncate("tokens.parquet"), r"tokens.parquet: cannot be read: "),
    "truncated requests": (truncate("requests.parquet"), r"requests.parquet: cannot be read: "),
    "truncated embeddings": (truncate("embeddings.parquet"), r"embeddings.parquet: cannot be read: "),
    "missing tokens": (missing("tokens.parquet"), r"tokens.parquet: is missing"),
    "missing requests": (missing("requests.parquet"), r"requests.parquet: is missing"),
    "missing embeddings": (missing("embeddings.parquet"), r"embeddings.parquet: is missing"),
    "missing meta": (missing("meta.json"), r"meta.json is missing; \S+ is not a trace"),
    "other row groups": (
        replace_table("tokens.parquet", lambda table: table),
        r"must have one row group for each of the 4 requests, not 1",
    ),
    "missing column": (
        replace_table("tokens.parquet", lambda table: table.drop_columns(["position"])),
        r"tokens.parquet: field position: is missing",
    ),
    "strange column": (
        replace_table("requests.parquet", lambda table: table.append_column("host", table["source"])),
        r"requests.parquet: must have the columns request, source, .*, not request, .*, host",
    ),
    "wide gate": (
        replace_table("tokens.parquet", as_double),
        r"tokens.parquet: field gate: must be fixed_size_list<halffloat>\[18\], not fixed_size_list<double>\[18\]",
    ),
    "other shape": (
        lambda path: change_meta(path, wider_shape),
        r"tokens.parquet: field gate: must be fixed_size_list<halffloat>\[21\], not fixed_size_list<halffloat>\[18\]",
    ),
    "unknown key": (meta_with(hostname="here"), r"meta.json: unknown key 'hostname'; known: columns"),
    "misspelt key": (
        lambda path: change_meta(path, lambda meta: meta.update(sead=meta.pop("seed"))),
        r"meta.json: unknown key 'sead'; did you mean 'seed'\?",
    ),
    "missing key": (
        lambda path: change_meta(path, lambda meta: meta.pop("score")),
        r"meta.json: field score: is missing",
    ),
    "wrong type": (meta_with(seed="one"), r"meta.json: field seed: must be int or null, not 'one'"),
    "bool for int": (meta_with(seed=True), r"meta.json: field seed: must be int or null, not True"),
    "version": (meta_with(format_version=2), r"meta.json: field format_version: must be 1, not 2"),
    "results": (
        lambda path: change_meta(path, lambda meta: meta.pop("format_version")),
        r"\S+ is not a trace",
    ),
    "kind": (
        meta_with(kind="measured"),
        r"meta.json: field kind: must be captured, imported, synthetic or fitted, not 'measured'",
    ),
    "columns": (meta_with(columns={}), r"meta.json: field columns: does not match shape, lookahead and embedding"),
    "not json": (meta_text("{"), r"meta.json: cannot be read: "),
    "deep json": (meta_text("[" * 100_000), r"meta.json: cannot be read: "),
    "not a number": (
        meta_with(False, generation={"temperature": float("nan")}),
        r"meta.json: has a value that JSON cannot represent: ",
    ),
    "half a character": (meta_with(False, notes="\ud800"), r"meta.json: has a value that JSON cannot represent: "),
    "endless rows": (
        lambda path: change_meta(path, lambda meta: meta["shape"].update(layers=70_000, experts=32_767)),
        r"meta.json: field shape.experts: a row would have 2293690000 values; the maximum is 2147483647",
    ),
    "a list": (meta_text("[]"), r"meta.json: is not a JSON object"),
    "changed meta": (
        lambda path: change_meta(path, lambda meta: meta.update(seed=2), rehash=False),
        r"meta.json: field sha256: does not match the other fields",
    ),
}
