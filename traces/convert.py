"""Other people's traces in our format."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from policies.errors import UserError
from policies.types import Float, Int, ModelShape, RecordedRequest
from traces.format import GATE_SUM_TOLERANCE, RequestInfo, TraceError, TraceMeta, library_versions
from traces.models import published
from traces.storage import one_line
from traces.writer import TraceWriter

_PART = 50  # requests


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Decode steps of many requests, one after the other: `T` tokens, `R` requests.

    Only the executed experts' weights are known, softmax over the K executed ones.
    """

    experts: Int  # [T, L, K]
    probs: Float  # [T, L, K] float16
    offsets: Int  # [R + 1] where each request begins
    token: Int  # [T] input token of each step
    source: NDArray[np.str_]  # [R]


def read_npz(file: Path, shape: ModelShape) -> Routing:
    """The arrays of a `routing.npz`, all of them checked; what is wrong is a `TraceError` in one line."""
    arrays = _load(file)
    routing = Routing(**{name: arrays[name] for name in _ARRAYS})
    steps, requests = len(routing.experts), len(routing.offsets) - 1
    if requests < 1:
        raise TraceError.at(file, "there is no request", field="offsets", value=routing.offsets.tolist())
    sizes: dict[str, tuple[int, ...]] = {
        "experts": (steps, shape.layers, shape.top_k),
        "probs": (steps, shape.layers, shape.top_k),
        "offsets": (requests + 1,),
        "token": (steps,),
        "source": (requests,),
    }
    for name, (kinds, described) in _ARRAYS.items():
        array = getattr(routing, name)
        if array.dtype.kind not in kinds or (name == "probs" and array.dtype != np.float16):
            raise TraceError.at(file, f"must be {described}", field=name, value=array.dtype)
        if array.shape != sizes[name]:
            what = f"shape must be {list(sizes[name])} for {shape.name}"
            raise TraceError.at(file, what, field=name, value=list(array.shape))
    _check_values(file, routing, shape)
    return routing


# The arrays, the kinds of number that they may hold, and that kind in words.
_ARRAYS: dict[str, tuple[str, str]] = {
    "experts": ("iu", "integers"),
    "probs": ("f", "float16"),
    "offsets": ("iu", "integers"),
    "token": ("iu", "integers"),
    "source": ("U", "text"),
}


