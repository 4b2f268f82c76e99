"""How natural a trace is: does its text repeat itself, and do its expert maps?

A model that decodes greedily falls into loops, and a fitted trace may use recorded rows again. Policies that learn have
then seen what comes, and look better than they would on text. Four figures tell, of decode tokens and of prompts:

    distinct tokens       of the tokens that are looked at, the share that differs from all before
    repeated 4-grams      of their 4-grams, the share that occurred before
    repeated rows         of all rows, the share that equals one before: token, experts and gates of every layer
    nearest-map recall    of the executed experts, the share that the nearest of 1,000 maps of other requests names
                          three layers ahead: `nearest_map`, as in the model cards

The first two change with the length of a text, so of every trace the same amount is looked at: up to 64 blocks of 64
successive tokens, drawn at random. Of each source, every other request is stored and the rest are searched for: of
either side up to 1,000 maps of tokens, drawn at random. All draws have the seed 0.

`warning` says where a trace is unlike text; docs/naturalness.md has the figures that the limits come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.threads import one_thread
from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.analysis.nearest_map import DISTANCE, MAPS, named_ahead, nearest_maps, share_named
from traces.analysis.similarity import draw
from traces.format.reader import Trace

Phase = Literal["decode", "prompts"]
Hashes = NDArray[np.uint64]

BLOCK = 64  # successive tokens
BLOCKS = 64
GRAM = 4
SEED = 0
_ROWS = 1024  # that are hashed at once

FEWEST = 256  # tokens, or maps that are searched for: fewer say nothing of text
FEWEST_DISTINCT = 0.15
MOST_REPEATED_4GRAMS = 0.25
MOST_REPEATED_ROWS = 0.05
MOST_RECALL = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFigures:
    """The figures of decode tokens or of prompts; shares are of 1, null where the trace cannot tell."""

    rows: int
    """Tokens in all."""
    sampled_tokens: int
    """Tokens that the next two figures were computed from."""
    distinct_tokens: float | None
    repeated_4grams: float | None
    repeated_rows: float | None
    nearest_map_recall: float | None
    stored_maps: int
    searched_maps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Naturalness:
    """How natural a trace is."""

    decode: PhaseFigures
    prompts: PhaseFigures | None
    """None without a recorded prefill."""
    unknown: Sequence[str]
    """Why figures are null."""

    def to_data(self) -> dict[str, Any]:
        """As plain JSON."""
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
        unknown.append(f"recall is of experts {DISTANCE} layers ahead, and there are {trace.shape.layers} layers")
    elif figures["decode"].nearest_map_recall is None:
        unknown.append("recall is of decode iterations among those of other requests; there are none")
    return Naturalness(decode=figures["decode"], prompts=figures.get("prompts"), unknown=unknown)


def warning(found: Mapping[str, Any], generation: Mapping[str, Any]) -> str | None:
    """In what a trace is unlike text, by `Naturalness.to_data` and how it was made; None if in nothing.

    Prompts that begin alike repeat rows in any recording, so of prompts only rows count that a fit used again.
    """
    said = list(_beyond_limits(found["decode"]))
    used_again = generation.get("fit_repeated_prompt_rows")
    if _above(used_again, MOST_REPEATED_ROWS):
        said.append(f"{used_again:.0%} of the prompts' rows occurred before")
    return ", ".join(said) or None


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
    """Tokens, rows and maps of one phase, as the requests come by."""

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
        """Take a request in."""
        request = recorded.request
        first, rows = self._first[request], self._rows[request]
        token = recorded.token[first : first + rows]
        self._texts += [token[start : start + BLOCK].tolist() for start in self._blocks.get(request, ())]
        for start in range(first, first + rows, _ROWS):
            self._hashes.append(self._hashes_of(recorded, slice(start, min(start + _ROWS, first + rows))))
        for maps in (self._stored, self._searched):
            maps.add(recorded, first)

    def _hashes_of(self, recorded: RecordedRequest, rows: slice) -> Hashes:
        """A number of 64 bits for each row: two of a million different rows are hardly ever given the same."""
        token, experts, gate = (each[rows] for each in (recorded.token, recorded.experts, recorded.gate))
        bits = np.ascontiguousarray(gate).view(np.uint16)
        values = [token[:, None], experts.reshape(len(token), -1), bits.reshape(len(token), -1)]
        hashes: Hashes = np.concatenate(values, axis=1).astype(np.uint64) @ self._factors
        return hashes

    def figures(self, *, text: bool) -> PhaseFigures:
        """Of what came by; `text` says whether token ids are those of a text."""
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
    """Of each request the first tokens of its blocks that are looked at; its last block may be short."""
    blocks = [(request, start) for request, length in lengths.items() for start in range(0, length, BLOCK)]
    found: dict[int, list[int]] = {}
    for place in np.sort(rng.permutation(len(blocks))[:BLOCKS]):
        request, start = blocks[place]
        found.setdefault(request, []).append(start)
    return found


def _grams(text: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every `GRAM` successive tokens."""
    return zip(*(text[start:] for start in range(GRAM)), strict=False)


# ---- recall ----------------------------------------------------------------------------------------------------------


def _sides(trace: Trace) -> tuple[list[int], list[int]]:
    """The requests to store and those to search for: of each source, every other one; of all, if none has two."""
    by_source: dict[str, list[int]] = {}
    for info in trace.infos.values():
        by_source.setdefault(info.source, []).append(info.request)
    stored = [request for some in by_source.values() for request in some[0::2]]
    searched = [request for some in by_source.values() for request in some[1::2]]
    return (stored, searched) if searched else (stored[0::2], stored[1::2])


class _Maps:
    """Up to `MAPS` rows, drawn from `rows` of each request, each row as likely as any other."""

    def __init__(self, rows: Mapping[int, int], shape: ModelShape, rng: np.random.Generator) -> None:
        self._picks = draw(rows, MAPS, rng)
        self.gate: Float = np.zeros((sum(map(len, self._picks.values())), shape.layers, shape.experts), np.float32)
        self.experts: Int = np.zeros((len(self.gate), shape.layers, shape.top_k), np.int16)
        self._filled = 0

    def __len__(self) -> int:
        return len(self.gate)

    def add(self, recorded: RecordedRequest, first: int) -> None:
        """Take from a request what was picked of it, counted from row `first`."""
        if recorded.request in self._picks:
            picked = first + self._picks[recorded.request]
            place = slice(self._filled, self._filled + len(picked))
            self.gate[place], self.experts[place] = recorded.gate[picked], recorded.experts[picked]
            self._filled = place.stop


def _recall(stored: _Maps, searched: _Maps) -> float | None:
    layers, top_k = searched.experts.shape[1:]
    if layers <= DISTANCE or not len(stored) or not len(searched):
        return None
    named = named_ahead(nearest_maps(searched.gate, stored.gate), stored.gate, DISTANCE, top_k)
    return share_named(searched.experts[:, DISTANCE:], named)
