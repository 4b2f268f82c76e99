"""Recorded requests at the lengths and arrivals of a workload."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.errors import UserError
from policies.types import Int, RecordedRequest
from traces.format.reader import Trace
from traces.format.schema import RequestInfo, TraceMeta, library_versions
from traces.workloads.arrivals import Workload
from traces.workloads.workload_settings import MAX_PROMPT_TOKENS

_HELD_BYTES = 64 * 2**20  # of recorded requests that were read last, since the same ones serve many rows

PROMPT_RULE = (
    "the prefills of recorded requests, drawn at random, one after the other, the last one cut at the wanted length, "
    "positions counted on; "
)
DECODE_RULE = "the decode iterations of {which}, repeated from the first up to the wanted length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Which recorded rows stand for one row of a workload, in their order.

    The prompt is made of `prefills`; the decode iterations are those of the request that is the prompt's last, so that
    they follow the text which they followed when they were recorded.
    """

    prefills: Sequence[
        tuple[int, int]
    ]  # a recorded request and how many of its first prefill rows; none without prefill
    decoder: int  # the recorded request whose decode iterations are repeated
    decode_rows: int


class Fitter:
    """Makes requests of a workload out of the recorded ones of a trace.

    Which recorded requests serve row `i` depends on `seed` and `i` alone, not on the other rows. All are drawn once, in
    random order, before any is drawn again; those without a decode iteration are not used.
    """

    def __init__(self, trace: Trace, *, seed: int, max_prompt_tokens: int = MAX_PROMPT_TOKENS) -> None:
        self.trace = trace
        self.seed = seed
        self.max_prompt_tokens = max_prompt_tokens
        first = trace.meta.first_iteration
        # Of an iteration 0 one decode iteration less is recorded than tokens were generated.
        decodes = {one.request: one.output_tokens - 1 + first for one in trace.infos.values()}
        self._usable: Int = np.array([request for request, count in decodes.items() if count > 0])
        self._decodes = decodes
        self._held: OrderedDict[int, RecordedRequest] = OrderedDict()
        self._held_bytes = 0
        if not len(self._usable):
            raise UserError(f"{trace.path}: no request has a decode iteration, so none can be fitted")

    def serving(self, row: int, prompt_tokens: int, output_tokens: int) -> Serving:
        """What serves a row of the workload; the prompt is at most `max_prompt_tokens` long."""
        prefill = self.trace.meta.prefill
        wanted, prefills = min(prompt_tokens, self.max_prompt_tokens), []
        for request in self._drawn(row):
            if not prefill:
                break
            taken = min(wanted, self.trace.rows_of(request) - self._decodes[request])
            prefills.append((request, taken))
            wanted -= taken
            if not wanted:
                break
        return Serving(prefills=prefills, decoder=request, decode_rows=output_tokens - (1 if prefill else 0))

    def fitted(self, row: int, workload: Workload) -> tuple[RequestInfo, RecordedRequest]:
        """Row `row` of the workload as a request of that number."""
        prompt_tokens, output_tokens = int(workload.prompt_tokens[row]), int(workload.output_tokens[row])
        serving = self.serving(row, prompt_tokens, output_tokens)
        prefill = sum(rows for _, rows in serving.prefills)
        info = RequestInfo(
            request=row,
            source=self.trace.infos[serving.decoder].source,
            arrival_s=float(workload.arrival_s[row]),
            prompt_tokens=prefill if self.trace.meta.prefill else None,
            output_tokens=output_tokens,
        )
        parts = [(self._read(request), np.arange(rows)) for request, rows in serving.prefills]
        decoder, recorded = self._read(serving.decoder), self._decodes[serving.decoder]
        first = len(decoder.iteration) - recorded
        parts.append((decoder, first + np.arange(serving.decode_rows) % recorded))
        return info, _joined(row, info.source, parts, prefill)

    def _drawn(self, row: int) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, row])
        while True:
            yield from rng.permutation(self._usable).tolist()

    def _read(self, request: int) -> RecordedRequest:
        if request in self._held:
            self._held.move_to_end(request)
            return self._held[request]
        recorded = self.trace.read(request)
        self._held[request] = recorded
        self._held_bytes += _bytes_of(recorded)
        while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= _bytes_of(self._held.popitem(last=False)[1])
        return recorded


def fitted_meta(trace: Trace, workload: Workload, told: Mapping[str, Any], *, max_prompt_tokens: int) -> TraceMeta:
    """What a fitted trace says about itself; `told` are further settings for it to cite.

    What was synthetic stays so: a fit does not make it better.
    """
    meta = trace.meta
    which = "the last of them" if meta.prefill else "one recorded request, drawn at random"
    rule = (PROMPT_RULE if meta.prefill else "no prompt, since no prefill was recorded; ") + DECODE_RULE.format(
        which=which
    )
    settings = {
        "trace": trace.path.name,
        "trace_sha256": trace.digest,
        "workload": workload.source,
        "max_prompt_tokens": max_prompt_tokens if meta.prefill else None,
        **told,
    }
    note = f"fitted to the lengths and arrivals of {workload.source}: {rule}"
    return replace(
        meta,
        kind="synthetic" if meta.kind == "synthetic" else "fitted",
        prompt_text=False,
        residency=False,  # the engine's cache was in another state before rows that now follow others
        generation={**meta.generation, **{f"fit_{name}": one for name, one in settings.items() if one is not None}},
        versions={**meta.versions, **library_versions()},
        notes="; ".join(filter(None, [meta.notes, note])),
        files={},
    )


def _joined(request: int, source: str, parts: Sequence[tuple[RecordedRequest, Int]], prefill: int) -> RecordedRequest:
    """One request of some rows of others: `prefill` rows of iteration 0, then a decode iteration each."""

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