def _load(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise TraceError.at(file, "is missing")
    try:
        with np.load(file, allow_pickle=False) as archive:
            for name in _ARRAYS:
                if name not in archive.files:
                    raise TraceError.at(file, "is missing", field=name)
            return {name: np.atleast_1d(archive[name]) for name in _ARRAYS}
    except UserError:
        raise
    except Exception as error:  # a damaged archive makes numpy and zipfile raise nearly anything
        raise TraceError.at(file, f"is not an npz archive of plain arrays: {one_line(error)}") from None


def _check_values(file: Path, routing: Routing, shape: ModelShape) -> None:
    offsets = routing.offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(routing.token):
        what = f"must run from 0 to {len(routing.token)}"
        raise TraceError.at(file, what, field="offsets", value=f"{offsets[0]} to {offsets[-1]}")
    _refuse(file, "offsets", "must grow from row to row", np.diff(offsets, prepend=-1) <= 0, lambda at: offsets[at])
    experts, probs, token = routing.experts, routing.probs, routing.token
    outside = (token < 0) | (token >= shape.vocab)
    _refuse(file, "token", f"must be from 0 to {shape.vocab - 1}", outside, lambda at: token[at])
    outside = (experts < 0) | (experts >= shape.experts)
    _refuse(file, "experts", f"must be from 0 to {shape.experts - 1}", outside, lambda at: experts[at])
    ordered = np.sort(experts, axis=2)
    repeated = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(2)
    _refuse(file, "experts", "must not repeat an expert", repeated, lambda at: experts[at].tolist())
    _refuse(file, "probs", "must be positive and finite", ~(np.isfinite(probs) & (probs > 0)), lambda at: probs[at])
    sums = probs.sum(axis=2, dtype=np.float32)
    off = ~(np.abs(sums - 1.0) <= GATE_SUM_TOLERANCE)
    _refuse(file, "probs", f"must sum to 1 within {GATE_SUM_TOLERANCE}", off, lambda at: sums[at])


def _refuse(file: Path, field: str, what: str, bad: NDArray[Any], value: Callable[[Any], object]) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        layer = f"layer {at[1]} " if len(at) > 1 else ""
        raise TraceError.at(file, layer + what, row=at[0], field=field, value=value(at))


def request_of(routing: Routing, request: int, shape: ModelShape) -> RecordedRequest:
    """One request, with a gate that is zero where nothing was executed."""
    span = slice(int(routing.offsets[request]), int(routing.offsets[request + 1]))
    experts = routing.experts[span].astype(np.int16)
    steps = len(experts)
    gate = np.zeros((steps, shape.layers, shape.experts), np.float16)
    np.put_along_axis(gate, experts.astype(np.int64), routing.probs[span], axis=2)
    return RecordedRequest(
        request=request,
        source=str(routing.source[request]),
        iteration=np.arange(1, steps + 1, dtype=np.int32),
        # The prompt's length is unknown: places count from the first recorded token.
        position=np.arange(steps, dtype=np.int32),
        token=routing.token[span].astype(np.int32),
        gate=gate,
        experts=experts,
    )


def convert_npz(
    source: Path,
    model: str,
    out: Path,
    *,
    limit: int | None = None,
    restart: bool = False,
    overwrite: bool = False,
    license: str | None = None,
) -> Path:
    """Write the trace `out` from a `routing.npz`, or from the folder that holds one. Nothing is lost or rounded."""
    shape = published(model)
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be positive, value {limit}")
    file = source / "routing.npz" if source.is_dir() else source
    routing = read_npz(file, shape)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    meta = TraceMeta(
        kind="imported",
        model=model,
        shape=shape,
        gate_complete=False,
        prefill=False,
        versions=library_versions(),
        license=license,
        notes=f"converted from {file.name}, SHA-256 {digest}; positions count from the first recorded token",
    )
    total = min(len(routing.source), limit or len(routing.source))
    plan = {"convert": "npz", "sha256": digest, "limit": limit}
    with (
        TraceWriter(out, meta, plan=plan, restart=restart, overwrite=overwrite) as writer,
        tqdm(total=total, unit="request", file=sys.stderr, disable=None) as bar,
    ):
        for number, first in enumerate(range(0, total, _PART)):
            part = range(first, min(first + _PART, total))
            if number not in writer.finished:
                recorded = [request_of(routing, request, shape) for request in part]
                writer.write_part(number, [_info(one) for one in recorded], recorded)
            bar.update(len(part))
        return writer.finish()


def _info(recorded: RecordedRequest) -> RequestInfo:
    return RequestInfo(request=recorded.request, source=recorded.source, output_tokens=len(recorded.iteration))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces convert`."""
    parser.add_argument(
        "format", choices=["npz"], help="what IN is: npz has arrays experts, probs, offsets, token, source"
    )
    parser.add_argument("source", type=Path, metavar="IN", help="the file routing.npz or the folder that holds it")
    parser.add_argument("--model", required=True, help="name of the traced model, e.g. gpt-oss-20b")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.trace", help="the trace to write")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N requests")
    parser.add_argument("--license", help="licence of the data, to be noted in the trace")
    parser.add_argument("--restart", action="store_true", help="throw away what an interrupted run has left")
    parser.add_argument("--overwrite", action="store_true", help="replace a trace that is there")


def run(args: argparse.Namespace) -> int:
    """Convert and say what came out."""
    settings = {name: getattr(args, name) for name in ("limit", "restart", "overwrite", "license")}
    print(convert_npz(args.source, args.model, args.out, **settings))
    return 0
