"""The files of a trace, their columns, and the description in `meta.json`.

A trace is a folder `NAME.trace/` with `meta.json`, `requests.parquet`, `tokens.parquet` and, if embeddings were
recorded, `embeddings.parquet`. The rules for a request's rows are in `faults.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from common.errors import UserError, either, unknown
from common.hashing import canonical_json, sha256_of_json
from policies.types import ModelShape

FORMAT_VERSION = 1
LARGEST = int(np.iinfo(np.int32).max)  # largest value in a column, and largest number of values in a row of a list
GATE_SUM_TOLERANCE = 5e-3  # rows of `gate` are float16: they sum to 1 within this

META = "meta.json"
REQUESTS = "requests.parquet"
TOKENS = "tokens.parquet"
EMBEDDINGS = "embeddings.parquet"

KINDS = ("captured", "imported", "synthetic", "fitted")
SCORES = ("softmax", "sigmoid")


class TraceError(UserError):
    """A mistake in a trace: one line with file, row, field and value."""

    @classmethod
    def at(
        cls,
        file: Path | str,
        what: str,
        *,
        line: int | None = None,
        row: int | None = None,
        layer: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> "TraceError":
        """The error `<file>: row <n>, layer <l>, field <f>: <what>, not <v>`, without the parts that are None.

        Lines of text count from 1, rows of Parquet and arrays from 0. With a `value`, `what` states what it must be.
        """
        named = {"line": line, "row": row, "layer": layer, "field": field}
        place = ", ".join(f"{name} {at}" for name, at in named.items() if at is not None)
        parts = [str(file)] + [place] * bool(place) + [what]
        return cls(": ".join(parts) + (f", not {value}" if value is not None else ""))


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """Facts about a request: a row of `requests.parquet`.

    `output_tokens` is the number of recorded iterations, since each generates one token. `prompt_tokens` is the number
    of rows of the prefill, if one was recorded.
    """

    request: int
    source: str
    split: str | None = None
    arrival_s: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int
    prompt_sha256: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Size and hash of one file of a trace."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TraceMeta:
    """The description of a trace: the content of `meta.json`. The writer fills in `files`."""

    kind: str  # one of KINDS
    model: str  # name or repository of the model
    shape: ModelShape
    revision: str | None = None
    config_sha256: str | None = None
    dtype: str | None = None  # of the model's weights during the run; None if unknown
    score: str = (
        "softmax"  # function that turned the router's logits into `gate`; sigmoid scores are scaled to sum to 1
    )
    gate_complete: bool = True  # False: `gate` is zero except at the executed experts
    all_executed: bool = True  # False: tokens may skip layers other than the first; their experts there are -1
    residency: bool = False  # tokens.parquet has the column `residency`: state of the engine's own cache
    prefill: bool = True  # False: iterations start at 1
    lookahead: tuple[int, ...] = ()  # distances, ascending
    embedding: bool = False
    prompt_text: bool = False  # requests.parquet has the column `prompt`
    seed: int | None = None
    prompts: str | None = None  # where the prompts came from
    generation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # of the libraries that wrote the trace
    license: str | None = None
    notes: str | None = None
    files: Mapping[str, FileInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for problem in _meta_problems(self):
            raise TraceError(f"{META}: {problem}")
        try:
            self._body()
        except (TypeError, ValueError) as error:  # NaN, infinity, half a surrogate pair, a numpy number
            raise TraceError(f"{META}: has a value that JSON cannot represent: {error}") from None

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of each Parquet file, in order."""
        return {name: schema.names for name, schema in self.schemas.items()}

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """The Arrow schema of each Parquet file of the trace."""
        schemas = {REQUESTS: requests_schema(self.prompt_text), TOKENS: tokens_schema(self)}
        return schemas | ({EMBEDDINGS: embeddings_schema(self.shape.hidden)} if self.embedding else {})

    @property
    def first_iteration(self) -> int:
        """Number of the first iteration: 0 with a prefill, else 1."""
        return 0 if self.prefill else 1

    @property
    def digest(self) -> str:
        """SHA-256 of the description as canonical JSON, including the hashes of the files."""
        return sha256_of_json(self._body())

    def to_json(self) -> dict[str, Any]:
        """The content of `meta.json`, including its own hash."""
        return self._body() | {"sha256": self.digest}

    def _body(self) -> dict[str, Any]:
        body = {one.name: getattr(self, one.name) for one in fields(self)}
        body |= {
            "format_version": FORMAT_VERSION,
            "shape": _shape_to_json(self.shape),
            "lookahead": list(self.lookahead),
            "columns": self.columns,
            "files": {name: asdict(info) for name, info in self.files.items()},
        }
        for name, usual in _UNUSUAL.items():
            if body[name] == usual:
                del body[name]
        # Through JSON and back, so that the hash covers exactly what a reader will find.
        loaded: dict[str, Any] = json.loads(canonical_json(body))
        return loaded

    @classmethod
    def from_json(cls, data: object, file: Path | str = META) -> "TraceMeta":
        """The description in a parsed `meta.json`; raises `TraceError` for missing, unknown or mistyped keys."""
        if not isinstance(data, dict):
            raise TraceError.at(file, "is not a JSON object")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise TraceError.at(file, f"must be {FORMAT_VERSION}", field="format_version", value=repr(version))
        _check_keys(data, _TYPES | {name: bool for name in _UNUSUAL if name in data}, file)
        shape = _shape_from_json(data["shape"], file)
        entries = {}
        for name, entry in data["files"].items():
            _check_keys(entry, {"bytes": int, "sha256": str}, f"{file}: files: {name}")
            entries[name] = FileInfo(**entry)
        derived = {"format_version", "columns", "sha256", "shape", "lookahead", "files"}
        plain = {key: value for key, value in data.items() if key not in derived}
        try:
            meta = cls(**plain, shape=shape, lookahead=tuple(data["lookahead"]), files=entries)
        except TraceError as error:
            raise TraceError(str(error).replace(META, str(file), 1)) from None
        if data["columns"] != meta.columns:
            raise TraceError.at(file, "does not match shape, lookahead and embedding", field="columns")
        return meta


