"""Read the files of a trace; every error is one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import reason
from common.hashing import sha256_of
from traces.format.schema import FileInfo, TraceError

ABSENT = "does not exist"


def read_json(path: Path) -> Any:
    """The parsed file; raises `TraceError` if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError.at(path, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TraceError.at(path, f"cannot be read: {reason(error)}") from None


def require_file(path: Path) -> None:
    """Raise a `TraceError` unless `path` is a regular file; a pipe or device would have no end or no size."""
    if not path.is_file():
        raise TraceError.at(path, "is not a file" if path.exists() else ABSENT)


def open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """The file, opened; raises `TraceError` if it is missing, truncated or has other columns than `schema`."""
    with reading(path):
        # Verifies the checksum of each page as it is read.
        file = pq.ParquetFile(path, page_checksum_verification=True, memory_map=False, pre_buffer=False)
        found = file.schema_arrow
    for name in schema.names:
        if name not in found.names:
            raise TraceError.at(path, "is missing", field=name)
        if not found.field(name).equals(schema.field(name)):
            what = f"must be {_described(schema.field(name))}"
            raise TraceError.at(path, what, field=name, value=_described(found.field(name)))
    if found.names != schema.names:
        raise TraceError.at(path, f"must have the columns {', '.join(schema.names)}", value=", ".join(found.names))
    return file


def read_group(file: pq.ParquetFile, group: int, path: Path, columns: list[str] | None = None) -> pa.Table:
    """One row group, with one chunk per column."""
    with reading(path):
        # No threads: sweeps fork readers, and one request is too small to gain from threads.
        return file.read_row_group(group, columns=columns, use_threads=False).combine_chunks()


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """A whole, small file, with one chunk per column."""
    with open_parquet(path, schema) as file, reading(path):
        return file.read(columns=columns, use_threads=False).combine_chunks()


@contextmanager
def reading(path: Path, missing: str = "is missing") -> Iterator[None]:
    """Turn errors of Arrow and the system about an unreadable file into a `TraceError`.

    If there is no such file, the error says that it is `missing`: `ABSENT` for a file that the user names.
    """
    try:
        yield
    except FileNotFoundError:
        raise TraceError.at(path, missing) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TraceError.at(path, f"cannot be read: {reason(error)}") from None


def file_info(path: Path) -> FileInfo:
    """Size and SHA-256 of a file."""
    with reading(path):
        return FileInfo(bytes=path.stat().st_size, sha256=sha256_of(path))


def _described(field: pa.Field) -> str:
    kind = str(field.type).replace("<element: ", "<").replace(" not null", "")
    return kind + (" or null" if field.nullable else "")
