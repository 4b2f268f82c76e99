"""Workload files: readers of published formats, and our own format."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from common.errors import UserError, not_json, reason
from common.files import replacing
from common.hashing import canonical_json
from common.parquet import META_KEY, parquet_sink
from policies.types import Bool, Int
from traces.format.schema import TraceError
from traces.format.storage import open_parquet, reading, require_file
from traces.workloads.arrivals import Workload
from traces.workloads.workload_settings import LARGEST

SCHEMA = pa.schema(
    [
        pa.field("arrival_s", pa.float64(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
    ]
)

_CHUNK = 100_000  # rows

# A row reduced to its number and the strings of time, prompt and output; None if missing.
_Record = tuple[int, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A published file format: names of its columns, and how to read its times."""

    name: str
    time: str
    prompt: str
    output: str
    time_is: str  # description for error messages
    to_ns: Callable[["pd.Series[Any]"], tuple[Int, Bool]]  # strings [n] -> nanoseconds [n], and which are invalid

    @property
    def columns(self) -> tuple[str, str, str]:
        """Names of the columns time, prompt and output."""
        return self.time, self.prompt, self.output


def read_workload(path: Path) -> Workload:
    """Read a workload; its columns identify the format.

    Formats are the Azure LLM inference traces of 2023 and 2024, BurstGPT, Mooncake JSONL, and Parquet by
    `write_workload`. Rows without prompt or output are failed requests (as BurstGPT documents): they are dropped and
    counted. Raises `UserError` with file, line (of Parquet: row) and field.
    """
    require_file(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    with _text(path), path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(1)
        file.seek(0)
        if start == "{":
            return _read(path, MOONCAKE, _json_records(path, file))
        if not start:
            raise TraceError.at(path, "is empty")
        rows = csv.reader(file, strict=True)
        header = [name.strip() for name in next(rows, [])]
        if not any(header):
            raise TraceError.at(path, "must name the columns", line=1)
        form = _format_of(path, header)
        numbered = ((rows.line_num, row) for row in rows)
        return _read(path, form, _csv_records(path, form, header, numbered))


def write_workload(path: Path, workload: Workload, settings: Mapping[str, Any]) -> None:
    """Write Parquet with one row per request; `settings` go into its metadata, with the workload's source."""
    described = {"source": workload.source, "dropped": workload.dropped, **settings}
    columns = [workload.arrival_s, workload.prompt_tokens, workload.output_tokens]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    schema = SCHEMA.with_metadata({META_KEY: canonical_json(described)})
    with replacing(path, "the workload") as temporary, parquet_sink(temporary, schema) as sink:
        sink.write_table(pa.table(arrays, schema=schema))


def _read_parquet(path: Path) -> Workload:
    with open_parquet(path, SCHEMA) as file, reading(path):
        table = file.read(use_threads=False)
        described = json.loads((file.schema_arrow.metadata or {}).get(META_KEY, b"{}"))
    arrival_s, prompt, output = (table.column(name).to_numpy() for name in SCHEMA.names)
    _refuse(path, "arrival_s", "must be finite and at least 0", ~(np.isfinite(arrival_s) & (arrival_s >= 0)), arrival_s)
    _refuse(path, "arrival_s", "must be at least that of the row before", np.diff(arrival_s, prepend=0) < 0, arrival_s)
    for name, tokens in (("prompt_tokens", prompt), ("output_tokens", output)):
        _refuse(path, name, "must be at least 1", tokens < 1, tokens)
    if not len(table):
        raise TraceError.at(path, "there is no request")
    return Workload(
        arrival_s=arrival_s - arrival_s[0],
        prompt_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        source=str(described.get("source", path.name)),
        dropped=int(described.get("dropped", 0)),
    )


def _refuse(path: Path, field: str, what: str, bad: Bool, values: Any) -> None:
    for row in np.flatnonzero(bad)[:1]:
        raise TraceError.at(path, what, row=int(row), field=field, value=values[row])


# Text


@contextmanager
def _text(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise TraceError.at(path, f"cannot be read: {reason(error)}") from None


def _format_of(path: Path, header: list[str]) -> Format:
    """The format with these columns; raises `TraceError` with the missing column of the nearest format."""
    best = max(CSV_FORMATS, key=lambda form: len(set(form.columns) & set(header)))
    missing = [name for name in best.columns if name not in header]
    if len(missing) == len(best.columns):
        known = "; ".join(f"{form.name}: {', '.join(form.columns)}" for form in (*CSV_FORMATS, MOONCAKE))
        raise TraceError.at(path, f"the columns {', '.join(header)} fit none of the known formats ({known})")
    for name in missing:
        raise TraceError.at(path, f"is missing; {best.name} has the columns {', '.join(best.columns)}", field=name)
    return best


def _csv_records(
    path: Path, form: Format, header: list[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterator[_Record]:
    time, prompt, output = (header.index(name) for name in form.columns)
    for number, row in rows:
        if not row:
            continue
        if len(row) > len(header):
            raise TraceError.at(path, f"must have {len(header)} fields", line=number, value=len(row))
        row += [""] * (len(header) - len(row))
        yield number, row[time], row[prompt], row[output]


def _json_records(path: Path, lines: Iterator[str]) -> Iterator[_Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError.at(path, not_json(error), line=number) from None
        if not isinstance(data, dict):
            raise TraceError.at(path, "is not a JSON object", line=number)
        time, prompt, output = (None if (one := data.get(name)) is None else str(one) for name in MOONCAKE.columns)
        yield number, time, prompt, output


def _read(path: Path, form: Format, records: Iterator[_Record]) -> Workload:
    """The workload of the records, converted in chunks, so that strings never fill the memory."""
    chunks = [_numbers(path, form, chunk) for chunk in iter(lambda: list(islice(records, _CHUNK)), [])]
    if not chunks:
        raise TraceError.at(path, "there is no request")
    line, ns, prompt, output = (np.concatenate(column) for column in zip(*chunks, strict=True))
    for at in np.flatnonzero(np.diff(ns) < 0)[:1] + 1:
        behind_s = (int(ns[at - 1]) - int(ns[at])) / 1e9
        what = f"must not be earlier than in the row before, but is {behind_s:g} s earlier"
        raise TraceError.at(path, what, line=int(line[at]), field=form.time)
    kept = (prompt > 0) & (output > 0)
    if not kept.any():
        raise TraceError.at(path, f"there is no request: none of {len(kept)} rows has a prompt and an output")
    ns = ns[kept]
    return Workload(
        arrival_s=(ns - ns[0]) / 1e9,
        prompt_tokens=prompt[kept],
        output_tokens=output[kept],
        source=path.name,
        dropped=int((~kept).sum()),
    )


def _numbers(path: Path, form: Format, chunk: list[_Record]) -> tuple[Int, Int, Int, Int]:
    """Line numbers, nanoseconds, prompt and output tokens of a chunk of records, each `[n]` int64."""
    line, *columns = zip(*chunk, strict=True)
    texts = [pd.Series(column, dtype=object) for column in columns]
    numbers = []
    whole = f"a whole number from 0 to {LARGEST}"
    kinds = [(form.to_ns, form.time_is), (_whole, whole), (_whole, whole)]
    for field, text, (convert, what) in zip(form.columns, texts, kinds, strict=True):
        values, bad = convert(text)
        for at in np.flatnonzero(bad)[:1]:
            if text[at] in (None, ""):
                raise TraceError.at(path, "is missing", line=line[at], field=field)
            raise TraceError.at(path, f"must be {what}", line=line[at], field=field, value=repr(text[at]))
        numbers.append(values)
    ns, prompt, output = numbers
    return np.array(line, np.int64), ns, prompt, output


def _whole(text: "pd.Series[Any]") -> tuple[Int, Bool]:
    number = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    bad = ~((number >= 0) & (number <= LARGEST) & (number == np.floor(number)))
    return np.where(bad, 0, number).astype(np.int64), bad


def _decimal_ns(text: "pd.Series[Any]", *, unit_ns: int) -> tuple[Int, Bool]:
    number = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    bad = ~((number >= 0) & (number < 2.0**63 / unit_ns))
    return np.round(np.where(bad, 0, number) * unit_ns).astype(np.int64), bad


def _date_ns(text: "pd.Series[Any]") -> tuple[Int, Bool]:
    stamps = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    bad = stamps.isna().to_numpy()
    return stamps.dt.tz_localize(None).to_numpy("datetime64[ns]").astype(np.int64), bad


_DATE = "a time such as 2023-11-16 18:15:46.6805900"

CSV_FORMATS = (
    Format(
        name="Azure LLM inference trace",
        time="TIMESTAMP",
        prompt="ContextTokens",
        output="GeneratedTokens",
        time_is=_DATE,
        to_ns=_date_ns,
    ),
    Format(
        name="BurstGPT",
        time="Timestamp",
        prompt="Request tokens",
        output="Response tokens",
        time_is="a non-negative number of seconds",
        to_ns=partial(_decimal_ns, unit_ns=1_000_000_000),
    ),
)

MOONCAKE = Format(
    name="Mooncake JSONL",
    time="timestamp",
    prompt="input_length",
    output="output_length",
    time_is="a non-negative number of milliseconds",
    to_ns=partial(_decimal_ns, unit_ns=1_000_000),
)
