"""Convert route traces of BigMoeOnEdge: routing, applied weights, and the state of the engine's own cache.

Before the experts of the last layer, llama.cpp drops all tokens of a prompt except the last one, whose output is
needed. So in the prefill only the last token executes that layer; the others have -1 there. A turn is a request. The
engine's cache stays warm from turn to turn, as a simulated cache does from request to request.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from policies.executed import scattered
from policies.types import Bool, Float, Int, ModelShape, RecordedRequest
from traces.convert.conversion_settings import ImportTarget, OptionalTracedModel
from traces.convert.imported_trace import Pair, imported, sha256_of, write_trace
from traces.convert.route_trace_file import RouteTrace, first, read_route_trace
from traces.format.schema import GATE_SUM_TOLERANCE, RequestInfo, TraceError

# To estimate sizes of an unknown model:
_WEIGHT_BYTES = 4.5 / 8  # bytes per weight in GGUF's 4-bit blocks
_HEAD = 64  # size of an attention head
_VOCAB = 1 << 17
_SMALLEST = np.finfo(np.float16).smallest_subnormal


class Recording:
    """The rows of a route trace arranged as arrays; raises `TraceError` with the line of a misplaced row.

    `T` tokens in order of turn and step, `L` MoE layers numbered from 0, `K` executed experts each.
    """

    def __init__(self, file: Path, rows: RouteTrace) -> None:
        self.file = file
        self.rows = rows
        self.layer_numbers: Int = np.unique(rows.layer)  # [L] numbers in the file
        self._check_layers()
        experts = self.experts_in_a_layer()
        if (wide := rows.slot >= experts).any():
            what = f"must be below {experts}, the number of experts"
            raise self.error(first(wide), what, "slot", rows.slot[first(wide)])
        self.top_k = int(rows.slot.max()) + 1
        self.expert_bytes = tuple(map(self._expert_bytes, self.layer_numbers.tolist()))
        self._order_tokens()
        place = self.token_of, np.searchsorted(self.layer_numbers, rows.layer), rows.slot
        self.line = self._placed(place)  # [T, L, K] line of each row, 0 without a row
        self._check_complete()
        size = self.line.shape
        executed = rows.dropped == 0
        self.experts: Int = np.full(size, -1, np.int16)
        self.experts[place] = np.where(executed, rows.expert, -1)
        self.residency: Int = np.full(size, -1, np.int8)
        self.residency[place] = np.where(executed, rows.residency, -1)
        self.weights: Float = np.zeros(size)
        self.weights[place] = np.where(executed, rows.weight, 0)
        self._check_experts()

    def experts_in_a_layer(self) -> int:
        """J, from the comments, or else the largest expert number in a row plus 1."""
        return self.rows.preamble.sizes.get("n_expert", int(self.rows.expert.max()) + 1)

    def error(self, row: int, what: str, field: str, value: object = None) -> TraceError:
        """The error for a row."""
        return TraceError.at(f"{self.file}: line {self.rows.line[row]}, field {field}", what, value=value)

    def _check_layers(self) -> None:
        """Check that every layer with an expert size has rows."""
        silent = {layer for layer, size in self.rows.preamble.expert_bytes.items() if size} - {
            int(layer) for layer in self.layer_numbers
        }
        if silent:
            what = f"no row has layer {min(silent)}, but a comment gives its expert size"
            raise TraceError.at(f"{self.file}, field layer", what)

    def _expert_bytes(self, layer: int) -> int:
        """Size of an expert of the layer, from the comments, or else the largest read in a row."""
        rows = self.rows
        own = rows.layer == layer
        size = rows.preamble.expert_bytes.get(layer) or int(rows.expert_bytes[own].max())
        if not size:
            what = f"neither a comment nor a row gives the size of an expert of layer {layer}"
            raise self.error(first(own), what, "expert_bytes")
        return size

    def _order_tokens(self) -> None:
        """Number the tokens, and check that the steps of each turn are consecutive."""
        rows = self.rows
        tokens, at, self.token_of = np.unique(
            np.stack([rows.turn, rows.phase, rows.step]), axis=1, return_index=True, return_inverse=True
        )
        self.token_of = self.token_of.reshape(-1)
        self.turn, self.phase, self.step = tokens  # [T] each
        starts = np.flatnonzero(np.diff(self.turn, prepend=-1))
        self.turns = [slice(begin, end) for begin, end in zip(starts, [*starts[1:], len(at)], strict=True)]
        self.prefill = bool(self.phase[0] == 0)
        for turn in self.turns:
            row, number = int(at[turn.start]), self.turn[turn.start]
            if (self.phase[turn.start] == 0) != self.prefill:
                has, others = ("no", "have one") if self.prefill else ("a", "have none")
                raise self.error(row, f"turn {number} has {has} prefill, but the turns before {others}", "phase")
            jumps = np.diff(self.step[turn]) != 1
            if jumps.any():
                token = turn.start + first(jumps) + 1
                what = f"must be {self.step[token - 1] + 1}, the next step of turn {number}"
                raise self.error(int(at[token]), what, "step", self.step[token])

    def _placed(self, place: tuple[Int, Int, Int]) -> Int:
        size = len(self.turn), len(self.layer_numbers), self.top_k
        flat = np.ravel_multi_index(place, size)
        _, at = np.unique(flat, return_index=True)
        if len(at) < len(flat):
            row = first(~np.isin(np.arange(len(flat)), at))
            earlier = self.rows.line[first(flat == flat[row])]
            what = f"repeats turn, phase, step, layer and slot of line {earlier}"
            raise self.error(row, what, "slot")
        line = np.zeros(size, np.int64)
        line[place] = self.rows.line
        return line

    def _check_complete(self) -> None:
        """Check that every token has all layers and slots; in a prompt's last layer the last token is enough."""
        there = self.line > 0
        wanted: Bool = np.ones(there.shape[:2], bool)
        for turn in self.turns:
            prompt = turn.start + int((self.phase[turn] == 0).sum())
            if prompt - turn.start > 1 and not there[turn.start : prompt - 1, -1].any():
                wanted[turn.start : prompt - 1, -1] = False
        gaps: Bool = wanted[:, :, None] & ~there
        if gaps.any():
            token, layer, slot = np.argwhere(gaps)[0].tolist()
            what = f"step {self.step[token]} of turn {self.turn[token]} has no "
            what += f"layer {self.layer_numbers[layer]}"
            lines = self.line[token, layer] if there[token, layer].any() else self.line[token]
            if there[token, layer].any():
                what += f", slot {slot}"
            last = int(lines.max())
            field = "slot" if there[token, layer].any() else "layer"
            raise TraceError.at(f"{self.file}: line {last}, field {field}", what)

    def _check_experts(self) -> None:
        """Check that no expert is repeated for a token and layer, and that at least one is not dropped."""
        order = np.argsort(self.experts, axis=2, kind="stable")
        ordered = np.take_along_axis(self.experts, order, axis=2)
        same: Bool = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
        if same.any():
            token, layer, pair = np.argwhere(same)[0].tolist()
            line = self.line[token, layer, order[token, layer, pair + 1]]
            earlier = self.line[token, layer, order[token, layer, pair]]
            what = f"expert {ordered[token, layer, pair]} is already in line {earlier} for the same token and layer"
            raise TraceError.at(self.file, what, line=line, field="expert")
        idle = (self.line > 0).any(axis=2) & (self.experts < 0).all(axis=2)
        if idle.any():
            token, layer = np.argwhere(idle)[0].tolist()
            line = self.line[token, layer].max()
            raise TraceError.at(f"{self.file}: line {line}, field dropped", "all experts of a token were dropped")

    def shares(self) -> tuple[Float, list[str]]:
        """Weights of the executed experts, `[T, L, K]` float16 with sum 1, and notes on how they were adjusted."""
        executed: Bool = np.greater_equal(self.experts, 0)
        weights, notes = self.weights, []
        unknown: Bool = np.any(np.isnan(weights), axis=2)
        if unknown.any():
            weights = np.where(unknown[:, :, None], executed, weights)
            notes.append(f"{int(unknown.sum())} layers of tokens have no weights: every executed expert has 1/K")
        weights = np.maximum(weights, executed * float(_SMALLEST))  # an executed expert must not round to 0
        totals = weights.sum(axis=2, keepdims=True)
        off = (np.abs(totals[:, :, 0] - 1) > GATE_SUM_TOLERANCE / 2) & executed.any(axis=2)
        if rescaled := int((off & ~unknown).sum()):
            notes.append(f"{rescaled} layers' weights that did not sum to 1 were divided by their sum")
        shares = np.divide(weights, totals, out=weights, where=off[:, :, None])
        return np.maximum(shares.astype(np.float16), executed * _SMALLEST).astype(np.float16), notes

    def notes(self) -> list[str]:
        """Notes on deviations from the recording."""
        rows, notes = self.rows, ["token ids were not recorded and are written as 0"]
        if not (self.line[:, -1] > 0).all():
            notes.append("the last layer executes only the last token of a prompt; the other tokens have -1 there")
        if self.layer_numbers[-1] >= len(self.layer_numbers):
            notes.append(f"layers {', '.join(map(str, self.layer_numbers))} are renumbered from 0")
        if dropped := int(rows.dropped.sum()):
            notes.append(f"{dropped} experts that the engine dropped are written as -1")
        if "n_expert" not in rows.preamble.sizes:
            notes.append(f"the file has no number of experts: {self.experts_in_a_layer()} follows from the largest one")
        return notes

    def requests(self, experts: int, shares: Float) -> Iterator[Pair]:
        """The turns as requests."""
        for number, turn in enumerate(self.turns):
            executed = self.experts[turn]
            prompt = int((self.phase[turn] == 0).sum())
            decoded = len(executed) - prompt
            recorded = RecordedRequest(
                request=number,
                source=f"{self.file.stem}/{self.turn[turn.start]}",
                iteration=np.concatenate([np.zeros(prompt, np.int32), np.arange(1, decoded + 1, dtype=np.int32)]),
                position=self.step[turn].astype(np.int32),
                token=np.zeros(len(executed), np.int32),
                gate=np.ascontiguousarray(scattered(shares[turn], executed, experts, np.float16)),
                experts=executed,
                residency=self.residency[turn],
            )
            yield (
                RequestInfo(
                    request=number,
                    source=recorded.source,
                    prompt_tokens=prompt or None,
                    output_tokens=decoded + (prompt > 0),
                ),
                recorded,
            )


