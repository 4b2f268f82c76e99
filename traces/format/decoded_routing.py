"""The rows of a whole trace as arrays, so that a trace that is read several times is decoded and checked only once.

The arrays: `iteration`, `position` and `token` `[rows]` int32; `gate` `[rows, L, J]` float16; `experts` `[rows, L, K]`
int16; `lookahead_d` like the gate, for each lookahead distance d; `residency` `[rows, L, K]` int8 if recorded; with
embeddings also `embedding_token` `[n]` int32 and `embedding_vector` `[n, h]` float16. Requests are in trace order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.types import RecordedRequest
from traces.format.schema import RequestInfo, TraceMeta
from traces.format.token_table import gate_columns

Arrays = Mapping[str, NDArray[Any]]


def columns(meta: TraceMeta) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape of one row and data type, for each array with one entry per row."""
    shape = meta.shape
    slots = (shape.layers, shape.top_k)
    return {
        **dict.fromkeys(("iteration", "position", "token"), ((), np.int32)),
        **dict.fromkeys(gate_columns(meta), ((shape.layers, shape.experts), np.float16)),
        "experts": (slots, np.int16),
        **({"residency": (slots, np.int8)} if meta.residency else {}),
    }


def row_bytes(meta: TraceMeta) -> int:
    """Bytes per row, summed over all arrays."""
    return sum(int(np.prod(size)) * np.dtype(kind).itemsize for size, kind in columns(meta).values())


def fill(arrays: Arrays, rows: slice, recorded: RecordedRequest) -> None:
    """Copy the rows of a request into `rows` of the arrays."""
    for name in ("iteration", "position", "token", "gate", "experts"):
        arrays[name][rows] = getattr(recorded, name)
    if recorded.residency is not None:
        arrays["residency"][rows] = recorded.residency
    for distance, gate in recorded.lookahead.items():
        arrays[f"lookahead_{distance}"][rows] = gate


def recorded_in(arrays: Arrays, rows: slice, info: RequestInfo, meta: TraceMeta) -> RecordedRequest:
    """The rows of a request as views of the arrays, without embeddings."""
    return RecordedRequest(
        request=info.request,
        source=info.source,
        iteration=arrays["iteration"][rows],
        position=arrays["position"][rows],
        token=arrays["token"][rows],
        gate=arrays["gate"][rows],
        experts=arrays["experts"][rows],
        lookahead={distance: arrays[f"lookahead_{distance}"][rows] for distance in meta.lookahead},
        residency=arrays["residency"][rows] if meta.residency else None,
    )
