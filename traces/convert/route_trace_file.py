"""Read the file that BigMoeOnEdge writes with `--route-trace`: comments with sizes, then one row per routed expert.

The format follows docs/telemetry.md and `route_trace.cpp` of Helldez/BigMoeOnEdge, and one of its files:

    # route_trace v1
    # model=PATH arch=NAME n_layer=N n_expert=N n_expert_used=N
    # layer=N expert_bytes=N dense_bytes=N
    turn,phase,step,layer,slot,expert,weight,residency,expert_bytes,dropped

Columns are identified by name; later versions of the engine may append columns. `phase` is 0 in the prefill and 1 in
decode. `step` is the token's position in its context. `slot` is the expert's rank by the router. `weight` is the weight
applied, `nan` if the engine could not see it. `residency` is 0 for a miss, 1 for a hit and 2 for the first hit after a
prefetch. `expert_bytes` is the number of bytes that this row read from flash. `dropped` is 1 if the engine skipped the
expert instead of reading it. Layers without experts are numbered but have no rows.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.types import Float, Int
from traces.format.schema import TraceError
from traces.format.storage import ABSENT, reading

_MAGIC = re.compile(r"#\s*route_trace\s+v(\S+)\s*$")
_FACT = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)")
_SIZES = ("n_layer", "n_expert", "n_expert_used")
_NEEDED = ("phase", "step", "layer", "slot", "expert")
_RESIDENCY = {"0": 0, "miss": 0, "false": 0, "1": 1, "hit": 1, "true": 1, "2": 2}
_LARGEST = 2**31 - 1
_MOST_EXPERTS = 2**15 - 1  # per layer of a trace


@dataclass(slots=True)
class Preamble:
    """The content of the comments; None or empty if absent."""

    model: str | None = None  # the model's file name, without folder and ending
    sizes: dict[str, int] = field(default_factory=dict)  # of `n_layer`, `n_expert`, `n_expert_used`
    expert_bytes: dict[int, int] = field(default_factory=dict)  # by layer
    dense_bytes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTrace:
    """The rows as columns of length `N`, in the order of the file."""

    preamble: Preamble
    line: Int  # line number of each row, from 1
    turn: Int
    phase: Int
    step: Int
    layer: Int
    slot: Int
    expert: Int
    weight: Float  # NaN if unknown
    residency: Int  # 0, 1 or 2
    expert_bytes: Int
    dropped: Int


def read_route_trace(file: Path) -> RouteTrace:
    """Read the file and check each value; raises `TraceError` with file, line, field and value."""
    preamble, header = Preamble(), None
    rows: list[tuple[Any, ...]] = []
    ended = True
    with reading(file, ABSENT), file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, text in enumerate(lines, start=1):
            ended = text.endswith("\n")
            place, text = f"{file}: line {number}", text.strip()
            if text.startswith("#"):
                _comment(preamble, text, place)
            elif text and header is None:
                header = _Header(text, place, preamble)
            elif text:
                assert header is not None
                rows.append((number, *header.row(text, place if ended else f"{place} (incomplete)")))
    if header is None or not rows:
        raise TraceError.at(file, "has no row of a route trace")
    columns = dict(zip(("line", *_COLUMNS), map(np.array, zip(*rows, strict=True)), strict=True))
    return RouteTrace(preamble=preamble, **columns)


def _comment(preamble: Preamble, text: str, place: str) -> None:
    if magic := _MAGIC.match(text):
        if magic[1] != "1":
            raise TraceError.at(f"{place}, field route_trace", "must be v1", value=f"v{magic[1]}")
        return
    facts = dict(_FACT.findall(text))
    if "layer" in facts:
        layer = _whole(facts["layer"], "layer", place)
        for name, into in (("expert_bytes", preamble.expert_bytes), ("dense_bytes", preamble.dense_bytes)):
            if name in facts:
                if layer in into:
                    raise TraceError.at(f"{place}, field layer", f"layer {layer} was already described")
                into[layer] = _whole(facts[name], name, place)
    elif "model" in facts or facts.keys() & set(_SIZES):
        if "model" in facts:
            preamble.model = re.split(r"[/\\]", facts["model"])[-1].removesuffix(".gguf") or None
        preamble.sizes |= {name: _whole(facts[name], name, place, least=1) for name in _SIZES if name in facts}


def _whole(text: str, name: str, place: str, least: int = 0, largest: int = 2**62) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not least <= int(text) <= largest:
        what = f"must be a whole number from {least} to {largest}"
        if largest == 2**62:
            what = f"must be a whole number of at least {least}"
        raise TraceError.at(f"{place}, field {name}", what, value=repr(text))
    return int(text)


def _weight(text: str, name: str, place: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if weight < 0 or math.isinf(weight):
        raise TraceError.at(f"{place}, field {name}", "must be a number of at least 0, or nan", value=repr(text))
    return weight


def _residency(text: str, name: str, place: str) -> int:
    if text.lower() not in _RESIDENCY:
        raise TraceError.at(f"{place}, field {name}", "must be 0 (miss), 1 (hit) or 2 (prefetched)", value=repr(text))
    return _RESIDENCY[text.lower()]


class _Header:
    """The header of the rows: finds the columns and reads the values of a row."""

    def __init__(self, text: str, place: str, preamble: Preamble) -> None:
        self._preamble = preamble
        self._names = names = [name.strip() for name in text.split(",")]
        self._flag = "residency" if "residency" in names else "hit"
        for name in (*_NEEDED, self._flag):
            if name not in names:
                wanted = "residency" if name == "hit" else name
                raise TraceError.at(f"{place}, field {wanted}", f"is missing from the header {text!r}")
        for name in names:
            if names.count(name) > 1:
                raise TraceError.at(f"{place}, field {name}", "occurs twice")

    def row(self, text: str, place: str) -> tuple[Any, ...]:
        """The values of the columns, in the order of `_COLUMNS`."""
        values = [value.strip() for value in text.split(",")]
        if len(values) != len(self._names):
            what = f"must have {len(self._names)} values ({', '.join(self._names)})"
            raise TraceError.at(place, what, value=len(values))
        cells = dict(zip(self._names, values, strict=True))
        cells["residency"] = cells[self._flag]
        found = {
            name: read(cells[name], self._flag if name == "residency" else name, place) if name in cells else usual
            for name, (read, usual) in _COLUMNS.items()
        }
        self._agree(found, place)
        return tuple(found.values())

    def _agree(self, row: Mapping[str, Any], place: str) -> None:
        """Check the values of a row against each other and against the comments."""
        sizes = self._preamble.sizes
        for name, size in (("layer", "n_layer"), ("expert", "n_expert"), ("slot", "n_expert_used")):
            if size in sizes and row[name] >= sizes[size]:
                what = f"must be below {sizes[size]} ({size})"
                raise TraceError.at(f"{place}, field {name}", what, value=row[name])
        read, largest = row["expert_bytes"], self._preamble.expert_bytes.get(row["layer"])
        if read and row["residency"]:
            raise TraceError.at(f"{place}, field expert_bytes", "must be 0 for an expert in the cache", value=read)
        if largest is not None and read > largest:
            what = f"must be at most {largest}, the size of an expert of layer {row['layer']}"
            raise TraceError.at(f"{place}, field expert_bytes", what, value=read)


def _up_to(largest: int) -> Callable[[str, str, str], int]:
    return lambda text, name, place: _whole(text, name, place, largest=largest)


_COLUMNS: dict[
    str, tuple[Callable[[str, str, str], float], float]
] = {  # reader of each column, and its value if absent
    "turn": (_up_to(_LARGEST), 0),
    "phase": (_up_to(1), 0),
    "step": (_up_to(_LARGEST), 0),
    "layer": (_up_to(_LARGEST), 0),
    "slot": (_up_to(_MOST_EXPERTS - 1), 0),
    "expert": (_up_to(_MOST_EXPERTS - 1), 0),
    "weight": (_weight, math.nan),
    "residency": (_residency, 0),
    "expert_bytes": (_whole, 0),
    "dropped": (_up_to(1), 0),
}


def first(bad: NDArray[np.bool_]) -> int:
    """Index of the first True in `bad`."""
    return int(np.flatnonzero(bad)[0])
