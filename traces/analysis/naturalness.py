"""Naturalness of a trace: how much its text and its expert maps repeat themselves.

A model that decodes greedily falls into loops, and a fitted trace may reuse recorded rows. Policies that learn from the
past then look better than they would on natural text. Four measures show it, for decode tokens and for prompts:

    distinct tokens       share of the sampled tokens that did not occur before
    repeated 4-grams      share of their 4-grams that occurred before
    repeated rows         share of all rows that occurred before: same token, experts and gates in every layer
    nearest-map recall    share of the executed experts in the top K of the nearest of 1,000 expert maps of other
                          requests, three layers ahead: `nearest_map`, as in the model cards

The first two depend on the length of a text, so the same amount is sampled from every trace: up to 64 blocks of 64
successive tokens. For the recall, every other request of each source goes into the store and the others are searched
for; each side has up to 1,000 maps of single tokens. All samples use seed 0.

`warning` lists the limits that a trace exceeds; docs/naturalness.md shows the measurements behind the limits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.threads import one_thread
from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.analysis.nearest_map import DISTANCE, MAPS, nearest_maps, predicted_ahead, share_predicted
from traces.analysis.similarity import draw
from traces.format.reader import Trace

Phase = Literal["decode", "prompts"]
Hashes = NDArray[np.uint64]

BLOCK = 64  # successive tokens
BLOCKS = 64
GRAM = 4
SEED = 0
_ROWS = 1024  # rows hashed at once

FEWEST = 256  # tokens, or maps searched for; fewer are too few to judge
FEWEST_DISTINCT = 0.15
MOST_REPEATED_4GRAMS = 0.25
MOST_REPEATED_ROWS = 0.05
MOST_RECALL = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFigures:
    """The measures of decode tokens or of prompts, as fractions; None if they cannot be measured."""

    rows: int
    """Number of tokens."""
    sampled_tokens: int
    """Number of tokens in the sample for the next two measures."""
    distinct_tokens: float | None
    repeated_4grams: float | None
    repeated_rows: float | None
    nearest_map_recall: float | None
    stored_maps: int
    searched_maps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Naturalness:
    """Naturalness of a trace."""

    decode: PhaseFigures
    prompts: PhaseFigures | None
    """None without a recorded prefill."""
    unknown: Sequence[str]
    """Reasons for missing measures."""

    def to_data(self) -> dict[str, Any]:
        """The measures as plain JSON."""
        return asdict(self)


def naturalness_of(trace: Trace) -> Naturalness:
    """Measure a trace in one pass over its requests."""
    rng = np.random.default_rng(SEED)
    parts = {phase: _Part(trace, phase, rng) for phase in _phases(trace)}
    recorded = False
    for request in trace.without_embeddings().iter():
        recorded = recorded or bool(request.token.any())
        for part in parts.values():
            part.add(request)
    text = recorded and trace.meta.kind != "synthetic"
    with one_thread():
        figures = {phase: part.figures(text=text) for phase, part in parts.items()}
    unknown = []
    if not text:
        unknown.append("token ids are drawn, not text" if recorded else "token ids were not recorded")
    if trace.shape.layers <= DISTANCE:
        unknown.append(f"recall looks {DISTANCE} layers ahead, but there are only {trace.shape.layers} layers")
    elif figures["decode"].nearest_map_recall is None:
        unknown.append("recall needs decode iterations of at least two requests")
    return Naturalness(decode=figures["decode"], prompts=figures.get("prompts"), unknown=unknown)


def warning(found: Mapping[str, Any], generation: Mapping[str, Any]) -> str | None:
    """The limits that a trace exceeds, from `Naturalness.to_data` and `meta.generation`; None without any.

    Prompts that begin alike repeat rows in any recording, so for prompts only the rows that a fit reused count.
    """
    exceeded = list(_beyond_limits(found["decode"]))
    reused = generation.get("fit_repeated_prompt_rows")
    if _above(reused, MOST_REPEATED_ROWS):
        exceeded.append(f"{reused:.0%} of the prompts' rows occurred before")
    return ", ".join(exceeded) or None


def _beyond_limits(decode: Mapping[str, Any]) -> Iterator[str]:
    if _above(decode["repeated_rows"], MOST_REPEATED_ROWS):
        yield f"{decode['repeated_rows']:.0%} of the decode rows occurred before"
    if decode["sampled_tokens"] >= FEWEST:
        if _above(decode["repeated_4grams"], MOST_REPEATED_4GRAMS):
            yield f"{decode['repeated_4grams']:.0%} of the decode 4-grams occurred before"
        if decode["distinct_tokens"] < FEWEST_DISTINCT:
            yield f"{decode['distinct_tokens']:.0%} of the decode tokens are distinct"
    if decode["searched_maps"] >= FEWEST and _above(decode["nearest_map_recall"], MOST_RECALL):
        yield f"nearest-map recall is {decode['nearest_map_recall']:.2f}"


def _above(value: float | None, most: float) -> bool:
    return value is not None and value > most


def _phases(trace: Trace) -> tuple[Phase, ...]:
    return ("decode", "prompts") if trace.meta.prefill else ("decode",)


class _Part:
    """Collects tokens, rows and maps of one phase, request by request."""

    def __init__(self, trace: Trace, phase: Phase, rng: np.random.Generator) -> None:
        decode = {request: trace.decode_rows_of(request) for request in trace.request_ids}
        if phase == "decode":
            self._first = {request: trace.rows_of(request) - decode[request] for request in decode}
            self._rows = decode
        else:
            self._first = dict.fromkeys(decode, 0)
            self._rows = {request: trace.rows_of(request) - decode[request] for request in decode}
        self._blocks = _drawn_blocks(self._rows, rng)
        self._stored, self._searched = (
            _Maps({request: self._rows[request] for request in side}, trace.shape, rng) for side in _sides(trace)
        )
        self._texts: list[list[int]] = []
        self._hashes: list[Hashes] = []
        width = 1 + trace.shape.layers * (trace.shape.top_k + trace.shape.experts)
        self._factors: Hashes = rng.integers(1, 2**64, width, np.uint64)

    def add(self, recorded: RecordedRequest) -> None:
        """Add a request."""
        request = recorded.request
        first, rows = self._first[request], self._rows[request]
        token = recorded.token[first : first + rows]
        self._texts += [token[start : start + BLOCK].tolist() for start in self._blocks.get(request, ())]
        for start in range(first, first + rows, _ROWS):
            self._hashes.append(self._hashes_of(recorded, slice(start, min(start + _ROWS, first + rows))))
        for maps in (self._stored, self._searched):
            maps.add(recorded, first)

    def _hashes_of(self, recorded: RecordedRequest, rows: slice) -> Hashes:
        """A 64-bit hash of each row; collisions are unlikely even among a million different rows."""
        token, experts, gate = (each[rows] for each in (recorded.token, recorded.experts, recorded.gate))
        bits = np.ascontiguousarray(gate).view(np.uint16)
        values = [token[:, None], experts.reshape(len(token), -1), bits.reshape(len(token), -1)]
        hashes: Hashes = np.concatenate(values, axis=1).astype(np.uint64) @ self._factors
        return hashes

    def figures(self, *, text: bool) -> PhaseFigures:
        """The measures of the requests added; `text` says whether token ids are those of a real text."""
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        tokens = [one for each in self._texts for one in each] if text else []
        grams = [gram for each in self._texts for gram in _grams(each)] if text else []
        return PhaseFigures(
            rows=len(hashes),
            sampled_tokens=len(tokens),
            distinct_tokens=len(set(tokens)) / len(tokens) if tokens else None,
            repeated_4grams=1 - len(set(grams)) / len(grams) if grams else None,
            repeated_rows=1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else None,
            nearest_map_recall=_recall(self._stored, self._searched),
            stored_maps=len(self._stored),
            searched_maps=len(self._searched),
        )


def _drawn_blocks(lengths: Mapping[int, int], rng: np.random.Generator) -> dict[int, list[int]]:
    """Start of each sampled block, by request; the last block of a request may be short."""
    blocks = [(request, start) for request, length in lengths.items() for start in range(0, length, BLOCK)]
    found: dict[int, list[int]] = {}
    for place in np.sort(rng.permutation(len(blocks))[:BLOCKS]):
        request, start = blocks[place]
        found.setdefault(request, []).append(start)
    return found


def _grams(text: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All n-grams of `GRAM` successive tokens."""
    return zip(*(text[start:] for start in range(GRAM)), strict=False)


