"""Read a trace, one request at a time, and check every row that is read."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from typing_extensions import override

from common.errors import UserError, absent
from policies.executed import demands_of
from policies.types import Bool, Float, Int, RecordedRequest
from traces.format import decoded_routing, faults, token_table
from traces.format.faults import Fault
from traces.format.schema import EMBEDDINGS, META, REQUESTS, TOKENS, RequestInfo, TraceError, TraceMeta
from traces.format.storage import file_info, open_parquet, read_group, read_json, read_table


class Trace:
    """A trace on disk, opened with `Trace.open`.

    Memory holds only the description, the table of requests and, once used, the table of embeddings; requests are read
    one at a time. A trace can be pickled: other processes reopen it. After `with_decoded`, rows come from the given
    arrays instead of the files.
    """

    def __init__(
        self,
        path: Path,
        meta: TraceMeta,
        infos: Sequence[RequestInfo],
        tokens: Any,
        decoded: decoded_routing.Arrays | None = None,
    ) -> None:
        self.path = path
        self.meta = meta
        self.shape = meta.shape
        self.infos = {info.request: info for info in infos}
        self._tokens = tokens
        self._decoded = decoded
        self._group = {info.request: group for group, info in enumerate(infos)}
        self._first_row = np.concatenate([[0], np.cumsum(group_rows(tokens))])

    @classmethod
    def open(cls, path: Path | str) -> "Trace":
        """Open the trace at `path`; raises `TraceError` for any mistake visible without reading the tokens."""
        path = Path(path)
        meta, claimed = read_meta(path)
        check_own_hash(path, meta, claimed)
        _check_sizes(path, meta)
        if file_info(path / REQUESTS).sha256 != meta.files[REQUESTS].sha256:
            raise TraceError.at(path / REQUESTS, f"is not the file that {META} describes: its SHA-256 differs")
        infos = read_infos(path / REQUESTS, meta)
        for fault in faults.info_faults(infos):
            raise fault.error(path / REQUESTS)
        tokens = open_parquet(path / TOKENS, meta.schemas[TOKENS])
        for fault in faults.group_faults(group_rows(tokens), infos, meta):
            raise fault.error(path / TOKENS)
        if meta.embedding:
            open_parquet(path / EMBEDDINGS, meta.schemas[EMBEDDINGS]).close()
        return cls(path, meta, infos, tokens)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Trace.open, (self.path.absolute(),)

    def __len__(self) -> int:
        return len(self.infos)

    def without_embeddings(self) -> "Trace":
        """The same trace, read without embeddings."""
        meta = replace(self.meta, embedding=False)
        return Trace(self.path, meta, list(self.infos.values()), self._tokens, self._decoded)

    def with_decoded(self, arrays: decoded_routing.Arrays) -> "Trace":
        """The same trace, with rows taken from the arrays that `decoded` returned; they may be read-only."""
        return Trace(self.path, self.meta, list(self.infos.values()), self._tokens, arrays)

    def decoded(self) -> decoded_routing.Arrays:
        """All rows as arrays, see `decoded_routing`; raises `TraceError` at the first broken row."""
        rows = int(self._first_row[-1])
        columns = decoded_routing.columns(self.meta)
        arrays: dict[str, Any] = {name: np.empty((rows, *size), kind) for name, (size, kind) in columns.items()}
        for recorded in self.iter():
            decoded_routing.fill(arrays, self._rows(recorded.request), recorded)
        if self.meta.embedding:
            arrays["embedding_token"], arrays["embedding_vector"] = self._embeddings
        return arrays

    @property
    def decoded_bytes(self) -> int:
        """Size of the `decoded` arrays in bytes, without the table of embeddings."""
        return int(self._first_row[-1]) * decoded_routing.row_bytes(self.meta)

    @property
    def digest(self) -> str:
        """SHA-256 of the trace, which results cite."""
        return self.meta.digest

    @property
    def request_ids(self) -> list[int]:
        """Numbers of all requests, in the trace's order."""
        return list(self.infos)

    @property
    def requests(self) -> pd.DataFrame:
        """The table of requests, with the columns of `requests.parquet`."""
        frame = pd.DataFrame([vars(info) for info in self.infos.values()], columns=self.meta.columns[REQUESTS])
        return frame.astype(
            {"request": "int32", "prompt_tokens": "Int32", "output_tokens": "int32", "arrival_s": "float64"}
        )

    def rows_of(self, request: int) -> int:
        """Number of rows (tokens in forward passes) of a request."""
        return int(np.diff(self._first_row)[self._group_of(request)])

    def positions(self, request: int) -> int:
        """Final sequence length of a request in tokens; reads only the positions."""
        if self._decoded is not None:
            return int(self._decoded["position"][self._rows(request)].max()) + 1
        position = token_table.array_of(self._read(request, ["request", "position"]), "position")
        self._raise(request, faults.position_faults(position))
        return int(position.max()) + 1

    def read(self, request: int) -> RecordedRequest:
        """All rows of one request; raises `TraceError` at the first broken row."""
        info = self._info(request)
        if self._decoded is None:
            recorded = token_table.from_table(self._read(request), info, self.meta)
            self._raise(request, faults.request_faults(recorded, info, self.meta))
        else:  # checked when they were decoded
            recorded = decoded_routing.recorded_in(self._decoded, self._rows(request), info, self.meta)
        if not self.meta.embedding:
            return recorded
        return replace(recorded, embedding=self._embed(request, recorded.token))

    def iter(self, requests: Sequence[int] | None = None) -> Iterator[RecordedRequest]:
        """Read requests one after the other, by default all."""
        for request in self.request_ids if requests is None else requests:
            yield self.read(request)

    def demands(self, request: int) -> Bool:
        """`[iterations, L, J]`: experts that each recorded iteration executes, in order; does not read the gates."""
        info, shape = self._info(request), self.shape
        if self._decoded is None:
            table = self._read(request, ["request", "iteration", "experts"])
            iteration = token_table.array_of(table, "iteration")
            experts = token_table.experts_of(table, shape)
            self._raise(request, faults.order_faults(iteration, info, self.meta))
            self._raise(request, faults.expert_faults(experts, self.meta))
        else:
            iteration, experts = (self._decoded[name][self._rows(request)] for name in ("iteration", "experts"))
        return demands_of(experts, iteration - self.meta.first_iteration, shape.experts)

    def decode_rows_of(self, request: int) -> int:
        """Number of decode iterations of a request, which are its last rows."""
        return self._info(request).output_tokens - int(self.meta.prefill)

    def _info(self, request: int) -> RequestInfo:
        if request not in self.infos:
            raise UserError(f"{self.path} has no request {request}; it has {len(self)} from {min(self.infos)} on")
        return self.infos[request]

    def _group_of(self, request: int) -> int:
        return self._group[self._info(request).request]

    def _rows(self, request: int) -> slice:
        """The rows of a request among those of all requests."""
        group = self._group_of(request)
        return slice(int(self._first_row[group]), int(self._first_row[group + 1]))

    def _read(self, request: int, columns: list[str] | None = None) -> pa.Table:
        group = self._group_of(request)
        table = read_group(self._tokens, group, self.path / TOKENS, columns)
        self._raise(request, faults.owner_faults(token_table.array_of(table, "request"), request))
        return table

    def _raise(self, request: int, found: Iterator[Fault]) -> None:
        for fault in found:
            raise fault.error(self.path / TOKENS, int(self._first_row[self._group_of(request)]))

    @cached_property
    def _embeddings(self) -> tuple[Int, Float]:
        if self._decoded is not None:
            return self._decoded["embedding_token"], self._decoded["embedding_vector"]
        path = self.path / EMBEDDINGS
        token, vector = read_embeddings(path, self.meta)
        for fault in faults.embedding_faults(token, vector, self.meta):
            raise fault.error(path)
        return token, vector

    def _embed(self, request: int, token: Int) -> Float:
        known, vectors = self._embeddings
        index = np.minimum(np.searchsorted(known, token), len(known) - 1)
        self._raise(request, faults.missing_faults(token, known))
        found: Float = vectors[index]
        return found


