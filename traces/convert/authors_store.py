"""Convert the expert-map store of FineMoE's authors to a trace for `finemoe sim run --history STORE.trace`.

The format follows their public code (IntelliSys-Lab/FineMoE-EuroSys26): `export_store_data` writes `NAME~traj~C.npy`,
float32 `[C, L, J]` router probabilities, and `NAME~embed~C.npy`, float32 `[C, h]` outputs of the embedding layer. Empty
slots are zero. A later version writes both into one `NAME.npz` with `version` 1 and arrays `maps` and `embeds`. This
reader was written from the code, without an exported file to test on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.types import Bool, Float, Int, ModelShape, RecordedRequest
from traces.analysis.iterations import top
from traces.convert.conversion_settings import ImportTarget
from traces.convert.imported_trace import (
    Pair,
    imported,
    reading_arrays,
    sha256_of,
    write_trace,
)
from traces.format.schema import GATE_SUM_TOLERANCE, RequestInfo, TraceError

_CHUNK = 256  # entries checked at once


class Store:
    """The complete entries of an exported store; maps are read on demand.

    An entry with an all-zero map is an empty slot. An entry without some layers, such as a map stored before the end of
    its iteration, is skipped and counted. Raises `TraceError` with the entry's row.
    """

    def __init__(self, maps_file: Path, embeddings_file: Path | None, shape: ModelShape) -> None:
        self._file = maps_file
        self._maps = _array(maps_file, "maps", (shape.layers, shape.experts), shape)
        self._vectors = None
        vectors_file = embeddings_file
        if vectors_file is None and maps_file.suffix == ".npz":
            vectors_file = maps_file
        if vectors_file is not None:
            self._vectors = _array(vectors_file, "embeds", (shape.hidden,), shape)
            if len(self._vectors) != len(self._maps):
                what = f"must have {len(self._maps)} rows, as many as {maps_file.name}"
                raise TraceError.at(vectors_file, what, value=len(self._vectors))
        layers = self._layers_there()  # [C]
        self.rows: Int = np.flatnonzero(layers == shape.layers)  # of the complete entries
        self.incomplete = int(((layers > 0) & (layers < shape.layers)).sum())
        if not len(self.rows):
            most = int(layers.max(initial=0))
            raise TraceError.at(maps_file, f"no entry has all {shape.layers} layers; the most complete has {most}")
        self.tokens: Int = np.zeros(len(self.rows), np.int32)
        self.embeddings: Float | None = None  # [rows, h] float16
        if vectors_file is not None:
            self._number_vectors(vectors_file, shape)

    def maps(self, entry: int) -> Float:
        """The map `[L, J]` float16 of entry number `entry` in `rows`."""
        found: Float = np.asarray(self._maps[self.rows[entry]]).astype(np.float16)
        return found

    def _layers_there(self) -> Int:
        """`[C]`: number of layers present in each slot; checks every value."""
        there = []
        for first in range(0, len(self._maps), _CHUNK):
            some = np.asarray(self._maps[first : first + _CHUNK], np.float32)
            self._refuse(first, ~(np.isfinite(some) & (some >= 0)), "must be finite and at least 0", some)
            sums = some.astype(np.float16).sum(axis=2, dtype=np.float32)
            off = (np.abs(sums - 1) > GATE_SUM_TOLERANCE) & (sums != 0)
            self._refuse(first, off, f"must sum to 1 within {GATE_SUM_TOLERANCE}", sums)
            there.append((sums > 0).sum(axis=1))
        return np.concatenate(there) if there else np.zeros(0, int)

    def _refuse(self, first: int, bad: Bool, what: str, values: Float) -> None:
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            row, layer = first + at[0], at[1]
            raise TraceError.at(self._file, what, row=row, layer=layer, field="maps", value=values[at])

    def _number_vectors(self, file: Path, shape: ModelShape) -> None:
        """Give each distinct vector its own token number, since the store has no tokens."""
        assert self._vectors is not None
        with np.errstate(over="ignore"):
            vectors = np.asarray(self._vectors[self.rows]).astype(np.float16)
        bad = ~np.isfinite(vectors)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise TraceError.at(file, "must be finite as float16", row=int(self.rows[row]), field="embeds")
        distinct, number = np.unique(vectors, axis=0, return_inverse=True)
        if len(distinct) > shape.vocab:
            what = f"must have at most {shape.vocab} distinct vectors, the vocabulary size of {shape.name}"
            raise TraceError.at(file, what, field="embeds", value=len(distinct))
        self.tokens = number.reshape(-1).astype(np.int32)
        self.embeddings = vectors


def _array(file: Path, name: str, entry: tuple[int, ...], shape: ModelShape) -> NDArray[Any]:
    """The array `[C, …]` of a `.npy`, or the array called `name` of a `.npz`."""
    with reading_arrays(file, "a NumPy array"):
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            with loaded:
                if "version" in loaded and int(loaded["version"]) != 1:
                    raise TraceError.at(file, "must be 1", field="version", value=int(loaded["version"]))
                if name not in loaded:
                    raise TraceError.at(file, "is missing", field=name)
                loaded = loaded[name]
    if loaded.dtype.kind != "f" or loaded.shape[1:] != entry:
        wanted = f"float [entries, {', '.join(map(str, entry))}] for {shape.name}"
        raise TraceError.at(file, f"must be {wanted}", field=name, value=f"{loaded.dtype} {list(loaded.shape)}")
    array: NDArray[Any] = loaded
    return array


def convert_store(file: Path, embeddings: Path | None, shape: ModelShape, target: ImportTarget) -> Path:
    """Write a trace with one request of one iteration per entry, all in split train.

    The store has no executed experts; they are the top-k of the map, ties to the lower number. An entry is a single
    token, so policies that learn from whole requests (MoE-Infinity) learn little from it.
    """
    sibling = file.with_name(file.name.replace("~traj~", "~embed~"))
    if embeddings is None and sibling != file and sibling.exists():
        embeddings = sibling
    store = Store(file, embeddings, shape)
    digests = {one.name: sha256_of(one) for one in (file, embeddings) if one is not None}
    notes = [f"converted from FineMoE's store {name}, SHA-256 {digest}" for name, digest in digests.items()]
    notes += ["one request per entry", "executed experts are the top-k of the map"]
    notes.append("tokens number the distinct embeddings" if store.embeddings is not None else "tokens are written as 0")
    if store.incomplete:
        notes.append(f"{store.incomplete} entries without all layers were skipped")
    meta = imported(shape, target, notes, prefill=False, embedding=store.embeddings is not None)
    plan = {"convert": "store", "sha256": digests}
    return write_trace(target, meta, _pairs(store, shape, file.stem), plan=plan, total=len(store.rows))


def _pairs(store: Store, shape: ModelShape, name: str) -> Iterator[Pair]:
    for entry, row in enumerate(store.rows.tolist()):
        maps = store.maps(entry)
        info = RequestInfo(request=entry, source=f"{name}/{row}", split="train", output_tokens=1)
        yield (
            info,
            RecordedRequest(
                request=entry,
                source=info.source,
                iteration=np.ones(1, np.int32),
                position=np.zeros(1, np.int32),
                token=store.tokens[entry : entry + 1],
                gate=maps[None],
                experts=top(maps, shape.top_k)[None],
                embedding=None if store.embeddings is None else store.embeddings[entry : entry + 1],
            ),
        )