# The keys of meta.json and their types.
_TYPES: dict[str, Any] = {
    "format_version": int,
    "kind": str,
    "model": str,
    "revision": str | None,
    "config_sha256": str | None,
    "shape": dict,
    "dtype": str | None,
    "score": str,
    "gate_complete": bool,
    "prefill": bool,
    "columns": dict,
    "lookahead": list,
    "embedding": bool,
    "prompt_text": bool,
    "seed": int | None,
    "prompts": str | None,
    "generation": dict,
    "versions": dict,
    "license": str | None,
    "notes": str | None,
    "files": dict,
    "sha256": str,
}


# Keys that are written only if they differ from this default.
_UNUSUAL: dict[str, bool] = {"all_executed": True, "residency": False}


def _meta_problems(meta: TraceMeta) -> list[str]:
    shape = meta.shape
    problems = []
    if meta.kind not in KINDS:
        problems.append(f"field kind: must be {either(KINDS)}, not {meta.kind!r}")
    if meta.score not in SCORES:
        problems.append(f"field score: must be {either(SCORES)}, not {meta.score!r}")
    sizes = {name: getattr(shape, name) for name in ("layers", "experts", "top_k", "hidden", "vocab")}
    problems += [f"field shape.{name}: must be at least 1, not {size}" for name, size in sizes.items() if size < 1]
    if shape.experts > np.iinfo(np.int16).max:
        problems.append(f"field shape.experts: must be below 32768, not {shape.experts}")
    for name, size in {"experts": shape.layers * shape.experts, "hidden": shape.hidden}.items():
        if size > LARGEST:
            problems.append(f"field shape.{name}: a row would have {size} values; the maximum is {LARGEST}")
    if shape.top_k > shape.experts:
        problems.append(f"field shape.top_k: must be at most {shape.experts}, the number of experts, not {shape.top_k}")
    by_layer = shape.expert_bytes_by_layer
    if by_layer is not None and (len(by_layer) != shape.layers or min(by_layer) < 1):
        what = f"must be {shape.layers} sizes above 0, one for each layer"
        problems.append(f"field shape.expert_bytes_by_layer: {what}, not {list(by_layer)}")
    distances = list(meta.lookahead)
    whole = all(type(distance) is int for distance in distances)
    if not whole or distances != sorted(set(distances)) or any(not 0 < d < shape.layers for d in distances):
        problems.append(f"field lookahead: must be ascending distances from 1 to {shape.layers - 1}, not {distances}")
    return problems


