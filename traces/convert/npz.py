"""Convert `routing.npz`, NumPy arrays of executed experts and their weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.convert.conversion_settings import ImportTarget
from traces.convert.imported_trace import (
    Pair,
    imported,
    reading_arrays,
    sha256_of,
    write_trace,
)
from traces.format.schema import GATE_SUM_TOLERANCE, RequestInfo, TraceError
from traces.format.storage import require_file


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Decode steps of `R` requests, one after the other, `T` tokens in total.

    `probs` are the weights of the K executed experts, their softmax; other experts have none.
    """

    experts: Int  # [T, L, K]
    probs: Float  # [T, L, K] float16
    offsets: Int  # [R + 1] start of each request
    token: Int  # [T] input token of each step
    source: NDArray[np.str_]  # [R]


def read_npz(file: Path, shape: ModelShape) -> Routing:
    """Read and check the arrays of a `routing.npz`; raises `TraceError`."""
    arrays = _load(file)
    routing = Routing(**{name: arrays[name] for name in _ARRAYS})
    steps, requests = len(routing.experts), len(routing.offsets) - 1
    if requests < 1:
        raise TraceError.at(
            file, "must have at least two entries, for one request", field="offsets", value=routing.offsets.tolist()
        )
    sizes: dict[str, tuple[int, ...]] = {
        "experts": (steps, shape.layers, shape.top_k),
        "probs": (steps, shape.layers, shape.top_k),
        "offsets": (requests + 1,),
        "token": (steps,),
        "source": (requests,),
    }
    for name, (kinds, described) in _ARRAYS.items():
        array = getattr(routing, name)
        if array.dtype.kind not in kinds or (name == "probs" and array.dtype != np.float16):
            raise TraceError.at(file, f"must be {described}", field=name, value=array.dtype)
        if array.shape != sizes[name]:
            what = f"shape must be {list(sizes[name])} for {shape.name}"
            raise TraceError.at(file, what, field=name, value=list(array.shape))
    _check_values(file, routing, shape)
    return routing


# The arrays, their NumPy kinds, and these kinds in words.
_ARRAYS: dict[str, tuple[str, str]] = {
    "experts": ("iu", "integers"),
    "probs": ("f", "float16"),
    "offsets": ("iu", "integers"),
    "token": ("iu", "integers"),
    "source": ("U", "text"),
}


def _load(file: Path) -> Mapping[str, Any]:
    require_file(file)
    with reading_arrays(file, "an npz archive of plain arrays"), np.load(file, allow_pickle=False) as archive:
        for name in _ARRAYS:
            if name not in archive.files:
                raise TraceError.at(file, "is missing", field=name)
        return {name: np.atleast_1d(archive[name]) for name in _ARRAYS}


def _check_values(file: Path, routing: Routing, shape: ModelShape) -> None:
    offsets = routing.offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(routing.token):
        what = f"must run from 0 to {len(routing.token)}"
        raise TraceError.at(file, what, field="offsets", value=f"from {offsets[0]} to {offsets[-1]}")
    _refuse(
        file,
        "offsets",
        "must be greater than in the row before",
        np.diff(offsets, prepend=-1) <= 0,
        lambda at: offsets[at],
    )
    experts, probs, token = routing.experts, routing.probs, routing.token
    outside = (token < 0) | (token >= shape.vocab)
    _refuse(file, "token", f"must be from 0 to {shape.vocab - 1}", outside, lambda at: token[at])
    outside = (experts < 0) | (experts >= shape.experts)
    _refuse(file, "experts", f"must be from 0 to {shape.experts - 1}", outside, lambda at: experts[at])
    ordered = np.sort(experts, axis=2)
    repeated = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(2)
    _refuse(file, "experts", "must be distinct", repeated, lambda at: experts[at].tolist())
    _refuse(file, "probs", "must be positive and finite", ~(np.isfinite(probs) & (probs > 0)), lambda at: probs[at])
    sums = probs.sum(axis=2, dtype=np.float32)
    off = ~(np.abs(sums - 1.0) <= GATE_SUM_TOLERANCE)
    _refuse(file, "probs", f"must sum to 1 within {GATE_SUM_TOLERANCE}", off, lambda at: sums[at])


def _refuse(file: Path, field: str, what: str, bad: NDArray[Any], value: Callable[[Any], object]) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        layer = at[1] if len(at) > 1 else None
        raise TraceError.at(file, what, row=at[0], layer=layer, field=field, value=value(at))


def request_of(routing: Routing, request: int, shape: ModelShape, max_tokens: int | None = None) -> RecordedRequest:
    """One request, or its first `max_tokens` tokens; its gate is zero except at executed experts."""
    start, end = (int(routing.offsets[place]) for place in (request, request + 1))
    span = slice(start, min(end, start + max_tokens) if max_tokens else end)
    experts = routing.experts[span].astype(np.int16)
    steps = len(experts)
    gate = np.zeros((steps, shape.layers, shape.experts), np.float16)
    np.put_along_axis(gate, experts.astype(np.int64), routing.probs[span], axis=2)
    return RecordedRequest(
        request=request,
        source=str(routing.source[request]),
        iteration=np.arange(1, steps + 1, dtype=np.int32),
        # The prompt's length is unknown: positions count from the first recorded token.
        position=np.arange(steps, dtype=np.int32),
        token=routing.token[span].astype(np.int32),
        gate=gate,
        experts=experts,
    )


def convert_npz(source: Path, shape: ModelShape, target: ImportTarget, *, max_tokens: int | None = None) -> Path:
    """Convert a `routing.npz`, or the one in a folder, without rounding.

    `max_tokens` limits the tokens per request.
    """
    file = source / "routing.npz" if source.is_dir() else source
    routing = read_npz(file, shape)
    digest = sha256_of(file)
    notes = [f"converted from {file.name}, SHA-256 {digest}", "positions count from the first recorded token"]
    plan: dict[str, Any] = {"convert": "npz", "sha256": digest}
    if max_tokens:
        notes.append(f"of each request the first {max_tokens} tokens at most")
        plan["max_tokens"] = max_tokens
    meta = imported(shape, target, notes, gate_complete=False, prefill=False)
    pairs = _pairs(routing, shape, max_tokens)
    return write_trace(target, meta, pairs, plan=plan, total=len(routing.source))


def _pairs(routing: Routing, shape: ModelShape, max_tokens: int | None) -> Iterator[Pair]:
    for request in range(len(routing.source)):
        one = request_of(routing, request, shape, max_tokens)
        yield RequestInfo(request=request, source=one.source, output_tokens=len(one.iteration)), one
