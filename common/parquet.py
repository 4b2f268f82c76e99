"""The project's one Parquet encoding, and tables of pandas in it.

Equal rows give equal bytes. Checksums of pages let a reader notice a flipped bit in what it reads, without hashing the
file.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError, one_line
from common.files import sync_file

META_KEY = b"finemoe_lab"  # of the JSON about a table, in its file's metadata

_SELECTED_BY = ("policy", "request")  # columns by which rows are looked for

# Columns whose values come again and again, which a dictionary makes small. Others have none: zstd alone makes dense
# distributions as small, and tokens and positions smaller, and all are read faster.
_REPEATED = ("policy", "request", "iteration", "source", "split", "call", "gpu", "layer")


@contextmanager
def parquet_sink(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file to write tables of a schema to, on the disk when the block has ended."""
    with path.open("wb") as raw:
        writer = _writer(raw, schema)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # the file is not going to be used; its footer does not matter
                writer.close()
            raise
        writer.close()
    sync_file(path)


def frame_to_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the content of a Parquet file, for whoever keeps it elsewhere than in a file of its own."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with _writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def frame_from_bytes(content: bytes) -> pd.DataFrame:
    """The table that `frame_to_bytes` was given."""
    frame: pd.DataFrame = pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pandas()
    return frame


def write_frame(path: Path, frame: pd.DataFrame, meta: Mapping[str, Any], schema: pa.Schema | None = None) -> None:
    """Put a table into a Parquet file that pandas opens, with `meta` as JSON in the file's metadata.

    `schema` types every column. Without it types follow from the values, which empty lists do not have.
    """
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    said = {**(table.schema.metadata or {}), META_KEY: json.dumps(meta, sort_keys=True).encode()}
    table = table.replace_schema_metadata(said)
    with parquet_sink(path, table.schema) as sink:
        sink.write_table(table)


def read_frame(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table that `write_frame` wrote, and what was said of it; a missing or broken file is a `UserError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            table = file.read()
        said = (table.schema.metadata or {}).get(META_KEY)
        frame, meta = table.to_pandas(), None if said is None else json.loads(said)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path} cannot be read: its metadata have no {META_KEY.decode()!r}, so no command wrote it")
    return frame, meta


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
