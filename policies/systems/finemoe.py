"""FineMoE: prefetch by expert-map search, evict by belief and frequency (paper §4).

Where paper and authors' demo differ, the default follows the paper and a setting of `finemoe` has the other way:

    what                                    paper                       demo                          ours
    ----                                    -----                       ----                          ----
    selected of a found map (eq. 7, 8)      until the sum exceeds δ     while the sum is ≤ δ          `threshold`
    queued                                  the selected                every expert; δ orders only   `queue`
    a trajectory match guides               the layer d ahead           all layers beyond d           `reach`
    the first layer that it guides          d                           d + 1: nothing guides d       as the paper
    weight by layer (eq. 10)                p / distance when copied    linear, fixed when queued     as the paper
    a prefill is                            one record, unsaid how      a record per prompt token     `prefill_records`
    of which a trajectory search sees       not said                    the last                      all its records
    and which are planned                   not said                    each, in turn                 their maximum
    freq (eq. 11) counts                    cache visits                visits that hit               `count_misses`
    freq and p of what is dropped           not said                    start anew                    `reset_on_evict`
    p · freq                                a real number               truncated to an integer       as the paper
    the store offline                       learns                      is not updated                `learn`

Order of this file: the prefetcher (prediction, prediction of whole blocks, learning), the policy. The evictor is in
`policies/evictors/belief_frequency.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.evictors.belief_frequency import BeliefAndFrequency, InCacheFrequency
from policies.prediction.expert_map_store import ExpertMapStore, Records, Single, Trajectory, nearest, sample
from policies.prediction.selection import Threshold, plan, plans, select
from policies.types import Batch, Float, Found, Gate, Int, Learned, Nearest, Prefetch, RecordedRequest, Search, Setup

Fill = Literal["random", "redundancy"]
PrefillRecords = Literal["token", "iteration"]
Queue = Literal["selected", "all"]
Reach = Literal["layer", "rest"]

QUEUED_WEIGHT = 1e-6  # of the demo's experts that are not selected
FILL_ROWS = 256  # records of the history that enter the store at once


class ExpertMapPrefetcher(Prefetcher):
    """Semantic search guides the first `prefetch_distance` layers d, trajectory search each later one from d before it.

    The store begins with a "random" sample of the history, or with all of it in order under "redundancy" replacement
    (`fill`; the paper does not say, and the sample predicts better); with `learn`, each iteration enters when it ends
    (eq. 9). Without embeddings, or without `semantic`, the trajectory guides alone. `prefill_records` says what a
    prefill is made of: one record per "token" (as the authors' demo), or one per "iteration", the mean of its tokens.
    `threshold`, `queue` and `reach`: see the table above.
    """

    def __init__(
        self,
        *,
        prefetch_distance: int = 3,
        capacity: int = 1000,
        learn: bool = True,
        fill: Fill = "random",
        prefill_records: PrefillRecords = "token",
        semantic: bool = True,
        threshold: Threshold = "exceed",
        queue: Queue = "selected",
        reach: Reach = "layer",
    ) -> None:
        self.prefetch_distance = prefetch_distance
        self.capacity = capacity
        self.learn = learn
        self.fill = fill
        self.prefill_records = prefill_records
        self.semantic = semantic
        self.threshold = threshold
        self.queue = queue
        self.reach = reach
        self.block = 1 if learn else 64

    def start(self, setup: Setup) -> None:
        """Fill the store from the history."""
        model = setup.model
        if not 1 <= self.prefetch_distance <= model.layers:
            raise UserError(f"finemoe: prefetch_distance {self.prefetch_distance} is not in 1 … {model.layers}")
        if self.capacity < 1:
            raise UserError(f"finemoe: capacity {self.capacity}: the store needs room for at least 1 map")
        self._model = model
        self._store: ExpertMapStore | None = None
        self._trajectory: Trajectory | None = None
        self._blocks: dict[int, _Answers] = {}
        self._answers: _Answers | None = None
        self._nearness: Single | None = None  # of this iteration's embeddings, [R, count]
        learned = setup.learned(lambda: self._filled(setup))
        if learned:
            embeddings = learned.get("embeddings")
            self._store = self._new_store(None if embeddings is None else embeddings.shape[1])
            self._store.restore(learned)

    def _filled(self, setup: Setup) -> Learned:
        """What the store holds of the history; nothing without one."""
        store: ExpertMapStore | None = None
        records: Iterable[Records] = (self._recorded(recorded) for recorded in setup.history or ())
        if self.fill == "random":
            records = sample(records, self.capacity, setup.rng)
        for maps, embeddings in records:
            store = store or self._new_store(None if embeddings is None else embeddings.shape[1])
            for first in range(0, len(maps), FILL_ROWS):
                some = slice(first, first + FILL_ROWS)
                store.add(maps[some], None if embeddings is None else embeddings[some])
        return {} if store is None else store.arrays()

    def _recorded(self, recorded: RecordedRequest) -> Records:
        """The records that a request would have left."""
        group = np.where(recorded.iteration == 0, 0, np.arange(len(recorded.token)))
        maps = self._records(recorded.gate.astype(np.float32), group)
        return maps, self._embedded(recorded.embedding, group)

    # ---- prediction ----------------------------------------------------------------------------------------------

    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        """Search by embedding, for the layers that no trajectory can guide in time."""
        store = self._store
        if store is None:
            return ()
        self._answers = self._blocks.pop(batch.iteration, None)
        self._nearness = None
        self._embeddings = self._embedded(batch.embedding, batch.row)
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
            self._nearness = self._store.nearness(self._embeddings)
            return nearest(self._nearness)
        if self._answers is not None:
            return self._answers.found[search.layer]
        assert self._trajectory is not None
        return self._trajectory.best()

    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        """Plan the layers that the search was for and that have not been gated meanwhile."""
        assert self._store is not None
        assert isinstance(found, Nearest)
        if search.kind == "semantic":
            first, end = 0, self.prefetch_distance
        else:
            first = search.layer + self.prefetch_distance
            end = first + 1 if self.reach == "layer" else self._model.layers
        first = max(first, layer_now + 1)
        if first >= end:
            return ()
        if self._answers is not None and first in self._answers.plans:
            return (self._answers.plans[first],)
        if len(found.index) == 1 and end == first + 1 and self.queue == "selected":
            row = self._store.maps(found.index[0], first)
            return (plan(first, row, found.score[0], self._model.top_k, self.threshold),)
        probs = self._store.maps(found.index[:, None], np.arange(first, end))
        return self._plans(probs, found.score[:, None].repeat(end - first, axis=1), first, [0])

    def _plans(self, probs: Float, score: Float, first: int, starts: Sequence[int]) -> list[Prefetch]:
        """Plans of the layers from `first` on, one iteration after the other.

        `probs` `[R, layers, J]` and `score` `[R, layers]` are the found maps of all records, and `starts` the first
        record of each iteration. Each record selects by its own δ.
        """
        selected = select(probs, score, self._model.top_k, self.threshold)
        if self.queue == "all":
            return plans(np.where(selected, probs, 0) + QUEUED_WEIGHT, probs, first, starts)
        return plans(np.where(selected, probs, -1.0), probs, first, starts)

    def _embedded(self, embedding: Float | None, group: Int) -> Float | None:
        """The embeddings of the records, if the search is to use them."""
        return self._records(embedding, group) if self.semantic and embedding is not None else None

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
        planned: list[Prefetch] = []  # the one layer that each search guides
        if self.reach == "layer":
            probs = store.maps(index[:, :ahead], np.arange(distance, self._model.layers))
            planned = self._plans(probs, score[:, :ahead], distance, starts)
        for number, (batch, start, count) in enumerate(zip(batches, starts, counts, strict=True)):
            rows = slice(start, start + count)
            own = {each.layer: each for each in planned[number * ahead : (number + 1) * ahead]}
            found = [Nearest(*answer) for answer in zip(index[rows].T, score[rows].T, strict=True)]
            self._blocks[batch.iteration] = _Answers(found, similarity[rows], own)

    # ---- learning ------------------------------------------------------------------------------------------------

    def on_batch_end(self, batch: Batch, maps: Float, experts: Int) -> Iterable[Search]:
        """Store the iteration's records."""
        if not self.learn:
            return ()
        similarity = None
        if self._answers is not None:
            similarity = self._answers.similarity
        elif self._trajectory is not None:
            similarity = self._trajectory.scores()
        embeddings = self._embedded(batch.embedding, batch.row)
        records = self._records(maps, batch.row)
        self._remember(records, embeddings, similarity, self._nearness)
        assert self._store is not None
        dims = self._model.total_experts + (0 if embeddings is None else self._model.hidden)
        return (Search("update", self._model.layers - 1, len(records), dims, self._store.count),)

    def _remember(
        self,
        maps: Float,
        embeddings: Float | None,
        similarity: Single | None = None,
        nearness: Single | None = None,
    ) -> None:
        if self._store is None:
            self._store = self._new_store(None if embeddings is None else embeddings.shape[1])
        self._store.add(maps, embeddings, similarity, nearness)

    def _new_store(self, hidden: int | None) -> ExpertMapStore:
        """An empty store; `hidden` is the size of embeddings, None without them."""
        if hidden is None and self.semantic:
            self.note = "the trace has no embeddings: by trajectory only, nothing guides the first layers"
        try:
            return ExpertMapStore(
                self._model.layers,
                self._model.experts,
                capacity=self.capacity,
                prefetch_distance=self.prefetch_distance,
                hidden=hidden,
            )
        except (MemoryError, ValueError):  # numpy's words for too much and for far too much
            raise UserError(f"finemoe: capacity {self.capacity}: the store does not fit into memory") from None


@dataclass(slots=True)
class _Answers:
    """What the searches of one iteration will say."""

    found: list[Nearest]  # [L]
    similarity: Single  # [R, count]
    plans: dict[int, Prefetch]  # by layer


def finemoe(
    prefetch_distance: int = 3,
    capacity: int = 1000,
    learn: bool = True,
    fill: Fill = "random",
    prefill_records: PrefillRecords = "token",
    semantic: bool = True,
    threshold: Threshold = "exceed",
    queue: Queue = "selected",
    reach: Reach = "layer",
    count_misses: bool = True,
    reset_on_evict: bool = False,
) -> Policy:
    """The paper's policy: asynchronous map search and prefetch, belief and frequency for eviction."""
    prefetcher = ExpertMapPrefetcher(
        prefetch_distance=prefetch_distance,
        capacity=capacity,
        learn=learn,
        fill=fill,
        prefill_records=prefill_records,
        semantic=semantic,
        threshold=threshold,
        queue=queue,
        reach=reach,
    )
    evictor = BeliefAndFrequency()
    if reset_on_evict or not count_misses:
        evictor = InCacheFrequency(count_misses=count_misses, reset_on_evict=reset_on_evict)
    return Policy(prefetcher=prefetcher, evictor=evictor)
