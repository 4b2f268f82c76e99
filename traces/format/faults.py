"""The rules for the rows of a trace, each a generator of faults."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policies.types import Bool, Float, Int, ModelShape, RecordedRequest
from traces.format.schema import GATE_SUM_TOLERANCE, LARGEST, REQUESTS, RequestInfo, TraceError, TraceMeta


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A broken rule in the rows of a request."""

    row: int  # first affected row, counted from the request's first row
    field: str
    what: str
    value: object = None  # what it is instead, if `what` states what it must be
    layer: int | None = None
    rows: int = 1  # number of affected rows

    def error(self, file: Path | str, first_row: int = 0) -> TraceError:
        """The error for this fault in the rows from `first_row` of the file."""
        row = first_row + self.row
        return TraceError.at(file, self.what, row=row, layer=self.layer, field=self.field, value=self.value)


def request_faults(recorded: RecordedRequest, info: RequestInfo, meta: TraceMeta) -> Iterator[Fault]:
    """All faults in the rows of a request."""
    wrong_shape = list(shape_faults(recorded, meta))
    yield from wrong_shape
    if wrong_shape:
        return
    yield from order_faults(recorded.iteration, info, meta)
    yield from position_faults(recorded.position)
    yield from token_faults(recorded.token, meta.shape)
    yield from expert_faults(recorded.experts, meta)
    yield from idle_faults(recorded, meta)
    skipped: Bool | None = None if meta.all_executed else np.all(recorded.experts < 0, axis=2)
    yield from gate_faults(recorded.gate, "gate", meta.shape, skipped=skipped)
    for distance, gate in recorded.lookahead.items():
        yield from gate_faults(gate, f"lookahead_{distance}", meta.shape, distance)
    if not meta.gate_complete:
        yield from sparse_faults(recorded.gate, recorded.experts, meta.shape)
    if recorded.embedding is not None:
        yield from vector_faults(recorded.embedding, "embedding")
    if recorded.residency is not None:
        yield from residency_faults(recorded.residency, recorded.experts)


def shape_faults(recorded: RecordedRequest, meta: TraceMeta) -> Iterator[Fault]:
    """Arrays whose shape or type differs from `meta`."""
    shape = meta.shape
    rows = len(recorded.iteration)
    if rows == 0:
        yield Fault(row=0, field="iteration", what="the request has no row")
    gate = (rows, shape.layers, shape.experts)
    wanted: list[tuple[str, Any, tuple[int, ...], str]] = [
        ("iteration", recorded.iteration, (rows,), "iu"),
        ("position", recorded.position, (rows,), "iu"),
        ("token", recorded.token, (rows,), "iu"),
        ("gate", recorded.gate, gate, "f"),
        ("experts", recorded.experts, (rows, shape.layers, shape.top_k), "iu"),
        *(
            (f"lookahead_{d}", one, gate, "f")
            for d, one in zip(meta.lookahead, [recorded.lookahead.get(d) for d in meta.lookahead], strict=True)
        ),
    ]
    if recorded.embedding is not None:
        wanted.append(("embedding", recorded.embedding, (rows, shape.hidden), "f"))
    if meta.residency:
        wanted.append(("residency", recorded.residency, (rows, shape.layers, shape.top_k), "iu"))
    for field, values, size, kinds in wanted:
        if values is None:
            yield Fault(row=0, field=field, what="is missing")
        elif values.shape != size:
            yield Fault(row=0, field=field, what=f"shape must be {list(size)}", value=list(values.shape))
        elif values.dtype.kind not in kinds or (kinds == "f" and values.dtype != np.float16):
            what = "must be float16" if kinds == "f" else "must be integers"
            yield Fault(row=0, field=field, what=what, value=values.dtype)


def order_faults(iteration: Int, info: RequestInfo, meta: TraceMeta) -> Iterator[Fault]:
    """Iterations start at `meta.first_iteration`, are consecutive, and decode one token each; counts match `info`."""
    first = meta.first_iteration
    if iteration[0] != first:
        yield Fault(row=0, field="iteration", what=f"must start at {first}", value=iteration[0])
    step = np.diff(iteration.astype(np.int64), prepend=iteration[0])
    # Only the prefill computes several tokens at once.
    repeated = (step == 0) & (iteration != 0)
    repeated[0] = False
    yield from _report(repeated, "iteration", "must be one higher than in the decode row before", iteration)
    yield from _report(
        (step < 0) | (step > 1), "iteration", "must be the same as in the row before, or one higher", iteration
    )
    count = int(iteration[-1]) - int(iteration[0]) + 1
    if count != info.output_tokens:
        what = f"request {info.request} must have {info.output_tokens} iterations according to output_tokens"
        yield Fault(row=len(iteration) - 1, field="iteration", what=what, value=count)
    prompt = int((iteration == 0).sum())
    if meta.prefill and info.prompt_tokens is not None and prompt != info.prompt_tokens:
        what = f"the prefill of request {info.request} must have {info.prompt_tokens} rows according to prompt_tokens"
        yield Fault(row=0, field="iteration", what=what, value=prompt)