def shape_of(recording: Recording, asked: OptionalTracedModel) -> tuple[ModelShape, list[str]]:
    """The traced model with layers, experts, top-k and expert bytes of the file, and notes on estimates.

    The file does not state the model's width. For an unnamed model, attention and experts get sizes that match the
    bytes in the file at 4.5 bits per weight, so that compute times are about right, and a vocabulary of 2^17.
    """
    preamble, sizes = recording.rows.preamble, recording.expert_bytes
    layers, experts, mean = len(sizes), recording.experts_in_a_layer(), sum(sizes) / len(sizes)
    known = asked.sizes()
    notes = []
    if known is None:
        dense = [preamble.dense_bytes.get(layer, 0) for layer in recording.layer_numbers.tolist()]
        numbers = sum(dense) / layers / _WEIGHT_BYTES or mean / _WEIGHT_BYTES
        # Queries, keys, values and outputs of h numbers each, and a router: 4h² + Jh weights.
        heads = max(1, round((math.sqrt(experts**2 + 16 * numbers) - experts) / 8 / _HEAD))
        known = ModelShape(
            name=asked.model or preamble.model or recording.file.stem,
            layers=layers,
            experts=experts,
            top_k=recording.top_k,
            hidden=heads * _HEAD,
            expert_ffn=max(1, round(mean / (3 * heads * _HEAD * _WEIGHT_BYTES))),
            attention_heads=heads,
            kv_heads=heads,
            head_dim=_HEAD,
            vocab=_VOCAB,
        )
        notes.append("hidden size, expert FFN, attention and vocabulary are guessed; give model or shape for true ones")
    for name, found in (("layers", layers), ("experts", experts)):
        if getattr(known, name) != found:
            raise UserError(f"{known.name}: {name} must be {found}, as in {recording.file}, not {getattr(known, name)}")
    shape = replace(
        known,
        top_k=recording.top_k,
        weight_bytes=mean / (3 * known.hidden * known.expert_ffn),
        expert_bytes_by_layer=sizes,
    )
    return shape, notes


def convert_route_trace(file: Path, asked: OptionalTracedModel, target: ImportTarget) -> Path:
    """Convert a route trace, with all of it in memory."""
    digest = sha256_of(file)
    recording = Recording(file, read_route_trace(file))
    shape, guessed = shape_of(recording, asked)
    shares, changed = recording.shares()
    notes = [f"converted from BigMoeOnEdge's {file.name}, SHA-256 {digest}", *recording.notes(), *changed, *guessed]
    meta = imported(
        shape,
        target,
        notes,
        gate_complete=False,
        prefill=recording.prefill,
        all_executed=bool((recording.experts >= 0).all()),
        residency=True,
    )
    plan = {"convert": "route-trace", "sha256": digest, "model": asked.model, "shape": asked.shape}
    return write_trace(target, meta, recording.requests(shape.experts, shares), plan=plan, total=len(recording.turns))
