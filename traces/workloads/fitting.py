"""Give recorded requests the lengths and arrivals of a workload."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.errors import UserError
from policies.types import Int, RecordedRequest
from traces.format.reader import Trace
from traces.format.schema import RequestInfo, TraceMeta, library_versions
from traces.workloads.arrivals import Workload
from traces.workloads.row_pool import Piece, RowPool
from traces.workloads.workload_settings import MAX_PROMPT_TOKENS

_CACHE_BYTES = 64 * 2**20  # cache of the requests read last, since one may serve several rows

PROMPT_RULE = "chains of recorded prefills of one source, the last one cut at the wanted length, positions counted on; "
DECODE_RULE = "chains of recorded decode iterations of one source{which}; no row is used again while others are unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The recorded rows for one row of a workload, in order."""

    source: str
    """Source of the recorded requests; of the first one if a single source was not enough."""
    prefills: Sequence[Piece]
    decodes: Sequence[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """The recorded rows for all rows of a workload."""

    servings: Sequence[Serving]
    prompt_rows: int
    decode_rows: int
    repeated_prompt_rows: float
    """Share of all prompt rows that had been used before."""
    repeated_decode_rows: float


def plan_fit(trace: Trace, workload: Workload, *, seed: int, max_prompt_tokens: int = MAX_PROMPT_TOKENS) -> FitPlan:
    """Choose recorded rows for each row of the workload in turn, with at most `max_prompt_tokens` per prompt.

    Decoding starts with the decode iterations of the prompt's last request, if unused, since they followed this text
    when it was recorded. Requests without decode iterations are not used.
    """
    rng = np.random.default_rng(seed)
    decodes = {request: trace.decode_rows_of(request) for request in trace.request_ids}
    usable = [request for request, rows in decodes.items() if rows]
    if not usable:
        raise UserError(f"{trace.path}: no request has a decode iteration, so the trace cannot be fitted")
    sources = {request: trace.infos[request].source for request in usable}
    prompt_pool = RowPool({request: trace.rows_of(request) - decodes[request] for request in usable}, sources, rng)
    decode_pool = RowPool({request: decodes[request] for request in usable}, sources, rng)
    servings = []
    for prompt_tokens, output_tokens in zip(workload.prompt_tokens, workload.output_tokens, strict=True):
        wanted = min(int(prompt_tokens), max_prompt_tokens) if trace.meta.prefill else 0
        prefills = prompt_pool.take(wanted)
        source = sources[prefills[0].request] if prefills else None
        last = prefills[-1].request if prefills else None
        chain = decode_pool.take(int(output_tokens) - int(trace.meta.prefill), source=source, first=last)
        servings.append(Serving(source=source or sources[chain[0].request], prefills=prefills, decodes=chain))
    return FitPlan(
        servings=servings,
        prompt_rows=prompt_pool.taken,
        decode_rows=decode_pool.taken,
        repeated_prompt_rows=prompt_pool.repeated,
        repeated_decode_rows=decode_pool.repeated,
    )


class Fitter:
    """Builds the requests of a plan from the recorded requests of a trace."""

    def __init__(self, trace: Trace, plan: FitPlan) -> None:
        self.trace = trace
        self.plan = plan
        self._cached: OrderedDict[int, RecordedRequest] = OrderedDict()
        self._cached_bytes = 0

    def fitted(self, row: int, workload: Workload) -> tuple[RequestInfo, RecordedRequest]:
        """The request number `row`, for that row of the workload."""
        serving = self.plan.servings[row]
        prefill = sum(piece.rows for piece in serving.prefills)
        info = RequestInfo(
            request=row,
            source=serving.source,
            arrival_s=float(workload.arrival_s[row]),
            prompt_tokens=prefill if self.trace.meta.prefill else None,
            output_tokens=int(workload.output_tokens[row]),
        )
        parts = [(self._read(piece.request), np.arange(piece.start, piece.stop)) for piece in serving.prefills]
        for piece in serving.decodes:
            first = self.trace.rows_of(piece.request) - self.trace.decode_rows_of(piece.request)
            parts.append((self._read(piece.request), first + np.arange(piece.start, piece.stop)))
        return info, _joined(row, info.source, parts, prefill)

    def _read(self, request: int) -> RecordedRequest:
        if request in self._cached:
            self._cached.move_to_end(request)
            return self._cached[request]
        recorded = self.trace.read(request)
        self._cached[request] = recorded
        self._cached_bytes += _bytes_of(recorded)
        while self._cached_bytes > _CACHE_BYTES and len(self._cached) > 1:
            self._cached_bytes -= _bytes_of(self._cached.popitem(last=False)[1])
        return recorded


def fitted_meta(
    trace: Trace, workload: Workload, plan: FitPlan, further: Mapping[str, Any], *, max_prompt_tokens: int
) -> TraceMeta:
    """The description of a fitted trace; `further` are settings to add to it.

    A fitted synthetic trace keeps the kind "synthetic".
    """
    meta = trace.meta
    which = ", those of the prompt's last request first if they are unused" if meta.prefill else ""
    rule = (PROMPT_RULE if meta.prefill else "no prompt, since no prefill was recorded; ") + DECODE_RULE.format(
        which=which
    )
    settings = {
        "trace": trace.path.name,
        "trace_sha256": trace.digest,
        "workload": workload.source,
        "max_prompt_tokens": max_prompt_tokens if meta.prefill else None,
        "repeated_prompt_rows": plan.repeated_prompt_rows if meta.prefill else None,
        "repeated_decode_rows": plan.repeated_decode_rows,
        **further,
    }
    note = f"fitted to the lengths and arrivals of {workload.source}: {rule}"
    return replace(
        meta,
        kind="synthetic" if meta.kind == "synthetic" else "fitted",
        prompt_text=False,
        residency=False,  # the engine's cache had another state, since rows now follow other rows
        generation={**meta.generation, **{f"fit_{name}": one for name, one in settings.items() if one is not None}},
        versions={**meta.versions, **library_versions()},
        notes="; ".join(filter(None, [meta.notes, note])),
        files={},
    )


def _joined(request: int, source: str, parts: Sequence[tuple[RecordedRequest, Int]], prefill: int) -> RecordedRequest:
    """Join rows of several requests to one: `prefill` rows of iteration 0, then one decode iteration per row."""

    def rows_of(values: Sequence[Any]) -> Any:
        return np.concatenate([one[rows] for one, (_, rows) in zip(values, parts, strict=True)])

    recorded = [one for one, _ in parts]
    total = sum(len(rows) for _, rows in parts)
    return RecordedRequest(
        request=request,
        source=source,
        iteration=np.concatenate([np.zeros(prefill, np.int32), np.arange(1, total - prefill + 1, dtype=np.int32)]),
        position=np.arange(total, dtype=np.int32),
        token=rows_of([one.token for one in recorded]),
        gate=rows_of([one.gate for one in recorded]),
        experts=rows_of([one.experts for one in recorded]),
        embedding=None if recorded[0].embedding is None else rows_of([one.embedding for one in recorded]),
        lookahead={d: rows_of([one.lookahead[d] for one in recorded]) for d in recorded[0].lookahead},
    )


def _bytes_of(recorded: RecordedRequest) -> int:
    embedding = 0 if recorded.embedding is None else recorded.embedding.nbytes
    return (
        embedding + recorded.gate.nbytes + recorded.experts.nbytes + sum(d.nbytes for d in recorded.lookahead.values())
    )