def split(requests: Sequence[int], train_share: float, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Split requests at random into history and test requests, each in the given order."""
    if not 0.0 <= train_share <= 1.0:
        raise UserError(f"train_share must be from 0 to 1, not {train_share}")
    ids = np.asarray(requests)
    chosen = np.zeros(len(ids), bool)
    chosen[rng.permutation(len(ids))[: round(train_share * len(ids))]] = True
    return ids[chosen].tolist(), ids[~chosen].tolist()


class Requests:
    """Requests of a trace as a `policies.types.History`; each pass over them reads them from disk again."""

    def __init__(self, trace: Trace, ids: Sequence[int] | None = None) -> None:
        self.trace = trace
        self.ids = trace.request_ids if ids is None else list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[RecordedRequest]:
        return self.trace.iter(self.ids)


class RecordedFuture:
    """The demands of requests of a trace as a `policies.types.Future`."""

    def __init__(self, trace: Trace, ids: Sequence[int] | None = None) -> None:
        self.trace = trace
        self.requests: Sequence[int] = trace.request_ids if ids is None else list(ids)

    def demands(self, request: int) -> Bool:
        """`[iterations, L, J]`: row `i` is the request's i-th recorded iteration, the prefill included if recorded."""
        return self.trace.demands(request)


def read_meta(folder: Path) -> tuple[TraceMeta, str]:
    """The description of a trace, and the hash stored in it."""
    if not folder.is_dir():
        hint = f"; did you mean {folder}.trace?" if folder.with_name(folder.name + ".trace").is_dir() else ""
        what = "is not a trace folder" if folder.exists() else "does not exist"
        raise TraceError.at(folder, what + hint)
    if folder.name.endswith(".partial"):
        raise TraceError.at(folder, "is unfinished; repeat the command that started it")
    if not (folder / META).exists():
        raise TraceError(absent(folder / META, "a trace"))
    data = read_json(folder / META)
    if isinstance(data, dict) and "format_version" not in data:
        raise TraceError(f"{folder} is not a trace")
    return TraceMeta.from_json(data, folder / META), data["sha256"]


def check_own_hash(folder: Path, meta: TraceMeta, claimed: str) -> None:
    """Raise `TraceError` if `meta.json` was changed after it was written."""
    if meta.digest != claimed:
        raise TraceError.at(folder / META, "does not match the other fields, so the file was changed", field="sha256")


def read_infos(path: Path, meta: TraceMeta) -> list[RequestInfo]:
    """All rows of `requests.parquet`, unchecked."""
    return [RequestInfo(**row) for row in read_table(path, meta.schemas[REQUESTS]).to_pylist()]


def read_embeddings(path: Path, meta: TraceMeta) -> tuple[Int, Float]:
    """Tokens `[n]` and their vectors `[n, h]` from `embeddings.parquet`, unchecked."""
    table = read_table(path, meta.schemas[EMBEDDINGS])
    return token_table.array_of(table, "token"), token_table.array_of(table, "vector", meta.shape.hidden)


def group_rows(tokens: Any) -> list[int]:
    """Number of rows in each row group."""
    return [tokens.metadata.row_group(group).num_rows for group in range(tokens.metadata.num_row_groups)]


def _check_sizes(path: Path, meta: TraceMeta) -> None:
    for name in meta.schemas:
        if name not in meta.files:
            raise TraceError.at(path / META, "is missing", field=f"files.{name}")
        if not (path / name).is_file():
            raise TraceError.at(path / name, "is missing")
        size = (path / name).stat().st_size
        if size != meta.files[name].bytes:
            raise TraceError.at(
                path / name, f"must have {meta.files[name].bytes} bytes according to {META}", value=size
            )
