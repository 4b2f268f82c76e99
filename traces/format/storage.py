"""Files that are whole or not there: durable writing, and reading with errors in one line."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import one_line
from traces.format.schema import FileInfo, TraceError

# Fixed, so that equal rows give equal bytes. Gates have no dictionary: with zstd alone dense ones take the same
# space and sparse ones a tenth more, and reading is more than twice as fast. The checksums let a reader notice a
# flipped bit in the one row group that it reads, without hashing the whole file.
_PARQUET: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["request", "iteration", "source", "split"],
    "write_statistics": ["request"],
    "write_page_checksum": True,
    "store_schema": True,
}


@contextmanager
def parquet_sink(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file in the project's one encoding, on the disk when the block has ended."""
    with path.open("wb") as raw:
        writer = pq.ParquetWriter(raw, schema, **_PARQUET)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # the file is not going to be used; its footer does not matter
                writer.close()
            raise
        writer.close()
        raw.flush()
        os.fsync(raw.fileno())


def write_json(path: Path, data: object) -> None:
    """Readable JSON, on the disk when the call returns."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(data, file, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    """The parsed file; a missing or broken one is a `TraceError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError.at(path, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TraceError.at(path, f"cannot be read: {one_line(error)}") from None


def open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """The file, its footer read; `TraceError` when it is missing, truncated or has other columns than `schema`."""
    with reading(path):
        # Checksums of pages are verified when they are read.
        file = pq.ParquetFile(path, page_checksum_verification=True, memory_map=False, pre_buffer=False)
        found = file.schema_arrow
    for name in schema.names:
        if name not in found.names:
            raise TraceError.at(path, "is missing", field=name)
        if not found.field(name).equals(schema.field(name)):
            what = f"must be {_described(schema.field(name))}"
            raise TraceError.at(path, what, field=name, value=_described(found.field(name)))
    if found.names != schema.names:
        raise TraceError.at(path, f"columns must be {', '.join(schema.names)}", value=", ".join(found.names))
    return file


def read_group(file: pq.ParquetFile, group: int, path: Path, columns: list[str] | None = None) -> pa.Table:
    """One row group in one chunk per column."""
    with reading(path):
        # No threads: readers are forked into sweeps, and one request is too small to gain.
        return file.read_row_group(group, columns=columns, use_threads=False).combine_chunks()


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """A whole file, in one chunk per column; for the small ones."""
    with open_parquet(path, schema) as file, reading(path):
        return file.read(columns=columns, use_threads=False).combine_chunks()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow and the system say about an unreadable file into a `TraceError`."""
    try:
        yield
    except FileNotFoundError:
        raise TraceError.at(path, "is missing") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TraceError.at(path, f"cannot be read: {one_line(error)}") from None


def file_info(path: Path) -> FileInfo:
    """Size and SHA-256 of a file."""
    with reading(path), path.open("rb") as file:
        return FileInfo(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename is only then on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename, durably; `target` must not exist."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fresh_folder(path: Path) -> Path:
    """The folder, empty."""
    remove(path)
    path.mkdir()
    return path


def _described(field: pa.Field) -> str:
    kind = str(field.type).replace("<element: ", "<").replace(" not null", "")
    return kind + (" or null" if field.nullable else "")
