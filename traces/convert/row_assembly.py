"""Assemble rows of routing, each for one token and layer, to requests; misplaced rows raise an error."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import HALF_PAIR, has_half_pair
from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.convert.imported_trace import Pair
from traces.convert.routing_row import ROW_PARTS, Row
from traces.format.schema import GATE_SUM_TOLERANCE, RequestInfo, TraceError

_OPTIONAL = ("request", "layer", "position", "iteration", "phase", "weights", "gate", "token")
_LARGEST = np.iinfo(np.int32).max
_SMALLEST = np.finfo(np.float16).smallest_subnormal


@dataclass(slots=True)
class _Token:
    """The rows of one token so far; one entry per layer in each list."""

    first: Row
    forward_pass: int
    lines: list[int] = field(default_factory=list)
    experts: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    gates: list[Any] = field(default_factory=list)


class Assembler:
    """Assembles requests from rows sorted by request, with one request in memory.

    The layers of a token must come in order, 0 to L - 1, and the tokens of a request by position. The tokens of a
    forward pass may come one after the other, or layer by layer, as hooks of a router write them. If rows have neither
    iteration nor phase, tokens that come layer by layer belong to one pass, and any other token is a pass by itself. If
    the first request starts with a pass of several tokens, the first pass of every request is its prefill. Raises
    `TraceError` with file, line (`unit`), field and value.

    Weights (or gates, if present) are kept if they sum to 1 as float16 within the format's tolerance. Others, such as
    the probabilities of only the top-k, are divided by their sum and counted. Without both, the executed experts get
    1/K each.
    """

    def __init__(self, file: Path, shape: ModelShape, *, names: Mapping[str, str] | None = None, unit: str = "line"):
        self.file = file
        self.shape = shape
        self.prefill = False  # set when the first request is complete
        self.has: dict[str, bool] = {}  # presence of each part in `_OPTIONAL`; set by the first row
        self.rescaled = 0
        self._names = {name: name for name in ROW_PARTS} | dict(names or {})
        self._unit = unit
        self._requests = 0

    def requests(self, rows: Iterable[Row]) -> Iterator[Pair]:
        """The requests of the rows, numbered in order; raises `TraceError` if rows of a request are not adjacent."""
        tokens: list[_Token] = []
        seen: set[Hashable] = set()
        for row in rows:
            self._check_parts(row)
            if not isinstance(row.request, str | int | None):
                raise self.error(row.line, "must be a string or a whole number", "request", repr(row.request)[:60])
            if not tokens or row.request != tokens[0].first.request:
                if tokens:
                    yield self._finish(tokens)
                if row.request in seen:
                    advice = "sort the file by request, and keep the order within each"
                    what = f"request {row.request!r} continues after another request began; {advice}"
                    raise self.error(row.line, what, "request")
                seen.add(row.request)
                tokens = []
            self._add(tokens, row)
        if not tokens:
            raise TraceError.at(self.file, "has no request")
        yield self._finish(tokens)

    def notes(self) -> list[str]:
        """Notes on deviations from the recording."""
        notes = []
        if not (self.has["weights"] or self.has["gate"]):
            notes.append("no weights were recorded: every executed expert has 1/K")
        if self.rescaled:
            notes.append(f"{self.rescaled} layers' weights that did not sum to 1 were divided by their sum")
        if not self.has["token"]:
            notes.append("token ids were not recorded and are written as 0")
        if not self.has["position"]:
            notes.append("positions were not recorded and count from the first token")
        if not (self.prefill or self.has["iteration"] or self.has["phase"]):
            notes.append("the recording does not mark a prefill: every token counts as a decode step")
        return notes

    def error(self, line: int, what: str, name: str, value: object = None) -> TraceError:
        """The error for a line, with the source's own name of the field."""
        return TraceError.at(f"{self.file}: {self._unit} {line}, field {self._names[name]}", what, value=value)

    # ---- row by row --------------------------------------------------------------------------------------------------

    def _check_parts(self, row: Row) -> None:
        """Check that every row has the same parts as the first row."""
        if not self.has:
            self.has = {name: getattr(row, name) is not None for name in _OPTIONAL}
        for name, has in self.has.items():
            if (getattr(row, name) is not None) != has:
                raise self.error(row.line, "must be in all rows or in none", name)
        if row.experts is None:
            raise self.error(row.line, "is missing", "experts")

    def _add(self, tokens: list[_Token], row: Row) -> None:
        layer = row.layer if row.layer is not None else 0
        if type(layer) is not int or not 0 <= layer < self.shape.layers:
            raise self.error(row.line, f"must be from 0 to {self.shape.layers - 1}", "layer", repr(row.layer))
        token = self._token_of(tokens, row, layer)
        if layer != len(token.lines):
            if layer < len(token.lines):
                what = f"layer {layer} of this token is already in {self._unit} {token.lines[layer]}"
                if layer == row.position == 0:
                    what += "; if positions restart in every forward pass, set `index` to pass"
                raise self.error(row.line, what, "layer")
            raise self.error(row.line, f"must be {len(token.lines)}, the next layer of this token", "layer", layer)
        for name in ("iteration", "phase", "token"):
            if getattr(row, name) != getattr(token.first, name):
                what = (
                    f"must be {getattr(token.first, name)!r}, as in {self._unit} {token.first.line} of the same token"
                )
                raise self.error(row.line, what, name, repr(getattr(row, name)))
        layers = self.shape.layers if row.layer is None else None
        for name, width, into in (
            ("experts", self.shape.top_k, token.experts),
            ("weights", self.shape.top_k, token.weights),
            ("gate", self.shape.experts, token.gates),
        ):
            values = getattr(row, name)
            if values is not None:
                cells = [values] if layers is None else self._list(row, name, values, layers)
                into.extend(self._list(row, name, cell, width) for cell in cells)
        token.lines.extend([row.line] * (layers or 1))

    def _list(self, row: Row, name: str, values: Any, length: int) -> Any:
        if not isinstance(values, list | np.ndarray):
            raise self.error(row.line, f"must be a list of {length}", name, repr(values)[:60])
        if len(values) != length:
            raise self.error(row.line, f"must have {length} entries", name, len(values))
        return values

    def _token_of(self, tokens: list[_Token], row: Row, layer: int) -> _Token:
        """The token that the row belongs to: an existing one, or a new one if it is next."""
        last = tokens[-1] if tokens else None
        complete = last is None or len(last.lines) == self.shape.layers
        if row.position is None:
            index = len(tokens) if complete else len(tokens) - 1
        else:
            if type(row.position) is not int or not 0 <= row.position <= _LARGEST:
                raise self.error(row.line, f"must be from 0 to {_LARGEST}", "position", repr(row.position))
            index = row.position - (tokens[0].first.position if tokens else row.position)
        if 0 <= index < len(tokens):
            return tokens[index]
        if index != len(tokens):
            wanted = tokens[0].first.position + len(tokens)
            raise self.error(row.line, f"must be {wanted}, the next position", "position", row.position)
        if layer:
            raise self.error(row.line, "must be 0, the first layer of a new token", "layer", layer)
        # A new token may come when all others are complete, or in the first layer of the same pass.
        if not complete and len(tokens[-1].lines) > 1:
            there = f"{len(tokens[-1].lines)} of {self.shape.layers} layers"
            what = f"position {row.position} starts a new token, but the last token has only {there}"
            raise self.error(row.line, what, "position")
        if complete:
            self._check_complete(tokens)
        number = last.forward_pass + complete if last else 0
        tokens.append(_Token(row, number))
        return tokens[-1]

    def _check_complete(self, tokens: list[_Token]) -> None:
        for token in reversed(tokens):
            if len(token.lines) < self.shape.layers:
                what = f"this token has no layer {len(token.lines)}"
                raise self.error(token.lines[-1], what, "layer")
            if token.forward_pass < tokens[-1].forward_pass:
                return  # earlier passes have been checked

    # ---- a whole request ---------------------------------------------------------------------------------------------

    def _finish(self, tokens: list[_Token]) -> Pair:
        self._check_complete(tokens)
        first, shape = tokens[0].first, self.shape
        lines = np.array([token.lines for token in tokens])  # [N, L]
        iteration = self._iterations(tokens)
        experts = self._array([token.experts for token in tokens], "experts", "iu", lines).astype(np.int64)
        outside = (experts < 0) | (experts >= shape.experts)
        self._refuse(outside, lines, "experts", f"must be from 0 to {shape.experts - 1}", experts)
        ordered = np.sort(experts, axis=2)
        repeated = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(2)
        self._refuse(repeated, lines, "experts", "must be distinct", experts)
        if self.has["gate"]:
            gate = self._shares(self._array([token.gates for token in tokens], "gate", "iuf", lines), "gate", lines)
        else:
            gate = np.zeros((len(tokens), shape.layers, shape.experts), np.float16)
            np.put_along_axis(gate, experts, self._weights(tokens, lines), axis=2)
        rows = [token.first for token in tokens]
        source = str(first.source) if first.source is not None else f"{self.file.stem}/{first.request or 0}"
        if has_half_pair(source):
            raise self.error(first.line, f"contains {HALF_PAIR}", "source")
        recorded = RecordedRequest(
            request=self._requests,
            source=source,
            iteration=iteration,
            position=np.arange(len(rows), dtype=np.int32) + np.int32(first.position or 0),
            token=self._tokens(rows),
            gate=gate,
            experts=experts.astype(np.int16),
        )
        self._requests += 1
        prompt = int((iteration == 0).sum())
        output = int(iteration[-1]) - int(iteration[0]) + 1
        info = RequestInfo(
            request=recorded.request,
            source=recorded.source,
            prompt_tokens=prompt if self.prefill else None,
            output_tokens=output,
        )
        return info, recorded

    def _iterations(self, tokens: list[_Token]) -> Int:
        """Iterations `[N]` int32, from 0 with a prefill, else from 1."""
        rows = [token.first for token in tokens]
        if self.has["iteration"]:
            name, found = "iteration", [row.iteration for row in rows]
        elif self.has["phase"]:
            name, found, step = "phase", [], 0
            for row in rows:
                if row.phase not in ("prefill", "decode"):
                    raise self.error(row.line, "must be prefill or decode", "phase", repr(row.phase))
                step = 0 if row.phase == "prefill" and step == 0 else step + 1
                found.append(step)
                if row.phase == "prefill" and step:
                    raise self.error(row.line, "must not be prefill after a decode step", "phase")
        else:
            name, passes = "position", [token.forward_pass for token in tokens]
            prefill = self.prefill if self._requests else passes.count(0) > 1
            found = [number + (not prefill) for number in passes]
        if not self._requests:
            self.prefill = found[0] == 0
        for before, row, number in zip([None, *found], rows, found, strict=False):
            first = 0 if self.prefill else 1
            if type(number) is not int:
                raise self.error(row.line, "must be a whole number", name, repr(number))
            if before is None and number != first:
                what = f"a request must start at iteration {first}{', as the first one does' * (self._requests > 0)}"
                raise self.error(row.line, what, name, number)
            if before is not None and number == before and number > 0:
                what = f"iteration {number} is a decode step, so it must have one token, but this is its second"
                raise self.error(row.line, what, name)
            if before is not None and number not in (before, before + 1):
                raise self.error(row.line, f"must be iteration {before} or {before + 1}", name, number)
        return np.array(found, np.int32)

    def _tokens(self, rows: list[Row]) -> Int:
        if not self.has["token"]:
            return np.zeros(len(rows), np.int32)
        for row in rows:
            if type(row.token) is not int or not 0 <= row.token < self.shape.vocab:
                raise self.error(row.line, f"must be from 0 to {self.shape.vocab - 1}", "token", repr(row.token))
        return np.array([row.token for row in rows], np.int32)

    def _weights(self, tokens: list[_Token], lines: Int) -> Float:
        """Positive weights of the executed experts, `[N, L, K]` float16."""
        if not self.has["weights"]:
            return np.full((*lines.shape, self.shape.top_k), 1 / self.shape.top_k, np.float16)
        weights = self._array([token.weights for token in tokens], "weights", "iuf", lines)
        self._refuse(~(weights > 0), lines, "weights", "must be positive", weights)
        return np.maximum(self._shares(weights, "weights", lines), _SMALLEST)  # an executed expert must not round to 0

    def _shares(self, values: NDArray[Any], name: str, lines: Int) -> Float:
        """`values` `[N, L, …]` as float16 with sum 1: unchanged if they have it, else divided by their sum."""
        values = values.astype(np.float64)
        self._refuse(~(np.isfinite(values) & (values >= 0)), lines, name, "must be finite and at least 0", values)
        with np.errstate(over="ignore"):
            totals = values.sum(axis=2, keepdims=True)
        self._refuse(~(np.isfinite(totals) & (totals > 0)), lines, name, "must have a finite sum above 0", totals)
        with np.errstate(over="ignore"):  # a value beyond float16 becomes infinite, and so off
            rounded = values.astype(np.float16)
            off = ~(np.abs(rounded.sum(axis=2, dtype=np.float32) - 1.0) <= GATE_SUM_TOLERANCE)
        self.rescaled += int(off.sum())
        shares: Float = np.where(off[:, :, None], values / totals, values).astype(np.float16)
        return shares

    def _array(self, cells: list[Any], name: str, kinds: str, lines: Int) -> NDArray[Any]:
        """Array `[N, L, …]` of numbers of these kinds; raises `TraceError` with the line for anything else."""
        try:
            array = np.array(cells)
        except (ValueError, OverflowError):
            array = np.array(cells, object)
        if array.ndim == 3 and array.dtype.kind in kinds:
            return array
        what = "must be whole numbers" if kinds == "iu" else "must be numbers"
        for (token, layer), line in np.ndenumerate(lines):
            for value in cells[token][layer]:
                if not isinstance(value, int if kinds == "iu" else int | float) or not abs(value) < 2**63:
                    raise self.error(int(line), what, name, repr(value)[:60])
        raise self.error(int(lines[0, 0]), what, name)

    def _refuse(self, bad: NDArray[np.bool_], lines: Int, name: str, what: str, values: NDArray[Any]) -> None:
        """Raise `TraceError` for the first of the `bad` places, `[N, L]` or `[N, L, …]`."""
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            value = values[at].item() if len(at) == values.ndim else values[at[:2]].tolist()
            raise self.error(int(lines[at[:2]]), what, name, value)
