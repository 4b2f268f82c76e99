"""FineMoE: prefetch by expert-map search, evict by belief and frequency (paper §4).

Order of this file: the prefetcher (prediction, prediction of whole blocks, learning), the evictor, the policy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from policies.base import Evictor, Policy, Prefetcher, items
from policies.errors import UserError
from policies.selection import select
from policies.store import ExpertMapStore, Records, Single, Trajectory, sample
from policies.types import (
    Batch,
    Float,
    Found,
    Future,
    Gate,
    History,
    Int,
    ModelShape,
    Prefetch,
    RecordedRequest,
    Search,
)

BELIEF_FLOOR = 1e-6  # so that frequency decides among the improbable
FILL_ROWS = 256  # records of the history that enter the store at once


class ExpertMapPrefetcher(Prefetcher):
    """Semantic search guides the first `prefetch_distance` layers d, trajectory search each later one from d before it.

    The store begins with a "random" sample of the history, or with all of it in order under "redundancy" replacement
    (`fill`; the paper does not say, and the sample predicts better); with `learn`, each iteration enters when it ends
    (eq. 9). Without embeddings the trajectory guides alone. `prefill_records` says what a prefill is made of: one
    record per "token" (as the authors' demo), or one per "iteration", the mean of its tokens.
    """

    def __init__(
        self,
        *,
        prefetch_distance: int = 3,
        capacity: int = 1000,
        learn: bool = True,
        fill: str = "random",
        prefill_records: str = "token",
    ) -> None:
        self.prefetch_distance = prefetch_distance
        self.capacity = capacity
        self.learn = learn
        self.fill = fill
        self.prefill_records = prefill_records
        self.block = 1 if learn else 64

    def start(
        self, model: ModelShape, history: History | None, future: Future | None, rng: np.random.Generator
    ) -> None:
        """Fill the store from the history."""
        _one_of("prefill_records", self.prefill_records, "token", "iteration")
        _one_of("fill", self.fill, "random", "redundancy")
        if not 1 <= self.prefetch_distance <= model.layers:
            raise UserError(f"finemoe: prefetch_distance {self.prefetch_distance} is not in 1 … {model.layers}")
        if self.capacity < 1:
            raise UserError(f"finemoe: capacity {self.capacity}: the store needs room for at least 1 map")
        self._model = model
        self._store: ExpertMapStore | None = None
        self._trajectory: Trajectory | None = None
        self._blocks: dict[int, _Answers] = {}
        self._answers: _Answers | None = None
        records: Iterable[Records] = (self._recorded(recorded) for recorded in history or ())
        if self.fill == "random":
            records = sample(records, self.capacity, rng)
        for maps, embeddings in records:
            for first in range(0, len(maps), FILL_ROWS):
                some = slice(first, first + FILL_ROWS)
                self._remember(maps[some], None if embeddings is None else embeddings[some])

    def _recorded(self, recorded: RecordedRequest) -> Records:
        """The records that a request would have left."""
        group = np.where(recorded.iteration == 0, 0, np.arange(len(recorded.token)))
        maps = self._records(recorded.gate.astype(np.float32), group)
        return maps, None if recorded.embedding is None else self._records(recorded.embedding, group)

    # ---- prediction ----------------------------------------------------------------------------------------------

    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        """Search by embedding, for the layers that no trajectory can guide in time."""
        store = self._store
        if store is None:
            return ()
        self._answers = self._blocks.pop(batch.iteration, None)
        self._embeddings = None if batch.embedding is None else self._records(batch.embedding, batch.row)
        if self._answers is None:
            self._rows = len(batch.token if self.prefill_records == "token" else batch.request)
            self._trajectory = store.trajectory(self._rows)
        else:
            self._rows = len(self._answers.similarity)
        if self._embeddings is None:
            return ()
        return (Search("semantic", -1, self._rows, self._model.hidden, store.count),)

    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        """Search with the layers seen so far, for the layer that is `prefetch_distance` ahead."""
        store = self._store
        if store is None:
            return ()
        if self._answers is None:
            assert self._trajectory is not None
            self._trajectory.extend(self._records(gate.probs, batch.row))
        if gate.layer + self.prefetch_distance >= self._model.layers:
            return ()
        return (Search("trajectory", gate.layer, self._rows, self._model.experts, store.count),)

    def search(self, search: Search) -> Found:
        """Eq. 4 or eq. 5 on what has been observed so far."""
        assert self._store is not None
        if search.kind == "semantic":
            assert self._embeddings is not None
            return self._store.semantic(self._embeddings)
        if self._answers is not None:
            return self._answers.found[search.layer]
        assert self._trajectory is not None
        return self._trajectory.best()

    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        """Plan the layers that the search was for and that have not been gated meanwhile."""
        assert self._store is not None
        if search.kind == "trajectory":
            layer = search.layer + self.prefetch_distance
            if layer <= layer_now:
                return ()
            if self._answers is not None:
                return (self._answers.plans[layer],)
            first, end = layer, layer + 1
        else:
            first, end = layer_now + 1, self.prefetch_distance
            if first >= end:
                return ()
        probs = self._store.maps(found.index[:, None], np.arange(first, end))
        return self._plans(probs, found.score[:, None].repeat(end - first, axis=1), first, [0])

    def _plans(self, probs: Float, score: Float, first: int, starts: Sequence[int]) -> list[Prefetch]:
        """Plans of the layers from `first` on, one iteration after the other.

        `probs` `[R, layers, J]` and `score` `[R, layers]` are the found maps of all records, and `starts` the first
        record of each iteration. Each record selects by its own δ; a weight, or belief, is the maximum over records.
        """
        weights = np.where(select(probs, score, self._model.top_k), probs, -1.0)
        layers, experts = probs.shape[1:]
        if len(starts) < len(probs):
            weights = np.maximum.reduceat(weights, starts, axis=0)
            probs = np.maximum.reduceat(probs, starts, axis=0)
        weights, beliefs = weights.reshape(-1, experts), probs.reshape(-1, experts).astype(np.float64)
        row, expert = np.nonzero(weights >= 0)
        end = row.searchsorted(np.arange(len(weights)), side="right").tolist()
        chosen, weight = expert.tolist(), weights[row, expert].tolist()
        plans, begin = [], 0
        for number, (stop, belief) in enumerate(zip(end, beliefs, strict=True)):
            layer = first + number % layers
            plans.append(Prefetch(layer, chosen[begin:stop], weight[begin:stop], belief))
            begin = stop
        return plans

    def _records(self, values: Float, group: Int) -> Float:
        """Per token `[T, …]` to per record `[R, …]`: the same, or the mean of each group; `group` `[T]` rises."""
        if self.prefill_records == "token" or len(group) == 1:
            return values
        starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
        sizes = np.diff(starts, append=len(group)).astype(np.float32)
        sums = np.add.reduceat(values.astype(np.float32), starts, axis=0)
        means: Float = sums / sizes.reshape(-1, *[1] * (values.ndim - 1))
        return means

    # ---- prediction of whole iterations at once ------------------------------------------------------------------

    def predict_block(self, batches: Sequence[Batch], maps: Sequence[Float]) -> None:
        """Search the trajectories of iterations to come layer by layer, all at once."""
        store, distance = self._store, self.prefetch_distance
        if store is None:
            return
        records = [self._records(each, batch.row) for batch, each in zip(batches, maps, strict=True)]
        counts = [len(each) for each in records]
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        index, score, similarity = store.block(records[0] if len(records) == 1 else np.concatenate(records))
        ahead = self._model.layers - distance
        probs = store.maps(index[:, :ahead], np.arange(distance, self._model.layers))
        plans = self._plans(probs, score[:, :ahead], distance, starts)
        for number, (batch, start, count) in enumerate(zip(batches, starts, counts, strict=True)):
            rows = slice(start, start + count)
            own = {plan.layer: plan for plan in plans[number * ahead : (number + 1) * ahead]}
            found = [Found(*answer) for answer in zip(index[rows].T, score[rows].T, strict=True)]
            self._blocks[batch.iteration] = _Answers(found, similarity[rows], own)

    # ---- learning ------------------------------------------------------------------------------------------------

    def on_batch_end(self, batch: Batch, maps: Float) -> Iterable[Search]:
        """Store the iteration's records."""
        if not self.learn:
            return ()
        similarity = None
        if self._answers is not None:
            similarity = self._answers.similarity
        elif self._trajectory is not None:
            similarity = self._trajectory.scores()
        embeddings = None if batch.embedding is None else self._records(batch.embedding, batch.row)
        records = self._records(maps, batch.row)
        self._remember(records, embeddings, similarity)
        assert self._store is not None
        dims = self._model.total_experts + (0 if embeddings is None else self._model.hidden)
        return (Search("update", self._model.layers - 1, len(records), dims, self._store.count),)

    def _remember(self, maps: Float, embeddings: Float | None, similarity: Single | None = None) -> None:
        if self._store is None:
            if embeddings is None:
                self.note = "the trace has no embeddings: by trajectory only, nothing guides the first layers"
            try:
                self._store = ExpertMapStore(
                    self._model.layers,
                    self._model.experts,
                    capacity=self.capacity,
                    prefetch_distance=self.prefetch_distance,
                    hidden=None if embeddings is None else embeddings.shape[1],
                )
            except (MemoryError, ValueError):  # numpy's words for too much and for far too much
                raise UserError(f"finemoe: capacity {self.capacity}: the store does not fit into memory") from None
        self._store.add(maps, embeddings, similarity)


@dataclass(slots=True)
class _Answers:
    """What the searches of one iteration will say."""

    found: list[Found]  # [L]
    similarity: Single  # [R, count]
    plans: dict[int, Prefetch]  # by layer


class BeliefAndFrequency(Evictor):
    """Eq. 11: drop the largest 1 / (p · freq) first, that is the smallest p · freq.

    p is the last prediction for the expert, 1/J before the first; freq counts the (iteration, layer) events that
    demanded it. An expert that nothing has demanded yet scores 0.
    """

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Nothing has been predicted or demanded."""
        super().start(model, future)
        shape = model.layers, model.experts
        belief, frequency = np.full(shape, 1 / model.experts), np.zeros(shape)
        self._rows = list(zip(belief, frequency, self.scores.reshape(shape), strict=True))  # of each layer
        self._items = items(belief), items(frequency), items(self.scores)
        self._floor = np.full(model.experts, BELIEF_FLOOR)

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count the event for each expert."""
        belief, frequency, scores = self._items
        base = layer * self.experts
        for expert in experts:
            x = base + expert
            count = frequency[x] + 1.0
            frequency[x] = count
            scores[x] = belief[x] * count

    def believe(self, layer: int, probs: Float) -> None:
        """Overwrite what was believed of the layer."""
        belief, frequency, scores = self._rows[layer]
        np.maximum(probs, self._floor, out=belief)
        np.multiply(belief, frequency, out=scores)


def finemoe(
    prefetch_distance: int = 3,
    capacity: int = 1000,
    learn: bool = True,
    fill: str = "random",
    prefill_records: str = "token",
) -> Policy:
    """The paper's policy: asynchronous map search and prefetch, belief and frequency for eviction."""
    prefetcher = ExpertMapPrefetcher(
        prefetch_distance=prefetch_distance,
        capacity=capacity,
        learn=learn,
        fill=fill,
        prefill_records=prefill_records,
    )
    return Policy(prefetcher=prefetcher, evictor=BeliefAndFrequency())


def _one_of(setting: str, value: str, *known: str) -> None:
    if value not in known:
        raise UserError(f"finemoe: {setting} {value!r} is none of {', '.join(known)}")
