"""Write a trace in parts, so that an interruption loses at most one part."""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from common.errors import UserError
from common.files import fresh_folder, move, remove, sync_folder, write_json
from common.hashing import canonical_json
from common.interruptions import kept, to_resume, unwound
from common.parquet import parquet_sink
from policies.types import Float, Int, RecordedRequest
from traces.format import faults, token_table
from traces.format.resumable_folder import PartialFolder
from traces.format.schema import EMBEDDINGS, FORMAT_VERSION, META, REQUESTS, TOKENS, RequestInfo, TraceError, TraceMeta
from traces.format.storage import file_info, open_parquet, read_group, read_table

Embeddings = tuple[Int, Float]  # token [n] and vector float16 [n, h]

_OPEN_PARTS = 256  # part files that stay open while merging
_EMBEDDING_GROUP = 1024  # rows


class TraceWriter:
    """Writes the trace at `path` in parts, in any order and over several runs.

    `plan` describes all inputs and settings. A later run with the same plan and `meta` finds the parts already on disk
    in `finished`. Another plan raises a `UserError` that names the differences, unless `restart` discards the parts.
    Without `resumable`, parts of an earlier run are discarded, and this run leaves none. An existing trace at `path` is
    replaced only with `overwrite`. The trace's bytes depend only on the requests, not on how they were divided.
    """

    def __init__(
        self,
        path: Path,
        meta: TraceMeta,
        *,
        plan: Mapping[str, Any],
        restart: bool = False,
        resumable: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.meta = meta
        self.finished: set[int] = set()
        self._place: dict[int, tuple[int, int]] = {}  # request -> part, row group
        self._restarted = restart
        self._resumable = resumable
        self._unwound = ExitStack()
        if self.path.suffix != ".trace":
            raise UserError(f"{self.path}: the name of a trace must end in .trace")
        self._partial = PartialFolder(self.path, overwrite=overwrite)
        with self._disk():
            self._partial.begin(_envelope(meta, plan), restart=restart or not resumable)
            for number, part in self._partial.finished().items():
                self._remember(number, self._requests_of(part)["request"].to_pylist())

    def __enter__(self) -> "TraceWriter":
        self._unwound.enter_context(unwound())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._unwound:
            self.close()

    def close(self) -> None:
        """Unlock the trace for other processes; finished parts stay if the writer is resumable. `finish` closes too."""
        self._partial.close(keep=self._resumable)

    def write_part(
        self,
        number: int,
        requests: Sequence[RequestInfo],
        recorded: Sequence[RecordedRequest],
        embeddings: Embeddings | None = None,
    ) -> None:
        """Write the requests of one part to disk, all or nothing.

        `embeddings` must cover every token of the part, in any order, with or without duplicates; the default is the
        embeddings in `recorded`. Raises `TraceError` for rows that a reader would reject.
        """
        if number in self.finished:
            raise ValueError(f"part {number} is finished")
        self._check(requests, recorded)
        vectors = self._embeddings(number, recorded, embeddings)
        part = self._partial.part(number)
        temporary = part.with_suffix(".tmp")
        with self._disk():
            try:
                fresh_folder(temporary)
                self._write_rows(temporary, requests, recorded)
                if vectors is not None:
                    self._write_embeddings(temporary / EMBEDDINGS, *vectors)
                sync_folder(temporary)
                move(temporary, part)
            except OSError:
                with suppress(OSError):  # on a full disk, free the space of this part
                    remove(temporary)
                raise
        self._remember(number, [info.request for info in requests])

    def finish(self) -> Path:
        """Merge the parts in order of request, move the trace into place and remove the partial folder."""
        if not self._place:
            raise UserError(f"{self._partial.path}: there is no request to write")
        with self._disk():
            folder = self._partial.begin_merge()
            self._merge_requests(folder / REQUESTS)
            self._merge_tokens(folder / TOKENS)
            if self.meta.embedding:
                self._merge_embeddings(folder / EMBEDDINGS)
            files = {name: file_info(folder / name) for name in self.meta.schemas}
            write_json(folder / META, replace(self.meta, files=files).to_json())
            self._partial.install()
        return self.path

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Report errors of the file system in one line, which says how many finished parts are kept."""
        try:
            yield
        except OSError as error:
            what = "the disk is full" if error.errno == ENOSPC else (error.strerror or str(error))
            count = len(self.finished) if self._resumable else 0
            rest = f"{count} finished part{'s are' if count != 1 else ' is'} kept" if count else "nothing was kept"
            advice = f"; {how}" if count and (how := to_resume()) else ""
            raise UserError(f"{error.filename or self._partial.path}: {what}; {rest}{advice}") from error

    # Parts

    def _requests_of(self, part: Path) -> pa.Table:
        return read_table(part / REQUESTS, self.meta.schemas[REQUESTS])

    def _remember(self, number: int, requests: Sequence[int]) -> None:
        self.finished.add(number)
        if self._resumable:
            kept(restarted=self._restarted)
        self._place |= {request: (number, group) for group, request in enumerate(requests)}

    def _check(self, requests: Sequence[RequestInfo], recorded: Sequence[RecordedRequest]) -> None:
        for fault in faults.info_faults(sorted(requests, key=lambda info: info.request)):
            raise TraceError.at(self.path / REQUESTS, fault.what, field=fault.field, value=fault.value)
        if [(info.request, info.source) for info in requests] != [(one.request, one.source) for one in recorded]:
            raise ValueError("requests and recorded must be the same requests in the same order")
        for info, one in zip(requests, recorded, strict=True):
            place = f"{self.path}: request {info.request}"
            if info.request in self._place:
                raise TraceError.at(place, f"is already in part {self._place[info.request][0]}")
            if info.prompt is not None and not self.meta.prompt_text:
                raise TraceError.at(place, "must be absent, because meta.prompt_text is false", field="prompt")
            for fault in faults.request_faults(one, info, self.meta):
                raise fault.error(place)

    def _embeddings(
        self, number: int, recorded: Sequence[RecordedRequest], given: Embeddings | None
    ) -> Embeddings | None:
        place = f"{self.path}: part {number}"
        if not self.meta.embedding:
            if given is not None:
                raise TraceError.at(place, "must be absent, because meta.embedding is false", field="embedding")
            return None
        token, vector = given or _gathered(recorded, place)
        size = (len(token), self.meta.shape.hidden)
        if vector.dtype != np.float16 or vector.shape != size:
            found = f"{vector.dtype} {list(vector.shape)}"
            raise TraceError.at(place, f"must be float16 {list(size)}", field="embedding", value=found)
        table = _VectorTable(np.unique(token).astype(np.int32), self.meta.shape.hidden)
        table.add(np.asarray(token), vector, place)
        for fault in faults.embedding_faults(table.token, table.vector, self.meta):
            raise TraceError.at(place, fault.what, field="embedding", value=fault.value)
        for one in recorded:
            for fault in faults.missing_faults(one.token, table.token):
                raise fault.error(place)
        return table.token, table.vector

    def _write_rows(self, folder: Path, requests: Sequence[RequestInfo], recorded: Sequence[RecordedRequest]) -> None:
        schemas = self.meta.schemas
        with parquet_sink(folder / REQUESTS, schemas[REQUESTS]) as sink:
            sink.write_table(pa.Table.from_pylist([vars(info) for info in requests], schema=schemas[REQUESTS]))
        with parquet_sink(folder / TOKENS, schemas[TOKENS]) as sink:
            for one in recorded:
                sink.write_table(token_table.to_table(one, self.meta), row_group_size=len(one.iteration))

    def _write_embeddings(self, path: Path, token: Int, vector: Float) -> None:
        schema = self.meta.schemas[EMBEDDINGS]
        column = token_table.fixed_list(vector, schema.field("vector").type)
        with parquet_sink(path, schema) as sink:
            sink.write_table(pa.table([pa.array(token), column], schema=schema), row_group_size=_EMBEDDING_GROUP)

    # Merging: writes every byte of the result, request by request in order

    def _merge_requests(self, target: Path) -> None:
        tables = [self._requests_of(part) for part in self._partial.finished().values()]
        with parquet_sink(target, self.meta.schemas[REQUESTS]) as sink:
            sink.write_table(pa.concat_tables(tables).sort_by("request").combine_chunks())

    def _merge_tokens(self, target: Path) -> None:
        schema = self.meta.schemas[TOKENS]
        opened: OrderedDict[int, Any] = OrderedDict()
        with parquet_sink(target, schema) as sink:
            for request in sorted(self._place):
                number, group = self._place[request]
                path = self._partial.part(number) / TOKENS
                if number not in opened:
                    opened[number] = open_parquet(path, schema)
                opened.move_to_end(number)
                if len(opened) > _OPEN_PARTS:
                    opened.popitem(last=False)[1].close()
                table = read_group(opened[number], group, path)
                sink.write_table(table, row_group_size=table.num_rows)

    def _merge_embeddings(self, target: Path) -> None:
        schema, hidden = self.meta.schemas[EMBEDDINGS], self.meta.shape.hidden
        paths = [part / EMBEDDINGS for part in self._partial.finished().values()]
        tokens = [token_table.array_of(read_table(path, schema, ["token"]), "token") for path in paths]
        # In memory: it is never larger than the model's embedding layer.
        table = _VectorTable(np.unique(np.concatenate(tokens)), hidden)
        for path, token in zip(paths, tokens, strict=True):
            table.add(token, token_table.array_of(read_table(path, schema, ["vector"]), "vector", hidden), path)
        self._write_embeddings(target, table.token, table.vector)


class _VectorTable:
    """One vector for each of a set of distinct, ascending tokens."""

    def __init__(self, token: Int, hidden: int) -> None:
        self.token = token
        self.vector: Float = np.zeros((len(token), hidden), np.float16)
        self._known = np.zeros(len(token), bool)

    def add(self, token: Int, vector: Float, place: Path | str) -> None:
        """Store `vector` `[n, h]`; raises `TraceError` if a token already has another one."""
        index = np.searchsorted(self.token, token)
        new = ~self._known[index]
        self.vector[index[new]] = vector[new]
        self._known[index] = True
        # Compared as bits, so that NaN equals itself; `embedding_faults` reports NaN.
        stored, given = (np.ascontiguousarray(one).view(np.uint16) for one in (self.vector[index], vector))
        other = np.flatnonzero((stored != given).any(axis=1))
        if other.size:
            raise TraceError.at(place, f"{token[other[0]]} has two different embeddings", field="token")


def _gathered(recorded: Sequence[RecordedRequest], place: str) -> Embeddings:
    """Tokens and embeddings of all rows."""
    vectors = [one.embedding for one in recorded if one.embedding is not None]
    if len(vectors) != len(recorded):
        raise TraceError.at(place, "is missing, but meta.embedding is true", field="embedding")
    return np.concatenate([one.token for one in recorded]), np.concatenate(vectors)


def _envelope(meta: TraceMeta, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that must be equal for all parts of a trace, as plain JSON."""
    derived = ("sha256", "files", "columns", "format_version")
    described = {key: value for key, value in meta.to_json().items() if key not in derived}
    whole = {"format_version": FORMAT_VERSION, "pyarrow": pa.__version__, "meta": described, "plan": dict(plan)}
    loaded: dict[str, Any] = json.loads(canonical_json(whole))
    return loaded
