"""Convert counts of how often serving engines used each expert to a table.

Counts do not show which experts a token executed together, nor in which request, so they cannot become a trace. They
do show how a layer's load is distributed: `finemoe sim run --placement balanced --counts TABLE` places experts by them
instead of by the history. Readable files are SGLang's dumps (`sglang_records.py`), and whole numbers `[steps, L, J]` or
`[L, J]` as `.npy`, `.npz` (array `logical_count` or `counts`, or the only one) or JSON (a nested list, or an object
with such a field). vLLM's `expert_load_window` can be saved that way (vLLM writes no file itself; it counts physical
experts, so only without redundant ones). FineMoE's authors export the activation matrices of their MoE-Infinity
baseline that way (`NAME~trace~C.npy`).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason
from common.files import refuse_existing
from policies.types import Int, ModelShape
from traces.analysis.expert_counts import write_counts
from traces.convert.conversion_settings import CountsTarget
from traces.convert.imported_trace import reading_arrays, sha256_of
from traces.format.schema import TraceError

_MOST = 2**53  # executions of an expert in a step; larger counts are not exact in floating point
_NAMES = ("logical_count", "counts")


def read_counts_of(file: Path, shape: ModelShape, first_layer: int = 0) -> Int:
    """Counts `[L, J]` int64, summed over steps, without the dense layers before `first_layer`."""
    if file.suffix == ".pt":
        try:
            from traces.convert.sglang_records import read_pt
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise UserError(f"{file}: reading it needs torch: pip install 'finemoe-lab[models]'") from None
        found: NDArray[Any] = read_pt(file)
    else:
        found = _json(file) if file.suffix == ".json" else _numpy(file)
    whole = found.dtype.kind in "iu" or (found.dtype.kind == "f" and bool((found == np.rint(found)).all()))
    if not whole or found.ndim not in (2, 3):
        what = "must be whole numbers [steps, layers, experts] or [layers, experts]"
        raise TraceError.at(file, what, value=f"{found.dtype} {list(found.shape)}")
    for bad in found[(found < 0) | (found > _MOST)][:1]:
        raise TraceError.at(file, f"counts must be from 0 to {_MOST}", value=bad)
    counts: Int = found.astype(np.int64).reshape(-1, *found.shape[-2:]).sum(axis=0)
    wanted = (first_layer + shape.layers, shape.experts)
    if counts.shape != wanted:
        what = f"must have {wanted[0]} layers and {wanted[1]} experts for {shape.name}"
        raise TraceError.at(file, what, value=f"{counts.shape[0]} and {counts.shape[1]}")
    counts = counts[first_layer:]
    for layer in np.flatnonzero(counts.sum(axis=1) == 0)[:1]:
        raise TraceError.at(file, f"layer {layer + first_layer} has no counts; if it is dense, set `first_layer`")
    return counts


def _numpy(file: Path) -> NDArray[Any]:
    with reading_arrays(file, "a NumPy array"):
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
        unread = isinstance(error, (OSError, UnicodeDecodeError, json.JSONDecodeError))
        what = "cannot be read" if unread else "is not a nested JSON list"
        raise TraceError.at(file, f"{what}: {reason(error)}") from None


def _only(file: Path, named: dict[str, Any]) -> NDArray[Any]:
    for name in (*_NAMES, *(named if len(named) == 1 else ())):
        if name in named:
            return np.array(named[name])
    raise TraceError.at(file, f"is missing; it has {', '.join(named)}", field=_NAMES[0])


def convert_counts(file: Path, shape: ModelShape, target: CountsTarget, *, first_layer: int = 0) -> Path:
    """Convert a file of counts to a table, and print a summary on stderr."""
    out = target.out
    if not target.overwrite:
        refuse_existing(out)
    digest = sha256_of(file)
    counts = read_counts_of(file, shape, first_layer)
    write_counts(out, counts, {"source": file.name, "sha256": digest, "model": shape.name, "first_layer": first_layer})
    busiest = (counts.max(axis=1) / counts.mean(axis=1)).mean()
    print(f"{counts.sum():,} executions; a layer's busiest expert has {busiest:.2f} × the mean load", file=sys.stderr)
    return out
