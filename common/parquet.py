"""The project's one Parquet encoding, and pandas tables in it.

Equal rows give equal bytes. Page checksums let a reader notice a flipped bit in what it reads without hashing the file.
"""

import io
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError, reason
from common.files import sync_file

META_KEY = b"finemoe_lab"  # key of the JSON about a table in its file's metadata

_SELECTED_BY = ("policy", "request")  # columns by which rows are selected

# Columns with many repeated values, which a dictionary makes small. Others have none: zstd alone compresses dense
# distributions as well, and tokens and positions better, and everything is read faster.
_REPEATED = ("policy", "request", "iteration", "source", "split", "call", "gpu", "layer")


@contextmanager
def parquet_sink(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file to write tables of a schema to; it is on the disk when the block has ended."""
    with path.open("wb") as raw:
        writer = _writer(raw, schema)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # the file will not be used, so its footer does not matter
                writer.close()
            raise
        writer.close()
    sync_file(path)


def frame_to_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the content of a Parquet file, to store elsewhere than in its own file."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with _writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def frame_from_bytes(content: bytes) -> pd.DataFrame:
    """The table that `frame_to_bytes` received."""
    frame: pd.DataFrame = pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pandas()
    return frame


def write_frame(path: Path, frame: pd.DataFrame, meta: Mapping[str, Any], schema: pa.Schema | None = None) -> None:
    """Write a table to a Parquet file that pandas can open, with `meta` as JSON in the file's metadata.

    `schema` gives the type of every column. Without it, types follow from the values, which fails for empty lists.
    """
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    all_metadata = {**(table.schema.metadata or {}), META_KEY: json.dumps(meta, sort_keys=True).encode()}
    table = table.replace_schema_metadata(all_metadata)
    with parquet_sink(path, table.schema) as sink:
        sink.write_table(table)


def read_frame(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table that `write_frame` wrote, and its metadata; a missing or broken file is a `UserError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            table = file.read()
        stored = (table.schema.metadata or {}).get(META_KEY)
        frame, meta = table.to_pandas(), None if stored is None else json.loads(stored)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path}: cannot be read: it has no metadata {META_KEY.decode()!r}, so no command wrote it")
    return frame, meta


def check_table(path: Path, columns: Collection[str]) -> None:
    """A `UserError` unless the file is a table of this project that has these columns."""
    try:
        schema = pq.read_schema(path, memory_map=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    missing = [name for name in columns if name not in schema.names]
    if META_KEY not in (schema.metadata or {}) or missing:
        raise UserError(f"it has no column {missing[0]}" if missing else "no command of this project wrote it")


def _writer(sink: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in _REPEATED if name in schema.names],
        write_statistics=[name for name in _SELECTED_BY if name in schema.names],
        write_page_checksum=True,
        store_schema=True,
    )
