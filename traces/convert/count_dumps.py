"""How often serving engines used each expert, as a table for coarse use.

Counts do not tell which experts a token executed together, nor which request it was of, so they do not become a
trace. What they do tell is how evenly a layer's load falls: `sim run --placement balanced --counts TABLE` places
experts by them instead of by the history. Read are SGLang's dumps (`sglang_records.py`); `.npy`, `.npz` (array
`logical_count` or `counts`, or the only one) and JSON (a nested list, or an object with such a field) of whole numbers
`[steps, L, J]` or `[L, J]`, into which vLLM's `expert_load_window` can be saved (vLLM has no file of its own; it counts
physical experts, so only without redundant ones) and as which FineMoE's authors export the activation matrices of their
MoE-Infinity baseline (`NAME~trace~C.npy`).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, one_line
from common.files import refuse_existing
from policies.types import Int, ModelShape
from traces.analysis.expert_counts import write_counts
from traces.convert.conversion_settings import CountsTarget
from traces.convert.imported_trace import reading_arrays, sha256_of
from traces.format.schema import TraceError

_MOST = 2**53  # executions of an expert in a step, beyond which floating point counts no further
_NAMES = ("logical_count", "counts")


def read_counts_of(file: Path, shape: ModelShape, first_layer: int = 0) -> Int:
    """`[L, J]` int64, all steps together; layers before `first_layer`, which are dense, are left out."""
    if file.suffix == ".pt":
        try:
            from traces.convert.sglang_records import read_pt
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise UserError(f"{file}: to read it takes torch: pip install 'finemoe-lab[models]'") from None
        found: NDArray[Any] = read_pt(file)
    else:
        found = _json(file) if file.suffix == ".json" else _numpy(file)
    whole = found.dtype.kind in "iu" or (found.dtype.kind == "f" and bool((found == np.rint(found)).all()))
    if not whole or found.ndim not in (2, 3) or ((found < 0) | (found > _MOST)).any():
        what = "must be whole numbers [steps, layers, experts] or [layers, experts], none negative"
        raise TraceError.at(file, what, value=f"{found.dtype} {list(found.shape)}")
    counts: Int = found.astype(np.int64).reshape(-1, *found.shape[-2:]).sum(axis=0)
    wanted = (first_layer + shape.layers, shape.experts)
    if counts.shape != wanted:
        what = f"must be of {wanted[0]} layers and {wanted[1]} experts for {shape.name}"
        raise TraceError.at(file, what, value=f"{counts.shape[0]} and {counts.shape[1]}")
    counts = counts[first_layer:]
    for layer in np.flatnonzero(counts.sum(axis=1) == 0)[:1]:
        raise TraceError.at(file, f"layer {layer + first_layer} has no counts; if it is dense, set first_layer")
    return counts


def _numpy(file: Path) -> NDArray[Any]:
    with reading_arrays(file, "an array of numpy"):
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            array: NDArray[Any] = loaded
            return array
        with loaded:
            return _only(file, {name: loaded[name] for name in loaded.files})


def _json(file: Path) -> NDArray[Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return _only(file, data) if isinstance(data, dict) else np.array(data)
    except (OSError, ValueError, RecursionError) as error:
        raise TraceError.at(file, f"is not a nested list in JSON: {one_line(error)}") from None


def _only(file: Path, named: dict[str, Any]) -> NDArray[Any]:
    for name in (*_NAMES, *(named if len(named) == 1 else ())):
        if name in named:
            return np.array(named[name])
    raise TraceError.at(file, f"is missing; it has {', '.join(named)}", field=_NAMES[0])


def convert_counts(file: Path, shape: ModelShape, target: CountsTarget, *, first_layer: int = 0) -> Path:
    """Write the table of a file's counts."""
    out = target.out
    refuse_existing(out, overwrite=target.overwrite)
    digest = sha256_of(file)
    counts = read_counts_of(file, shape, first_layer)
    write_counts(out, counts, {"source": file.name, "sha256": digest, "model": shape.name, "first_layer": first_layer})
    busiest = (counts.max(axis=1) / counts.mean(axis=1)).mean()
    print(f"{counts.sum():,} executions; a layer's busiest expert has {busiest:.2f} × the mean", file=sys.stderr)
    return out
