"""The expert-map store: the routing of earlier iterations, searched by cosine similarity.

Paper §4.2-4.4: an entry is a pair of a semantic embedding `[h]` and an expert map `[L, J]`. Semantic search (eq. 4)
compares embeddings; trajectory search (eq. 5) compares the part of the map seen so far. In a full store, a new entry
replaces the most redundant one (eq. 9). Of equal scores, the lowest index wins.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import UserError
from policies.prediction.block_search import Block, BlockRecords, Entries, search_block, slots_of
from policies.prediction.cosine import MAP_GRID, Double, Single, on_grid, prefix_norms, unit
from policies.types import Float, Int, Nearest

BLOCK_ROWS = 32  # at most so many records are searched at once
BLOCK_BYTES = 64e6  # of their similarities with every entry after each layer


class ExpertMapStore:
    """Up to `capacity` expert maps `[L, J]`, with their embeddings `[h]` if `hidden` is given.

    It must not be empty when it is searched. `prefetch_distance` = d weighs the two similarities of eq. 9, since
    embeddings guide the first d layers.
    """

    def __init__(
        self, layers: int, experts: int, *, capacity: int, prefetch_distance: int, hidden: int | None = None
    ) -> None:
        self.capacity = capacity
        self.count = 0
        self._layers = layers
        self._semantic_share = min(prefetch_distance, layers) / layers if hidden is not None else 0.0
        self._rows: Single = np.zeros(
            (capacity + BLOCK_ROWS, layers, experts), np.float32
        )  # the last rows are those of a block
        self._columns: Single = np.zeros((layers, experts, capacity), np.float32)  # on the grid, entries innermost
        self._inverse_norms: Single = np.zeros((layers, capacity), np.float32)  # of the prefixes ending at each layer
        self._embeddings: Single | None = None if hidden is None else np.zeros((capacity, hidden), np.float32)  # unit
        self._block_rows = int(min(max(BLOCK_BYTES // (layers * capacity * 8), 1), BLOCK_ROWS))

    def arrays(self) -> dict[str, Single]:
        """Its entries, as `restore` reads them."""
        entries = {"maps": self._rows, "inverse_norms": self._inverse_norms.T}
        if self._embeddings is not None:
            entries["embeddings"] = self._embeddings
        return {name: np.ascontiguousarray(array[: self.count]) for name, array in entries.items()}

    def restore(self, arrays: Mapping[str, Single]) -> None:
        """Take over the entries of another store of the same sizes; they must fit into the capacity."""
        maps = arrays["maps"]
        self.count = count = len(maps)
        self._rows[:count] = maps
        self._columns[:, :, :count] = on_grid(maps, MAP_GRID).transpose(1, 2, 0)
        self._inverse_norms[:, :count] = arrays["inverse_norms"].T
        if self._embeddings is not None:
            self._embeddings[:count] = arrays["embeddings"]

    @property
    def nbytes(self) -> int:
        """Bytes of the stored maps and embeddings (fig. 18), without the transposed copy that speeds up searches."""
        return self._rows[: self.capacity].nbytes + (0 if self._embeddings is None else self._embeddings.nbytes)

    def maps(self, index: Int, layers: Int | int) -> Single:
        """`[…, J]` the stored distributions of entries `index` at `layers`, broadcast against each other.

        Indices from `capacity` on are the records of the block that was searched last.
        """
        rows: Single = self._rows[index, layers]
        return rows

    # ---- search --------------------------------------------------------------------------------------------------

    def nearness(self, embeddings: Float) -> Single:
        """Eq. 4: `[R, count]` cosine of embeddings `[R, h]` with those of every entry."""
        assert self._embeddings is not None
        scores: Single = unit(embeddings) @ self._embeddings[: self.count].T
        return scores

    def trajectory(self, rows: int) -> "Trajectory":
        """Begin an incremental search for `rows` iterations (or tokens) at once."""
        return Trajectory(self, rows)

    def together(self, counts: Sequence[int]) -> int:
        """How many of these iterations, with `counts` records each, `block` can search at once: at least 1."""
        ends = np.cumsum(counts)
        return max(int(ends.searchsorted(self._block_rows, side="right")), 1)

    def block(self, maps: Float, embeddings: Float | None, starts: Sequence[int], *, learn: bool) -> Block:
        """Eq. 4 and eq. 5 for whole iterations at once, each on the store as the earlier ones leave it.

        Maps `[R, L, J]` and embeddings `[R, h]` are those of all records, one iteration after the other; `starts` lists
        the first record of each iteration. With `learn`, the records of an iteration enter the store when it ends
        (eq. 9). The entries themselves change only when `keep` is called.
        """
        count = self.count
        entries = Entries(
            capacity=self.capacity,
            columns=self._columns[:, :, :count],
            inverse_norms=self._inverse_norms[:, :count],
            embeddings=None if self._embeddings is None else self._embeddings[:count],
            semantic_share=self._semantic_share,
        )
        if learn and len(starts) > 1:  # then later iterations may find the records of earlier ones
            self._rows[self.capacity :][: len(maps)] = maps
        return search_block(entries, BlockRecords.of(maps, embeddings, starts), learn=learn, part=self._block_rows)

    def keep(self, block: Block) -> None:
        """Store the records of a block that learns in the slots found for them."""
        records = block.records
        self._write(block.slots, records.maps, records.exact, records.norms, records.units)

    # ---- update --------------------------------------------------------------------------------------------------

    def add(
        self,
        maps: Float,
        embeddings: Float | None,
        similarity: Single | None = None,
        nearness: Single | None = None,
    ) -> None:
        """Store `R` entries one after the other, maps `[R, L, J]`; when full, each replaces the most redundant (eq. 9).

        `similarity` and `nearness`, both `[R, count]`, are the cosines of the whole maps and of the embeddings with
        every entry, if a search has computed them already.
        """
        maps = np.ascontiguousarray(maps, np.float32)
        rows, before = len(maps), self.count
        units = None if embeddings is None else unit(embeddings)
        slots = list(range(before, min(before + rows, self.capacity)))
        if len(slots) < rows:
            flat = unit(maps.reshape(rows, -1))
            if similarity is None:
                similarity = self._whole(flat)
            if nearness is None and units is not None:
                nearness = self.nearness(units)
            redundancy = np.zeros((rows, self.capacity), np.float32)
            redundancy[:, :before] = self._redundancy(similarity, nearness)
            among = self._redundancy(flat @ flat.T, None if units is None else units @ units.T)
            slots = slots_of(redundancy, among, count=before, capacity=self.capacity)
        exact = on_grid(maps, MAP_GRID)
        self._write(slots, maps, exact, prefix_norms(exact), units)

    def _redundancy(self, trajectory: Single, semantic: Single | None) -> Single:
        """Eq. 9: (d / L) · semantic + ((L − d) / L) · trajectory; without embeddings the trajectory alone."""
        if semantic is None:
            return trajectory
        share = np.float32(self._semantic_share)
        mixed: Single = share * semantic + (np.float32(1) - share) * trajectory
        return mixed

    def _whole(self, flat: Single) -> Single:
        """`[R, count]` cosine of whole maps, `[R, L·J]` of length one, with the stored ones."""
        columns = self._columns.reshape(-1, self.capacity)[:, : self.count]
        products: Single = flat @ columns
        return products * self._inverse_norms[-1, : self.count]

    def _write(self, slots: Sequence[int], maps: Float, exact: Double, norms: Double, units: Single | None) -> None:
        last = {slot: row for row, slot in enumerate(slots)}  # an entry that another of these overwrites is not written
        slot, row = list(last), list(last.values())
        self._rows[slot] = maps[row]
        self._columns[:, :, slot] = exact[row].transpose(1, 2, 0)
        self._inverse_norms[:, slot] = 1 / norms[row].T
        if self._embeddings is not None:
            if units is None:
                raise UserError("expert-map store: its entries have embeddings, but a new one has none")
            self._embeddings[slot] = units[row]
        self.count = min(self.count + len(slots), self.capacity)


class Trajectory:
    """The trajectory search of one iteration, layer by layer: a running dot product and a running norm per row.

    Adding a layer costs one product `[T, J] × [J, C]`, however many layers were seen before.
    """

    def __init__(self, store: ExpertMapStore, rows: int) -> None:
        self._store = store
        self._dots: Single = np.zeros((rows, store.count), np.float32)
        self._squares: Single = np.zeros(rows, np.float32)
        self._rows = np.arange(rows)
        self._layer = -1

    def extend(self, probs: Float) -> None:
        """Add the gate `[T, J]` of the next layer."""
        self._layer += 1
        store = self._store
        self._dots += probs @ store._columns[self._layer, :, : store.count]
        self._squares += np.vecdot(probs, probs)

    def scores(self) -> Single:
        """`[T, count]` cosine of the layers seen so far with the same prefix of every entry."""
        norms: Single = np.sqrt(self._squares)
        scores: Single = self._projections() / norms[:, None]
        return scores

    def best(self) -> Nearest:
        """Eq. 5: the nearest entry to each row."""
        projections = self._projections()  # a row's own norm does not change which is the largest
        index = projections.argmax(axis=1)
        return Nearest(index, projections[self._rows, index] / np.sqrt(self._squares))

    def _projections(self) -> Single:
        projections: Single = self._dots * self._store._inverse_norms[self._layer, : self._store.count]
        return projections
