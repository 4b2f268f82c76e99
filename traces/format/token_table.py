"""Convert the rows of one request to and from Arrow."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from policies.types import Int, ModelShape, RecordedRequest
from traces.format.schema import TOKENS, RequestInfo, TraceMeta


def gate_columns(meta: TraceMeta) -> dict[str, int]:
    """The columns with distributions over experts, and their lookahead distance: 0 for `gate`."""
    return {"gate": 0} | {f"lookahead_{distance}": distance for distance in meta.lookahead}


def to_table(recorded: RecordedRequest, meta: TraceMeta) -> pa.Table:
    """The rows as a table of `tokens.parquet`; they must have no `faults`."""
    schema = meta.schemas[TOKENS]
    rows = len(recorded.iteration)
    arrays = [
        pa.array(np.full(rows, recorded.request, np.int32)),
        *(pa.array(np.asarray(one, np.int32)) for one in (recorded.iteration, recorded.position, recorded.token)),
    ]
    values_of = [recorded.gate, recorded.experts, *(recorded.lookahead[distance] for distance in meta.lookahead)]
    if recorded.residency is not None:
        values_of.append(recorded.residency)
    for field, values in zip(schema.names[4:], values_of, strict=True):
        arrays.append(fixed_list(values, schema.field(field).type))
    return pa.table(arrays, schema=schema)


def fixed_list(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """`values` `[N, …]` as a column of fixed-size lists."""
    flat = np.ascontiguousarray(values.reshape(-1), kind.value_type.to_pandas_dtype())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


def array_of(table: pa.Table, column: str, *shape: int) -> Any:
    """A single-chunk column as an array `[N, *shape]`, without a copy."""
    values = table.column(column).chunk(0) if table.num_rows else pa.array([], table.schema.field(column).type)
    if shape:
        values = values.flatten()
    return values.to_numpy(zero_copy_only=True).reshape(table.num_rows, *shape)


def from_table(table: pa.Table, info: RequestInfo, meta: TraceMeta) -> RecordedRequest:
    """The rows of a table of `tokens.parquet` as arrays, without embeddings."""
    shape = meta.shape
    gates = {
        distance: array_of(table, column, shape.layers, shape.experts)
        for column, distance in gate_columns(meta).items()
    }
    return RecordedRequest(
        request=info.request,
        source=info.source,
        iteration=array_of(table, "iteration"),
        position=array_of(table, "position"),
        token=array_of(table, "token"),
        gate=gates.pop(0),
        experts=experts_of(table, shape),
        lookahead=gates,
        residency=array_of(table, "residency", shape.layers, shape.top_k) if meta.residency else None,
    )


def experts_of(table: pa.Table, shape: ModelShape) -> Int:
    """The executed experts, `[N, L, K]` int16."""
    stored = array_of(table, "experts", shape.layers, shape.top_k)
    if stored.dtype == np.int16:
        return stored  # type: ignore[no-any-return]
    # A value that is too large must stay too large, not become negative.
    experts: Int = np.minimum(stored.astype(np.uint16), np.iinfo(np.int16).max).astype(np.int16)
    return experts
