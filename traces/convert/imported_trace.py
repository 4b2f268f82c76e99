"""Code shared by the converters: hash the source, read its lines or arrays, and write requests one by one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import UserError, not_json, reason
from common.files import remove
from common.progress import bar
from policies.types import ModelShape, RecordedRequest
from traces.convert.conversion_settings import ImportTarget
from traces.format.schema import RequestInfo, TraceError, TraceMeta, library_versions
from traces.format.storage import ABSENT, file_info, reading, require_file
from traces.format.writer import TraceWriter

Pair = tuple[RequestInfo, RecordedRequest]

_PART_REQUESTS = 50
_PART_GATES = 1 << 25  # values of `gate` in a part (64 MiB), after which it takes no further request


def sha256_of(file: Path) -> str:
    """SHA-256 of a file; raises `TraceError` if it is missing, or something else than a file."""
    require_file(file)
    return file_info(file).sha256


@contextmanager
def reading_arrays(file: Path, what: str) -> Iterator[None]:
    """Turn errors of NumPy about a file that is not `what` into a `TraceError`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise TraceError.at(file, ABSENT) from None
    except Exception as error:  # numpy and zipfile raise nearly anything for a damaged archive
        why = (
            "it contains Python objects, or is another kind of file" if "allow_pickle" in str(error) else reason(error)
        )
        raise TraceError.at(file, f"is not {what}: {why}") from None


def imported(shape: ModelShape, target: ImportTarget, notes: Sequence[str], **known: Any) -> TraceMeta:
    """The description of an imported trace; `known` are further fields of `TraceMeta`."""
    return TraceMeta(
        kind="imported",
        model=shape.name,
        shape=shape,
        versions=library_versions(),
        license=target.license,
        notes="; ".join(notes),
        **known,
    )


def write_trace(
    target: ImportTarget,
    meta: TraceMeta,
    requests: Iterable[Pair],
    *,
    plan: Mapping[str, Any],
    total: int | None = None,
    notes: Callable[[], Sequence[str]] = tuple,
) -> Path:
    """Write requests one by one, with one part of them in memory; an interrupted run can be resumed.

    `notes` is called at the end, for facts that are known only then. A `TraceError` removes the parts, since a
    corrected source is a different source.
    """
    plan = {**plan, "max_requests": target.max_requests}
    if total is not None and target.max_requests is not None:
        total = min(total, target.max_requests)
    options = {"restart": target.restart, "overwrite": target.overwrite}
    with (
        TraceWriter(target.out, meta, plan=plan, **options) as writer,
        bar("convert", total) as done,
    ):
        try:
            for number, part in enumerate(_parts(islice(requests, target.max_requests), meta.shape)):
                if number not in writer.finished:
                    writer.write_part(number, [info for info, _ in part], [recorded for _, recorded in part])
                done(len(part))
        except TraceError:
            remove(target.out.with_name(target.out.name + ".partial"))
            raise
        writer.meta = replace(meta, notes="; ".join([meta.notes or "", *notes()]))
        return writer.finish()


def _parts(requests: Iterable[Pair], shape: ModelShape) -> Iterator[list[Pair]]:
    part: list[Pair] = []
    gates = 0
    for info, recorded in requests:
        part.append((info, recorded))
        gates += len(recorded.iteration) * shape.total_experts
        if len(part) == _PART_REQUESTS or gates >= _PART_GATES:
            yield part
            part, gates = [], 0
    if part:
        yield part


def json_objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and object of each line of a JSONL file, without blank lines; raises `TraceError`."""
    with reading(file, ABSENT), file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}: line {number}"
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TraceError.at(place, not_json(error)) from None
            if not isinstance(data, dict):
                raise TraceError.at(place, "is not a JSON object")
            yield number, data
