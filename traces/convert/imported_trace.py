"""What the converters share: the model's sizes, the source's hash, and writing requests as they come."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.commands import add_writing_arguments
from common.errors import UserError, one_line, unknown
from policies.types import ModelShape, RecordedRequest
from traces.format.schema import RequestInfo, TraceError, TraceMeta, library_versions
from traces.format.storage import file_info, reading, remove
from traces.format.writer import TraceWriter
from traces.published_models import published

Pair = tuple[RequestInfo, RecordedRequest]

_PART_REQUESTS = 50
_PART_GATES = 1 << 25  # numbers of `gate` in a part, beyond which it takes no further request: 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The trace to be made, and how: what `add_target_arguments` declares."""

    out: Path
    limit: int | None = None
    restart: bool = False
    overwrite: bool = False
    license: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit must be positive, value {self.limit}")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Target":
        """The target that the arguments name."""
        return cls(**{one.name: getattr(args, one.name) for one in fields(cls)})


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model was traced."""
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the traced model, e.g. gpt-oss-20b")
    sizes = ",".join(f"{name}=N" for name in _REQUIRED)
    parser.add_argument("--shape", metavar="SIZES", help=f"its sizes, where they are not known here: {sizes}")


def add_layer_argument(parser: argparse.ArgumentParser) -> None:
    """Declare where the numbers of MoE layers begin."""
    parser.add_argument(
        "--first-layer",
        type=int,
        default=0,
        metavar="N",
        help="number that the source gives to the first MoE layer, where dense layers stand before it (default: 0)",
    )


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the trace to be made."""
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.trace", help="the trace to write")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N requests")
    parser.add_argument("--license", help="licence of the data, to be noted in the trace")
    add_writing_arguments(parser)


def shape_of(args: argparse.Namespace) -> ModelShape:
    """The sizes that `--shape` spells out, or those of the published model that `--model` names."""
    if args.shape is None:
        return published(args.model)
    sizes: dict[str, float] = {}
    for part in args.shape.split(","):
        name, _, value = part.partition("=")
        if name not in _SIZES:
            raise UserError(f"--shape: {unknown('size', name, _SIZES)}")
        try:
            sizes[name] = float(value) if name == "weight_bytes" else int(value)
        except ValueError:
            raise UserError(f"--shape: {name} must be a number, value {value!r}") from None
    missing = [name for name in _REQUIRED if name not in sizes]
    if missing:
        raise UserError(f"--shape: {', '.join(missing)} must be given too: times depend on all sizes")
    return ModelShape(name=args.model, **sizes)  # type: ignore[arg-type]  # weight_bytes alone is a float


_SIZES = [one.name for one in fields(ModelShape) if one.name != "name"]
_REQUIRED = [one.name for one in fields(ModelShape) if one.name != "name" and one.default is MISSING]


def sha256_of(file: Path) -> str:
    """The hash of a file; one that is not there is a `TraceError`."""
    if not file.is_file():
        raise TraceError.at(file, "is missing")
    return file_info(file).sha256


@contextmanager
def reading_arrays(file: Path, what: str) -> Iterator[None]:
    """Turn what numpy says about a file that is not `what` into a `TraceError`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise TraceError.at(file, "is missing") from None
    except Exception as error:  # a damaged archive makes numpy and zipfile raise nearly anything
        raise TraceError.at(file, f"is not {what}: {one_line(error)}") from None


def imported(shape: ModelShape, target: Target, notes: Sequence[str], **known: Any) -> TraceMeta:
    """The description of a trace that was recorded elsewhere."""
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
    target: Target,
    meta: TraceMeta,
    requests: Iterable[Pair],
    *,
    plan: Mapping[str, Any],
    total: int | None = None,
    notes: Callable[[], Sequence[str]] = tuple,
) -> Path:
    """Write the requests as they come, holding one part of them in memory; an interrupted run goes on where it was.

    `notes` are asked for at the end: what is known only when all has been read. After a `TraceError`, nothing is
    left: with the mistake mended the source is another one.
    """
    plan = {**plan, "limit": target.limit}
    if total is not None and target.limit is not None:
        total = min(total, target.limit)
    options = {"restart": target.restart, "overwrite": target.overwrite}
    with (
        TraceWriter(target.out, meta, plan=plan, **options) as writer,
        tqdm(total=total, unit="request", file=sys.stderr, disable=None) as bar,
    ):
        try:
            for number, part in enumerate(_parts(islice(requests, target.limit), meta.shape)):
                if number not in writer.finished:
                    writer.write_part(number, [info for info, _ in part], [recorded for _, recorded in part])
                bar.update(len(part))
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
    """Number, from 1, and content of each line of a JSONL file that is not blank; one that is no object is refused."""
    with reading(file), file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}: line {number}"
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TraceError.at(place, f"is not JSON: {one_line(error)}") from None
            if not isinstance(data, dict):
                raise TraceError.at(place, "is not a JSON object")
            yield number, data
