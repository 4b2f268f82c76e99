"""The expert-map store: what earlier iterations routed to, searched by cosine similarity.

Paper §4.2-4.4: entries are pairs of a semantic embedding `[h]` and an expert map `[L, J]`; semantic search (eq. 4)
compares embeddings, trajectory search (eq. 5) the part of the map seen so far, and when the store is full a new entry
replaces the most redundant one (eq. 9). Among equal scores the lowest index wins.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from policies.types import Float, Int, Nearest

Single = NDArray[np.float32]
Records = tuple[Float, Float | None]  # maps [R, L, J] and their embeddings [R, h]


class ExpertMapStore:
    """Up to `capacity` expert maps `[L, J]`, with their embeddings `[h]` if `hidden` is given.

    It must hold something before it is searched.
    `prefetch_distance` weighs the two similarities of eq. 9: the first d layers are guided by the embedding.
    """

    def __init__(
        self, layers: int, experts: int, *, capacity: int, prefetch_distance: int, hidden: int | None = None
    ) -> None:
        self.capacity = capacity
        self.count = 0
        self._layers, self._experts = layers, experts
        self._semantic_share = min(prefetch_distance, layers) / layers if hidden is not None else 0.0
        self._rows: Single = np.zeros((capacity, layers, experts), np.float32)
        self._columns: Single = np.zeros((layers, experts, capacity), np.float32)  # the same, entries innermost
        self._inverse_norms: Single = np.zeros((layers, capacity), np.float32)  # of the prefixes ending at each layer
        self._embeddings: Single | None = None if hidden is None else np.zeros((capacity, hidden), np.float32)  # unit

    def arrays(self) -> dict[str, Single]:
        """Its entries, for `restore`."""
        held = {"maps": self._rows, "inverse_norms": self._inverse_norms.T}
        if self._embeddings is not None:
            held["embeddings"] = self._embeddings
        return {name: np.ascontiguousarray(array[: self.count]) for name, array in held.items()}

    def restore(self, arrays: Mapping[str, Single]) -> None:
        """Hold the entries of another store, of the same sizes and no more than the capacity."""
        maps = arrays["maps"]
        self.count = count = len(maps)
        self._rows[:count] = maps
        self._columns[:, :, :count] = maps.transpose(1, 2, 0)
        self._inverse_norms[:, :count] = arrays["inverse_norms"].T
        if self._embeddings is not None:
            self._embeddings[:count] = arrays["embeddings"]

    @property
    def nbytes(self) -> int:
        """Bytes of the stored maps and embeddings (fig. 18), without the transposed copy that makes searching fast."""
        return self._rows.nbytes + (0 if self._embeddings is None else self._embeddings.nbytes)

    def maps(self, index: Int, layers: Int | int) -> Single:
        """`[…, J]` the stored distributions of entries `index` at `layers`, broadcast against each other."""
        rows: Single = self._rows[index, layers]
        return rows

    # ---- search --------------------------------------------------------------------------------------------------

    def semantic(self, embeddings: Float) -> Nearest:
        """Eq. 4: the stored entry nearest to each embedding `[R, h]`."""
        return nearest(self.nearness(embeddings))

    def nearness(self, embeddings: Float) -> Single:
        """`[R, count]` cosine of embeddings `[R, h]` with those of every entry."""
        assert self._embeddings is not None
        scores: Single = _unit(embeddings) @ self._embeddings[: self.count].T
        return scores

    def trajectory(self, rows: int) -> "Trajectory":
        """Begin an incremental search for `rows` iterations (or tokens) at once."""
        return Trajectory(self, rows)

    def block(self, maps: Float) -> tuple[Int, Single, Single]:
        """Eq. 5 for whole maps `[R, L, J]` at once: best index `[R, L]` and score `[R, L]` after each layer.

        Third comes the similarity of the whole maps with every entry, `[R, count]`. The same as extending a
        `Trajectory` layer by layer, up to the rounding of float32.
        """
        count, rows = self.count, len(maps)
        dots: Single = np.matmul(maps.transpose(1, 0, 2), self._columns[:, :, :count])  # [L, R, count]
        for before, layer in pairwise(dots):
            layer += before
        dots *= self._inverse_norms[:, None, :count]
        norms = np.sqrt(np.einsum("rlj,rlj->lr", maps, maps).cumsum(axis=0))  # [L, R]
        index = dots.argmax(axis=2)
        score = dots[np.arange(self._layers)[:, None], np.arange(rows), index] / norms
        return index.T, score.T, dots[-1] / norms[-1][:, None]

    # ---- update --------------------------------------------------------------------------------------------------

    def add(
        self,
        maps: Float,
        embeddings: Float | None,
        similarity: Single | None = None,
        nearness: Single | None = None,
    ) -> None:
        """Store `R` entries one after the other, maps `[R, L, J]`; when full, each replaces the most redundant (eq. 9).

        `similarity` and `nearness`, both `[R, count]`: the cosine of the whole maps, and of the embeddings, with every
        entry, where a search has them already.
        """
        fresh = np.ascontiguousarray(maps, np.float32)
        units = None if embeddings is None else _unit(embeddings)
        norms = np.sqrt(np.einsum("rlj,rlj->rl", fresh, fresh).cumsum(axis=1))  # [R, L]
        room = min(self.capacity - self.count, len(fresh))
        for row in range(room):
            self._write(self.count, fresh[row], norms[row], None if units is None else units[row])
            self.count += 1
        if room == len(fresh):
            return
        fresh, norms = fresh[room:], norms[room:]
        units = None if units is None else units[room:]
        if room:
            similarity = nearness = None  # they lack the entries that have just been stored
        if similarity is None or len(fresh) > 1:
            flat = _unit(fresh.reshape(len(fresh), -1))
        if similarity is None:
            similarity = self._whole(flat)
        if nearness is None and units is not None:
            nearness = self.nearness(units)
        redundancy = self._redundancy(similarity, nearness)
        if len(fresh) > 1:
            among = self._redundancy(flat @ flat.T, None if units is None else units @ units.T)
        for row in range(len(fresh)):
            slot = int(redundancy[row].argmax())
            self._write(slot, fresh[row], norms[row], None if units is None else units[row])
            if row + 1 < len(fresh):  # the rows to come see what has just been stored
                redundancy[row + 1 :, slot] = among[row + 1 :, row]

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

    def _write(self, slot: int, row: Single, norms: Single, unit: Single | None) -> None:
        self._rows[slot] = row
        self._columns[:, :, slot] = row
        self._inverse_norms[:, slot] = 1 / norms
        if self._embeddings is not None:
            if unit is None:
                raise UserError("expert-map store: it was set up with embeddings, but an entry comes without one")
            self._embeddings[slot] = unit


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
        """Add what the router of the next layer said, `[T, J]`."""
        self._layer += 1
        store = self._store
        self._dots += probs @ store._columns[self._layer, :, : store.count]
        self._squares += np.vecdot(probs, probs)

    def scores(self) -> Single:
        """`[T, count]` cosine of what was seen with the same prefix of every entry."""
        norms: Single = np.sqrt(self._squares)
        scores: Single = self._projections() / norms[:, None]
        return scores

    def best(self) -> Nearest:
        """Eq. 5: the nearest entry to each row."""
        projections = self._projections()  # which of them is the largest does not depend on the row's own norm
        index = projections.argmax(axis=1)
        return Nearest(index, projections[self._rows, index] / np.sqrt(self._squares))

    def _projections(self) -> Single:
        projections: Single = self._dots * self._store._inverse_norms[self._layer, : self._store.count]
        return projections


def sample(records: Iterable[Records], count: int, rng: np.random.Generator) -> list[Records]:
    """Up to `count` of the records, each as likely as any other; they are read once and only the sample is held."""
    maps: list[Float] = []
    embeddings: list[Float] = []
    seen = 0
    for some, vectors in records:
        places = rng.integers(0, np.arange(seen, seen + len(some)) + 1)  # reservoir sampling
        for row, place in enumerate(places.tolist()):
            if seen + row < count:
                place = seen + row
                maps.append(some[row])
                embeddings += () if vectors is None else (vectors[row],)
            elif place < count:
                maps[place] = some[row].copy()  # not a view, which would hold the whole request
                if vectors is not None:
                    embeddings[place] = vectors[row].copy()
        seen += len(some)
    return [(np.stack(maps), np.stack(embeddings) if embeddings else None)] if maps else []


def nearest(scores: Single) -> Nearest:
    """The best of the entries by their scores `[R, count]`."""
    index = scores.argmax(axis=1)
    return Nearest(index, scores[np.arange(len(scores)), index])


def _unit(vectors: Float) -> Single:
    """`[R, h]` scaled to length one; a zero vector stays zero."""
    vectors = vectors.astype(np.float32, copy=False)
    lengths = np.sqrt(np.einsum("rh,rh->r", vectors, vectors))
    lengths[lengths == 0] = 1
    unit: Single = np.divide(vectors, lengths[:, None], dtype=np.float32)
    return unit
