"""Verify a trace completely: every hash, every row."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.types import Int
from traces.format import faults, provenance, token_table
from traces.format.faults import Fault
from traces.format.reader import check_own_hash, group_rows, read_embeddings, read_infos, read_meta
from traces.format.schema import EMBEDDINGS, META, REQUESTS, TOKENS, RequestInfo, TraceError, TraceMeta
from traces.format.storage import file_info, open_parquet, read_group


def check(path: Path | str) -> list[str]:
    """List everything that is wrong with a trace, one line per problem with file, row, field and value.

    Rows are checked even if a hash differs, to show what was changed. Memory holds one request at a time.
    """
    return list(problems(Path(path)))


def problems(path: Path) -> Iterator[str]:
    """Yield the problems as they are found."""
    try:
        meta, claimed = read_meta(path)
    except TraceError as error:
        yield str(error)
        return
    for step in (
        _own_hash(path, meta, claimed),
        _hashes(path, meta),
        _strangers(path, meta),
        _requests(path, meta),
        _tokens(path, meta),
        _embeddings(path, meta),
    ):
        try:
            yield from step
        except TraceError as error:
            yield str(error)


def outcome(path: Path) -> str:
    """The line to print for a trace without problems: kind, sizes and hash."""
    meta = read_meta(path)[0]
    tokens = open_parquet(path / TOKENS, meta.schemas[TOKENS]).metadata
    size = f"{tokens.num_row_groups} requests, {tokens.num_rows} rows"
    return f"{path}: ok, {provenance.label(meta.kind)}, {size}, sha256 {meta.digest}"


def _own_hash(path: Path, meta: TraceMeta, claimed: str) -> Iterator[str]:
    check_own_hash(path, meta, claimed)
    yield from ()


def _hashes(path: Path, meta: TraceMeta) -> Iterator[str]:
    for name in meta.schemas:
        if name not in meta.files:
            yield str(TraceError.at(path / META, "is missing", field=f"files.{name}"))
        elif (path / name).is_file():  # a missing file is reported when it is read
            found = file_info(path / name)
            if found != meta.files[name]:
                what = f"is not the file that {META} describes: it has {found.bytes} bytes and SHA-256 {found.sha256}"
                yield str(TraceError.at(path / name, what))


def _strangers(path: Path, meta: TraceMeta) -> Iterator[str]:
    for name in sorted(meta.files.keys() - meta.schemas.keys()):
        yield str(TraceError.at(path / META, "is not a file of a trace with these columns", field=f"files.{name}"))
    for name in sorted({file.name for file in path.glob("*.parquet")} - meta.schemas.keys()):
        yield str(TraceError.at(path / name, f"is not described in {META}"))


def _requests(path: Path, meta: TraceMeta) -> Iterator[str]:
    file = path / REQUESTS
    yield from _lines(file, faults.info_faults(read_infos(file, meta)))


def _tokens(path: Path, meta: TraceMeta) -> Iterator[str]:
    file = path / TOKENS
    tokens = open_parquet(file, meta.schemas[TOKENS])
    infos = _believed_infos(path, meta)
    counts = group_rows(tokens)
    if infos is not None:
        yield from _lines(file, faults.group_faults(counts, infos, meta))
    known = _known_tokens(path, meta)
    first_row = 0
    for group, count in enumerate(counts):
        info = infos[group] if infos is not None and group < len(infos) else None
        try:
            yield from _lines(file, _group(tokens, group, file, info, meta, known), first_row)
        except TraceError as error:
            yield _unreadable(tokens, group, file, meta, range(first_row, first_row + count), error)
        first_row += count


def _group(
    tokens: Any, group: int, file: Path, info: RequestInfo | None, meta: TraceMeta, known: Int | None
) -> Iterator[Fault]:
    """The faults of one row group, that is the rows of one request."""
    table = read_group(tokens, group, file)
    if table.num_rows == 0:
        return
    owner, iteration = token_table.array_of(table, "request"), token_table.array_of(table, "iteration")
    if info is None:  # requests.parquet is unreadable: take the counts from the rows, to check everything else
        count = int(iteration[-1]) - meta.first_iteration + 1
        info = RequestInfo(request=int(owner[0]), source="", output_tokens=count)
    yield from faults.owner_faults(owner, info.request)
    recorded = token_table.from_table(table, info, meta)
    yield from faults.request_faults(recorded, info, meta)
    if known is not None:
        yield from faults.missing_faults(recorded.token, known)


def _unreadable(tokens: Any, group: int, file: Path, meta: TraceMeta, span: range, error: TraceError) -> str:
    """The line for a row group that cannot be read; names the broken column."""
    for column in meta.columns[TOKENS]:
        try:
            read_group(tokens, group, file, [column])
        except TraceError as broken:
            what = str(broken).removeprefix(f"{file}: ")
            return f"{file}: rows {span.start} to {span.stop - 1}, field {column}: {what}"
    return str(error)


def _embeddings(path: Path, meta: TraceMeta) -> Iterator[str]:
    if meta.embedding:
        file = path / EMBEDDINGS
        yield from _lines(file, faults.embedding_faults(*read_embeddings(file, meta), meta))


def _believed_infos(path: Path, meta: TraceMeta) -> Sequence[RequestInfo] | None:
    try:
        return read_infos(path / REQUESTS, meta)
    except TraceError:
        return None  # reported by `_requests`


def _known_tokens(path: Path, meta: TraceMeta) -> Int | None:
    if not meta.embedding:
        return None
    try:
        return np.unique(read_embeddings(path / EMBEDDINGS, meta)[0])
    except TraceError:
        return None  # reported by `_embeddings`


def _lines(file: Path, found: Iterator[Fault], first_row: int = 0) -> Iterator[str]:
    for fault in found:
        yield str(fault.error(file, first_row)) + (
            f" ({fault.rows} such rows in this request)" if fault.rows > 1 else ""
        )