# ---- recall ----------------------------------------------------------------------------------------------------------


def _sides(trace: Trace) -> tuple[list[int], list[int]]:
    """The requests to store and to search for: every other one per source, or of all if no source has two."""
    by_source: dict[str, list[int]] = {}
    for info in trace.infos.values():
        by_source.setdefault(info.source, []).append(info.request)
    stored = [request for some in by_source.values() for request in some[0::2]]
    searched = [request for some in by_source.values() for request in some[1::2]]
    return (stored, searched) if searched else (stored[0::2], stored[1::2])


class _Maps:
    """Up to `MAPS` rows drawn uniformly at random; `rows` is the number of rows of each request."""

    def __init__(self, rows: Mapping[int, int], shape: ModelShape, rng: np.random.Generator) -> None:
        self._picks = draw(rows, MAPS, rng)
        self.gate: Float = np.zeros((sum(map(len, self._picks.values())), shape.layers, shape.experts), np.float32)
        self.experts: Int = np.zeros((len(self.gate), shape.layers, shape.top_k), np.int16)
        self._filled = 0

    def __len__(self) -> int:
        return len(self.gate)

    def add(self, recorded: RecordedRequest, first: int) -> None:
        """Keep the drawn rows of a request, counted from row `first`."""
        if recorded.request in self._picks:
            picked = first + self._picks[recorded.request]
            place = slice(self._filled, self._filled + len(picked))
            self.gate[place], self.experts[place] = recorded.gate[picked], recorded.experts[picked]
            self._filled = place.stop


def _recall(stored: _Maps, searched: _Maps) -> float | None:
    layers, top_k = searched.experts.shape[1:]
    if layers <= DISTANCE or not len(stored) or not len(searched):
        return None
    predicted = predicted_ahead(nearest_maps(searched.gate, stored.gate), stored.gate, DISTANCE, top_k)
    return share_predicted(searched.experts[:, DISTANCE:], predicted)