def _check_keys(data: object, types: Mapping[str, Any], file: Path | str) -> None:
    if not isinstance(data, dict):
        raise TraceError.at(file, "is not a JSON object")
    for key in data:
        if key not in types:
            raise TraceError(f"{file}: {unknown('key', key, types)}")
    for key, kind in types.items():
        if key not in data:
            raise TraceError.at(file, "is missing", field=key)
        value = data[key]
        # To Python a bool is an int; here it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TraceError.at(file, f"must be {_type_name(kind)}", field=key, value=repr(value))


def _type_name(kind: Any) -> str:
    return " or ".join(one.__name__.replace("NoneType", "null") for one in (get_args(kind) or (kind,)))


def _shape_to_json(shape: ModelShape) -> dict[str, Any]:
    """The shape as JSON; sizes per layer only if they differ."""
    data = asdict(shape) | {"weight_bytes": float(shape.weight_bytes)}  # 2 and 2.0 hash alike
    if data[_LAYER_BYTES] is None:
        del data[_LAYER_BYTES]
    return data


def _shape_from_json(data: object, file: Path | str) -> ModelShape:
    place = f"{file}: shape"
    given = isinstance(data, dict) and _LAYER_BYTES in data
    _check_keys(data, _SHAPE_TYPES | ({_LAYER_BYTES: list} if given else {}), place)
    assert isinstance(data, dict)
    sizes = tuple(data[_LAYER_BYTES]) if given else None
    if sizes is not None and not all(type(size) is int for size in sizes):
        raise TraceError.at(place, "must be whole numbers", field=_LAYER_BYTES, value=repr(data[_LAYER_BYTES]))
    return ModelShape(**(data | {"weight_bytes": float(data["weight_bytes"]), _LAYER_BYTES: sizes}))


_LAYER_BYTES = "expert_bytes_by_layer"
_SHAPE_TYPES: dict[str, Any] = {
    one.name: {"name": str, "weight_bytes": int | float}.get(one.name, int)
    for one in fields(ModelShape)
    if one.name != _LAYER_BYTES
}


def requests_schema(prompt_text: bool = False) -> pa.Schema:
    """The columns of `requests.parquet`."""
    columns = [
        pa.field("request", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("arrival_s", pa.float64()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("prompt_sha256", pa.string()),
    ]
    return pa.schema(columns + [pa.field("prompt", pa.string())] * prompt_text)


def tokens_schema(meta: TraceMeta) -> pa.Schema:
    """The columns of `tokens.parquet`: a row per token of a forward pass.

    `residency` is the state of each executed expert in the engine's cache when its router had run: 0 absent, 1 cached,
    2 prefetched and not yet used. It is -1 where `experts` is -1.
    """
    shape = meta.shape
    gate = _fixed_list(pa.float16(), shape.layers * shape.experts)
    expert = pa.uint8() if shape.experts <= 256 else pa.uint16()
    if not meta.all_executed:
        expert = pa.int16()
    columns = [pa.field(name, pa.int32(), nullable=False) for name in ("request", "iteration", "position", "token")]
    columns.append(pa.field("gate", gate, nullable=False))
    columns.append(pa.field("experts", _fixed_list(expert, shape.layers * shape.top_k), nullable=False))
    columns += [pa.field(f"lookahead_{distance}", gate, nullable=False) for distance in meta.lookahead]
    residency = _fixed_list(pa.int8(), shape.layers * shape.top_k)
    return pa.schema(columns + [pa.field("residency", residency, nullable=False)] * meta.residency)


def embeddings_schema(hidden: int) -> pa.Schema:
    """The columns of `embeddings.parquet`: a row per distinct token, ascending."""
    vector = _fixed_list(pa.float16(), hidden)
    return pa.schema([pa.field("token", pa.int32(), nullable=False), pa.field("vector", vector, nullable=False)])


def _fixed_list(kind: pa.DataType, length: int) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False), length)


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of this project, numpy, pyarrow and the named distributions, for `TraceMeta.versions`."""
    return {name: metadata.version(name) for name in ("finemoe-lab", "numpy", "pyarrow", *names)}
