"""Search an expert-map store for whole iterations at once, each on the store as the earlier ones leave it.

Maps and embeddings lie on a grid, so sums of products are exact in float64, and no bit depends on how iterations are
grouped into blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from policies.prediction.cosine import MAP_GRID, Double, Single, nearest, on_grid, prefix_norms, unit
from policies.types import Float, Int, Nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The `C` entries of a store, as a search reads them."""

    capacity: int
    columns: Single  # [L, J, C] the maps, on the grid
    inverse_norms: Single  # [L, C] of their prefixes
    embeddings: Single | None  # [C, h] of length one
    semantic_share: float  # of the embedding in eq. 9

    @property
    def count(self) -> int:
        """The number of entries, C."""
        return len(self.columns[0, 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecords:
    """The `R` records of iterations that are searched at once, one iteration after the other."""

    maps: Float  # [R, L, J]
    starts: Sequence[int]  # the first record of each iteration
    exact: Double  # [R, L, J] the maps on the grid
    units: Single | None  # [R, h] the embeddings, of length one
    norms: Double  # [R, L] of the prefixes
    inverse_norms: Double  # [R, L] as they are stored

    @classmethod
    def of(cls, maps: Float, embeddings: Float | None, starts: Sequence[int]) -> "BlockRecords":
        """The records with these maps `[R, L, J]` and embeddings `[R, h]`."""
        exact = on_grid(maps, MAP_GRID)
        norms = prefix_norms(exact)
        return cls(
            maps=maps,
            starts=starts,
            exact=exact,
            units=None if embeddings is None else unit(embeddings),
            norms=norms,
            inverse_norms=(1 / norms).astype(np.float32).astype(np.float64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Iterations that were searched at once, and what the searches found."""

    records: BlockRecords
    index: Int  # [R, L] the nearest entry after each layer
    score: Single  # [R, L] its cosine
    entry: Int  # [R, L] its index in the store's `maps`, which has it even if its slot has been overwritten
    nearest: Nearest | None  # by embedding
    nearest_entry: Int  # [R] likewise; empty without embeddings
    slots: Sequence[int]  # [R] where the records go; empty if they are not learned


def search_block(entries: Entries, records: BlockRecords, *, learn: bool, part: int) -> Block:
    """Eq. 4 and eq. 5 for all records, `part` of them at a time; several iterations that learn must be one part."""
    rows, before, layers = len(records.maps), entries.count, records.norms.shape[1]
    width = min(entries.capacity, before + rows) if learn else before
    near = _nearness(entries, records, width)
    alike: Double | None = None  # [R, R] cosine of the embeddings
    if learn and records.units is not None:
        units = records.units.astype(np.float64)
        alike = units @ units.T
    whole = np.empty((rows, before))  # cosine of the whole maps
    index, score = np.empty((rows, layers), np.intp), np.empty((rows, layers), np.float32)
    slots: list[int] = []
    source: Int | None = None
    for first in range(0, rows, part):
        some = slice(first, first + part)
        projections = _projected(entries, records.exact[some], width)
        np.divide(projections[-1, :, :before], records.norms[some, -1:], out=whole[some])
        if learn and len(records.starts) > 1:
            slots = _slots(entries, records, whole, near, alike)
            source = _patched(entries, records, slots, projections, near, alike)
        best = projections.argmax(axis=2)
        place = np.arange(layers)[:, None], np.arange(projections.shape[1])
        index[some] = best.T
        score[some] = projections[*place, best].T / records.norms[some]
    if learn and len(records.starts) == 1:
        slots = _slots(entries, records, whole, near, alike)
    by_embedding = None if records.units is None else nearest(near)
    entry: Int = index
    nearest_entry: Int = np.zeros(0, np.intp) if by_embedding is None else by_embedding.index
    if source is not None:
        every_row = np.arange(rows)
        entry = source[every_row[:, None], index]
        if by_embedding is not None:
            nearest_entry = source[every_row, by_embedding.index]
    return Block(
        records=records,
        index=index,
        score=score,
        entry=entry,
        nearest=by_embedding,
        nearest_entry=nearest_entry,
        slots=slots,
    )


def slots_of(redundancy: Float, among: Float, *, count: int, capacity: int) -> list[int]:
    """The slots of new entries, one after the other: free slots first, then those of the most redundant entries.

    `redundancy` `[R, width]` compares the new entries with the `count` stored ones (it is overwritten), `among`
    `[R, R]` with each other.
    """
    slots: list[int] = []
    for row in range(len(redundancy)):
        free = count + row
        slot = free if free < capacity else int(redundancy[row].argmax())
        slots.append(slot)
        redundancy[row + 1 :, slot] = among[row + 1 :, row]  # later rows see what has just been stored
    return slots


def _nearness(entries: Entries, records: BlockRecords, width: int) -> Double:
    """`[R, width]` cosine of the embeddings, −∞ for entries not stored yet; `[0, width]` without embeddings."""
    if records.units is None:
        return np.zeros((0, width))
    assert entries.embeddings is not None
    near = np.full((len(records.maps), width), -np.inf)
    near[:, : entries.count] = records.units.astype(np.float64) @ entries.embeddings.T.astype(np.float64)
    return near


def _projected(entries: Entries, exact: Double, width: int) -> Double:
    """`[L, R, width]` cosine of the prefixes of `exact` `[R, L, J]` with those of the entries, times their own norm."""
    count = entries.count
    answer = np.empty((exact.shape[1], len(exact), width))
    answer[:, :, count:] = -np.inf
    dots = np.zeros((len(exact), count))
    for layer, projections in enumerate(answer):
        dots += exact[:, layer] @ entries.columns[layer].astype(np.float64)
        np.multiply(dots, entries.inverse_norms[layer], out=projections[:, :count])
    return answer


def _slots(entries: Entries, records: BlockRecords, whole: Double, near: Double, alike: Double | None) -> list[int]:
    """The slot of each record by eq. 9, in order, from the similarities `[R, count]` with stored entries."""
    rows, count = whole.shape
    flat = records.exact.reshape(rows, -1)
    among = flat @ flat.T * records.inverse_norms[:, -1] / records.norms[:, -1:]
    if alike is not None:
        share = entries.semantic_share
        whole = share * near[:, :count] + (1 - share) * whole
        among = share * alike + (1 - share) * among
    redundancy = np.zeros((rows, min(entries.capacity, count + rows)))
    redundancy[:, :count] = whole
    return slots_of(redundancy, among, count=count, capacity=entries.capacity)


def _patched(
    entries: Entries,
    records: BlockRecords,
    slots: Sequence[int],
    projections: Double,
    near: Double,
    alike: Double | None,
) -> Int:
    """Let each iteration see the records that earlier ones of the block have stored.

    Writes their `projections` and `near`. Returns `[R, width]`, the index in `maps` of what a record finds in a slot.
    """
    exact = records.exact.transpose(1, 0, 2)  # [L, R, J]
    among = (exact @ exact.transpose(0, 2, 1)).cumsum(axis=0)  # [L, R, R]
    among *= records.inverse_norms.T[:, None]
    source: Int = np.arange(projections.shape[2])[None].repeat(len(records.maps), axis=0)
    for first, end in pairwise(records.starts):
        for row in range(first, end):
            slot = slots[row]
            projections[:, end:, slot] = among[:, end:, row]
            source[end:, slot] = entries.capacity + row
            if alike is not None:
                near[end:, slot] = alike[end:, row]
    return source