def position_faults(position: Int) -> Iterator[Fault]:
    """Positions are not negative and increase from row to row."""
    yield from _report(position < 0, "position", "must be at least 0", position)
    yield from _report(position > LARGEST, "position", f"must be at most {LARGEST}", position)
    yield from _report(_behind(position), "position", "must be greater than in the row before", position)


def token_faults(token: Int, shape: ModelShape) -> Iterator[Fault]:
    """Tokens are within the vocabulary."""
    yield from _report((token < 0) | (token >= shape.vocab), "token", f"must be from 0 to {shape.vocab - 1}", token)


def expert_faults(experts: Int, meta: TraceMeta) -> Iterator[Fault]:
    """`experts` `[N, L, K]` are below J and distinct within each token and layer."""
    shape, least = meta.shape, 0 if meta.all_executed else -1
    # Check the extremes first: masks are nearly always empty, and computing them would take 3/4 of the reading time.
    if experts.min() < least or experts.max() >= shape.experts:
        bad = (experts < least) | (experts >= shape.experts)
        what = f"must be from {least} to {shape.experts - 1}"
        yield from _report(bad.any(2), "experts", what, lambda at: experts[at][bad[at]][0])
    ordered = np.sort(experts, axis=2)
    same = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
    yield from _report(same.any(2), "experts", "must be distinct", lambda at: experts[at].tolist())


def idle_faults(recorded: RecordedRequest, meta: TraceMeta) -> Iterator[Fault]:
    """Every token executes an expert in the first layer; every iteration executes an expert in every layer."""
    if meta.all_executed:
        return
    idle: Bool = np.all(recorded.experts < 0, axis=2)  # [N, L]
    what = "must contain an expert in the first layer"
    yield from _report(idle[:, :1], "experts", what, lambda at: recorded.experts[at].tolist())
    starts = np.flatnonzero(np.diff(recorded.iteration, prepend=-1))
    skipped = np.zeros_like(idle)
    skipped[starts] = np.logical_and.reduceat(idle, starts, axis=0)
    what = "must contain an expert for at least one token of the iteration"
    yield from _report(skipped, "experts", what, lambda at: recorded.experts[at].tolist())


def residency_faults(residency: Int, experts: Int) -> Iterator[Fault]:
    """`residency` `[N, L, K]` is 0, 1 or 2 for executed experts and -1 for others."""
    bad = np.where(experts < 0, residency != -1, (residency < 0) | (residency > 2))
    what = "must be 0, 1 or 2 for an executed expert and -1 elsewhere"
    yield from _report(bad.any(2), "residency", what, lambda at: residency[at].tolist())


def gate_faults(
    gate: Float, field: str, shape: ModelShape, distance: int = 0, *, skipped: Bool | None = None
) -> Iterator[Fault]:
    """`gate` `[N, L, J]` holds distributions over experts; zero in layers whose target lies beyond the last layer.

    It may also be zero where a token skipped a layer, `skipped` `[N, L]`.
    """
    known, beyond = gate[:, : shape.layers - distance], gate[:, shape.layers - distance :]
    sums = known.sum(axis=2, dtype=np.float32)
    # Negated, so that NaN and infinity count as off.
    off = ~(np.abs(sums - 1.0) <= GATE_SUM_TOLERANCE)
    if skipped is not None:
        off &= ~(skipped & (sums == 0))
    if off.any():
        broken = ~np.isfinite(sums) & off
        yield from _report(broken, field, "must be finite", lambda at: known[at][~np.isfinite(known[at])][0])
        yield from _report(off & ~broken, field, f"must sum to 1 within {GATE_SUM_TOLERANCE}", lambda at: sums[at])
    # A set sign bit makes the int16 with the same bits negative; comparing float16 is ten times slower.
    if known.size and known.view(np.int16).min() < 0:
        negative = known < 0
        yield from _report(negative.any(2), field, "must be at least 0", lambda at: known[at].min())
    if beyond.size and beyond.any():
        wrong = np.zeros(gate.shape[:2], bool)
        wrong[:, shape.layers - distance :] = (beyond != 0).any(2)
        yield from _report(
            wrong, field, "must be 0 where the target is beyond the last layer", lambda at: gate[at].max()
        )


