"""Convert route logs in JSON Lines: one line per token and layer, per token, or per response.

vLLM itself writes no such log. The formats follow two sources. Two public loggers, patched into vLLM's `FusedMoE` layer
(0.11.2.dev and 0.15.1), write a header `{"type": "meta", …, "layers_logged": […], "top_k": 4}` and then, per token and
layer, `{"type": "route", "req_id", "token_idx", "layer", "topk_ids", "topk_weights"}`. There `token_idx` restarts in
every forward pass, and the first pass is vLLM's profiling run. The documentation of `--enable-return-routed-experts`
(0.21) describes `prompt_routed_experts` `[prompt, L, K]` beside `choices[i].routed_experts` `[generated, L, K]`, and
offline one array `[tokens - 1, L, K]` for both; one such response per line is read if its arrays are nested lists. The
last generated token is never an input, so it may have no row.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from policies.types import ModelShape
from traces.convert.assembled_trace import write_rows
from traces.convert.conversion_settings import ImportTarget, LogReading
from traces.convert.imported_trace import (
    json_objects,
    sha256_of,
)
from traces.convert.pass_positions import by_pass
from traces.convert.routing_row import ROW_PARTS, Row
from traces.convert.row_assembly import Assembler
from traces.format.schema import TraceError

# Known keys for the parts of a row; the first key present in the first row is used.
ALIASES: dict[str, tuple[str, ...]] = {
    "request": ("request", "request_id", "req_id", "prompt_id", "seq_id"),
    "position": ("position", "token_idx", "token_index", "token_pos"),
    "iteration": ("iteration", "step"),
    "phase": ("phase",),
    "layer": ("layer", "layer_idx", "layer_id"),
    "experts": ("experts", "topk_ids", "selected_experts", "expert_ids", "topk_experts", "routed_experts"),
    "weights": ("weights", "topk_weights", "router_scores", "expert_weights"),
    "gate": ("gate", "router_softmax", "router_probs"),
    "token": ("token", "token_id"),
    "source": ("source",),
}


class Lines:
    """The rows of a JSONL route log, streamed."""

    def __init__(self, file: Path, shape: ModelShape, how: LogReading) -> None:
        self.file = file
        self.shape = shape
        self.how = how
        self.dropped = 0
        self._warmup = how.warmup_rows
        self.names = self._names()

    def __iter__(self) -> Iterator[Row]:
        self.dropped = 0
        return by_pass(self._rows(), self.how.warmup_passes, self._drop) if self.how.index == "pass" else self._rows()

    def _drop(self, rows: int) -> None:
        self.dropped += rows

    def _rows(self) -> Iterator[Row]:
        for number, data in self._objects():
            if "choices" in data or _depth(data.get(self.names["experts"])) == 3:
                yield from self._response(number, data)
            else:
                row = Row(line=number, **{name: data.get(self.names[name]) for name in ROW_PARTS})
                if type(row.layer) is int:
                    row.layer -= self.how.first_layer
                yield row

    def _names(self) -> dict[str, str]:
        """The key of each part of a row, determined by the first row."""
        first = next(self._objects(), None)
        if first is None:
            raise TraceError.at(self.file, "has no row")
        number, data = first
        names = {
            name: next((alias for alias in aliases if alias in data), aliases[0]) for name, aliases in ALIASES.items()
        }
        names |= self.how.names
        missing = [key for key in self.how.names.values() if key and key not in data]
        if names["experts"] not in data and "choices" not in data:
            missing.append(names["experts"])
        if missing:
            known = ", ".join(sorted(data)) or "no fields"
            raise TraceError.at(f"{self.file}: line {number}, field {missing[0]}", f"is missing; it has {known}")
        return names

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and content of each line, without headers, blank lines and warm-up rows."""
        for number, data in json_objects(self.file):
            if data.get("type") == "meta":
                self._check_header(number, data)
            elif data.get("warmup") is True or any(_is(data, key, value) for key, value in self._warmup):
                self.dropped += 1
            else:
                yield number, data

    def _check_header(self, number: int, header: Mapping[str, Any]) -> None:
        place, shape = f"{self.file}: line {number}, field ", self.shape
        if "top_k" in header and header["top_k"] != shape.top_k:
            raise TraceError.at(f"{place}top_k", f"must be {shape.top_k} for {shape.name}", value=header["top_k"])
        logged = header.get("layers_logged")
        if isinstance(logged, list) and len(logged) != shape.layers:
            what = f"must list all {shape.layers} layers of {shape.name}"
            raise TraceError.at(f"{place}layers_logged", what, value=logged)

    def _response(self, number: int, data: Mapping[str, Any]) -> Iterator[Row]:
        """The rows of a whole response, one per token: first the prompt, then the generated tokens."""
        place = f"{self.file}: line {number}, field "
        choice, key = data, self.names["experts"]
        if "choices" in data:
            one = data["choices"]
            if not isinstance(one, list) or len(one) != 1 or not isinstance(one[0], dict):
                raise TraceError.at(f"{place}choices", "must be a list of one choice")
            choice, key = one[0], "routed_experts"
        prompt, generated = data.get("prompt_routed_experts"), choice.get(key)
        for name, routed in (("prompt_routed_experts", prompt), (key, generated)):
            if routed is not None and _depth(routed) != 3:
                what = "must be nested lists [tokens][layers][top-k]; decode encoded arrays first"
                raise TraceError.at(f"{place}{name}", what)
        ids, new = data.get("prompt_token_ids") or [], choice.get("token_ids") or []
        for name, some in (("prompt_token_ids", ids), ("token_ids", new)):
            if not isinstance(some, list):
                raise TraceError.at(f"{place}{name}", "must be a list")
        tokens, experts = [*ids, *new], [*(prompt or []), *(generated or [])]
        length = len(ids) if prompt is None else len(prompt)
        for position, layers in enumerate(experts):
            yield Row(
                line=number,
                request=data.get(self.names["request"], data.get("id", f"line {number}")),
                position=position,
                iteration=max(0, position - length + 1),
                experts=layers[self.how.first_layer :] if isinstance(layers, list) else layers,
                token=tokens[position] if position < len(tokens) else None,
            )


def _is(data: Mapping[str, Any], key: str, value: str) -> bool:
    return key in data and value in (data[key], json.dumps(data[key]))


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        depth, value = depth + 1, value[0]
    return depth


def convert_jsonl(file: Path, shape: ModelShape, target: ImportTarget, how: LogReading) -> Path:
    """Convert a route log, with one request at a time in memory."""
    digest = sha256_of(file)
    lines = Lines(file, shape, how)
    plan = {"convert": "jsonl", "sha256": digest, "reading": asdict(how)}
    notes = [f"converted from {file.name}, SHA-256 {digest}"]
    if how.index == "pass":
        notes.append("requests and prefills inferred from forward passes, assuming that requests ran one at a time")
    assembler = Assembler(file, shape, names=lines.names)
    return write_rows(lines, assembler, target, notes, plan, lambda: lines.dropped)