def sparse_faults(gate: Float, experts: Int, shape: ModelShape) -> Iterator[Fault]:
    """A gate that is known only at the executed experts is positive there and zero elsewhere."""
    inside = np.clip(experts, 0, shape.experts - 1).astype(np.int64)
    weights = np.where(experts < 0, np.float16(0), np.take_along_axis(gate, inside, axis=2))
    bare = ((weights == 0) & (experts >= 0)).any(2)
    yield from _report(bare, "gate", "must be positive at executed experts", lambda at: weights[at].tolist())
    others = np.count_nonzero(gate, axis=2) > np.count_nonzero(weights, axis=2)
    yield from _report(others, "gate", "must be 0 at experts that were not executed", lambda at: gate[at].max())


def vector_faults(vectors: Float, field: str) -> Iterator[Fault]:
    """`vectors` `[N, h]` are finite."""
    bad = ~np.isfinite(vectors)
    yield from _report(bad.any(1), field, "must be finite", lambda at: vectors[at][bad[at]][0])


def info_faults(infos: Sequence[RequestInfo]) -> Iterator[Fault]:
    """Faults in the table of requests."""
    if not infos:
        yield Fault(row=0, field="request", what="there is no request")
    last = -1
    for row, info in enumerate(infos):
        if info.request <= last:
            yield Fault(
                row=row,
                field="request",
                what="must be at least 0, and greater than in the row before",
                value=info.request,
            )
        last = info.request
        if info.request > LARGEST:
            yield Fault(row=row, field="request", what=f"must be at most {LARGEST}", value=info.request)
        if info.output_tokens < 1:
            yield Fault(row=row, field="output_tokens", what="must be at least 1", value=info.output_tokens)
        if info.prompt_tokens is not None and info.prompt_tokens < 1:
            yield Fault(row=row, field="prompt_tokens", what="must be at least 1", value=info.prompt_tokens)
        if info.arrival_s is not None and not (np.isfinite(info.arrival_s) and info.arrival_s >= 0):
            what = "must be finite and at least 0"
            yield Fault(row=row, field="arrival_s", what=what, value=info.arrival_s)


def group_faults(groups: Sequence[int], infos: Sequence[RequestInfo], meta: TraceMeta) -> Iterator[Fault]:
    """Each request has one row group, whose rows match its token counts."""
    if len(groups) != len(infos):
        what = f"must have one row group for each of the {len(infos)} requests"
        yield Fault(row=0, field="request", what=what, value=len(groups))
        return
    row = 0
    for count, info in zip(groups, infos, strict=True):
        # The prefill is one iteration and computes the whole prompt.
        prompt = info.prompt_tokens if meta.prefill else 1
        if prompt is not None and count != prompt + info.output_tokens - 1:
            what = f"request {info.request} must have {prompt + info.output_tokens - 1} rows according to {REQUESTS}"
            yield Fault(row=row, field="request", what=what, value=count)
        row += count


def owner_faults(owner: Int, request: int) -> Iterator[Fault]:
    """All rows of a row group belong to the same request."""
    for row in np.flatnonzero(owner != request)[:1]:
        yield Fault(row=int(row), field="request", what=f"must be {request}", value=owner[row])


def embedding_faults(token: Int, vector: Float, meta: TraceMeta) -> Iterator[Fault]:
    """Faults in the table of embeddings."""
    yield from token_faults(token, meta.shape)
    for row in np.flatnonzero(np.diff(token) <= 0)[:1]:
        yield Fault(
            row=int(row) + 1, field="token", what="must be greater than in the row before", value=token[row + 1]
        )
    yield from vector_faults(vector, "vector")


def missing_faults(token: Int, known: Int) -> Iterator[Fault]:
    """Every token has an embedding."""
    missing = np.flatnonzero(~np.isin(token, known))
    if missing.size:
        row = int(missing[0])
        yield Fault(row=row, field="token", what=f"{token[row]} has no embedding", rows=missing.size)


def _behind(position: Int) -> Bool:
    behind = np.zeros(len(position), bool)
    behind[1:] = position[1:] <= position[:-1]
    return behind


def _report(bad: ArrayLike, field: str, what: str, value: Int | Callable[[Any], object]) -> Iterator[Fault]:
    """A fault for the first of the `bad` places, `[N]` or `[N, L]`, with the number of bad rows."""
    bad = np.asarray(bad)
    if not bad.any():
        return
    rows = bad if bad.ndim == 1 else bad.any(1)
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    shown = value(at) if callable(value) else value[at]
    layer = at[1] if len(at) > 1 else None
    yield Fault(row=at[0], layer=layer, field=field, what=what, value=shown, rows=int(rows.sum()))
