"""FineMoE: prefetch by expert-map search, evict by belief and frequency (paper §4).

Where the paper and the authors' demo differ, the default follows the paper, and a setting of `finemoe` follows the
demo:

    what                                    paper                       demo                          ours
    ----                                    -----                       ----                          ----
    experts selected of a map (eq. 7, 8)    until the sum exceeds δ     while the sum is ≤ δ          `threshold`
    experts queued                          the selected                all; δ only orders them       `queue`
    layers that a trajectory match guides   the layer d ahead           all layers beyond d           `reach`
    first layer that it guides              d                           d + 1: nothing guides d       as the paper
    weight by layer (eq. 10)                p / distance when copied    linear, fixed when queued     as the paper
    records of a prefill                    one; not said how           one per prompt token          `prefill_records`
    of these, a trajectory search uses      not said                    the last                      all
    of these, plans come from               not said                    each, in turn                 their maximum
    freq (eq. 11) counts                    cache visits                visits that hit               `count_misses`
    freq and p of an evicted expert         not said                    start anew                    `reset_on_evict`
    p · freq                                a real number               truncated to an integer       as the paper
    the store offline                       learns                      is not updated                `learn`

Order of this file: the prefetcher (prediction, prediction of whole blocks, predictions that runs share, learning), then
the policy. `policies/prediction/expert_map_plans.py` makes plans of the maps found; the evictor is in
`policies/evictors/belief_frequency.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from common.errors import UserError
from policies.base import Policy
from policies.evictors.belief_frequency import BeliefAndFrequency, InCacheFrequency
from policies.prediction.answers import Answers, packed, unpacked
from policies.prediction.block_prefetcher import BlockPrefetcher
from policies.prediction.cosine import Single, nearest
from policies.prediction.expert_map_plans import ExpertMapPlanner, Queue, Reach
from policies.prediction.expert_map_store import ExpertMapStore, Trajectory
from policies.prediction.past_records import PrefillRecords, RecordMaker, Records, sample
from policies.prediction.plan_arrays import Arrays
from policies.prediction.selection import Threshold
from policies.types import (
    Batch,
    ChunkBytes,
    Float,
    Found,
    Gate,
    Int,
    Iteration,
    Learned,
    Nearest,
    Prefetch,
    Search,
    Setup,
)

Fill = Literal["random", "redundancy"]

FILL_ROWS = 256  # records of the history that enter the store in one call


class ExpertMapPrefetcher(BlockPrefetcher[Answers]):
    """Guide the first `prefetch_distance` = d layers by semantic search, the others by trajectory search d before.

    `fill` says how the store begins: with a "random" sample of the history, or with all of it in order under
    "redundancy" replacement. The paper does not say; the sample predicts better. With `learn`, each iteration enters
    the store when it ends (eq. 9). Without embeddings, or without `semantic`, only trajectory search guides.
    `prefill_records` says what a prefill leaves: one record per "token" (as in the authors' demo), or one per
    "iteration", the mean of its tokens. `threshold`, `queue` and `reach`: see the table above.
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

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        model = setup.model
        if not 1 <= self.prefetch_distance <= model.layers:
            raise UserError(
                f"finemoe: prefetch_distance: must be from 1 to {model.layers}, not {self.prefetch_distance}"
            )
        if self.capacity < 1:
            raise UserError(f"finemoe: capacity: must be at least 1, not {self.capacity}")
        self._model = model
        self._planner = ExpertMapPlanner(
            model=model,
            prefetch_distance=self.prefetch_distance,
            threshold=self.threshold,
            queue=self.queue,
            reach=self.reach,
        )
        self._records = RecordMaker(self.prefill_records, embedded=self.semantic)
        self._store: ExpertMapStore | None = None
        self._trajectory: Trajectory | None = None
        self._answers: Answers | None = None
        self._nearness: Single | None = None  # of this iteration's embeddings, [R, count]
        if setup.replayed:
            return
        learned = setup.learned(lambda: self._filled(setup))
        if learned:
            embeddings = learned.get("embeddings")
            self._store = self._new_store(None if embeddings is None else embeddings.shape[1])
            self._store.restore(learned)

    def _filled(self, setup: Setup) -> Learned:
        """The entries of a store filled from the history; empty without one."""
        store: ExpertMapStore | None = None
        records: Iterable[Records] = map(self._records.of_request, setup.history or ())
        if self.fill == "random":
            records = sample(records, self.capacity, setup.rng)
        for maps, embeddings in records:
            store = store or self._new_store(None if embeddings is None else embeddings.shape[1])
            for first in range(0, len(maps), FILL_ROWS):
                some = slice(first, first + FILL_ROWS)
                store.add(maps[some], None if embeddings is None else embeddings[some])
        return {} if store is None else store.arrays()

    # ---- prediction ----------------------------------------------------------------------------------------------

    @override
    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        self._answers = answers = self.prepared.get(batch.iteration)
        if answers is not None:
            self._rows, self._entries, embedded = answers.rows, answers.entries, answers.embedded
        else:
            self._rows = self._records.count(batch)
            self._nearness = None
            self._embeddings = self._records.embeddings(batch.embedding, batch.row)
            self._entries, embedded = 0, self._embeddings is not None
            if self._store is not None:
                self._entries = self._store.count
                self._trajectory = self._store.trajectory(self._rows)
        if not self._entries or not embedded:
            return ()
        return (Search("semantic", -1, self._rows, self._model.hidden, self._entries),)

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        if not self._entries:
            return ()
        if self._answers is None:
            assert self._trajectory is not None
            self._trajectory.extend(self._records.of(gate.probs, batch.row))
        if gate.layer + self.prefetch_distance >= self._model.layers:
            return ()
        return (Search("trajectory", gate.layer, self._rows, self._model.experts, self._entries),)

    @override
    def search(self, search: Search) -> Found:
        if self._answers is not None:
            return self._answers.found[search.layer]
        if search.kind == "semantic":
            assert self._store is not None
            assert self._embeddings is not None
            self._nearness = self._store.nearness(self._embeddings)
            return nearest(self._nearness)
        assert self._trajectory is not None
        return self._trajectory.best()

    @override
    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        assert isinstance(found, Nearest)
        guided = self._planner.guided(search.layer)
        layers = range(max(guided.start, layer_now + 1), guided.stop)
        if not layers:
            return ()
        if self._answers is not None:
            return self._answers.plans[search.layer][layers.start - guided.start :]
        assert self._store is not None
        return self._planner.plans(self._store, found, layers)

    # ---- prediction of whole iterations at once ------------------------------------------------------------------

    @override
    def predicted(self, iterations: Sequence[Iteration]) -> Iterable[Answers]:
        """Search, plan and learn for coming iterations, so nothing is left to do when they end."""
        batches = [each.batch for each in iterations]
        records = [self._records.of(each.maps, each.batch.row) for each in iterations]
        embeddings = [self._records.embeddings(batch.embedding, batch.row) for batch in batches]
        counts = [len(each) for each in records]
        done = 0
        while done < len(batches):
            end = done + (self._store.together(counts[done:]) if self._store is not None else 1)
            given = [each for each in embeddings[done:end] if each is not None]
            yield from self._answered(
                _join(records[done:end]), _join(given) if len(given) == end - done else None, counts[done:end]
            )
            done = end

    def _answered(self, maps: Float, embeddings: Float | None, counts: list[int]) -> list[Answers]:
        """The answers for iterations with `counts` records each, `maps` `[R, L, J]` and `embeddings` `[R, h]`."""
        if self._store is not None:
            return self._planner.answers(self._store, maps, embeddings, counts, learn=self.learn)
        if self.learn:  # without a history, learning starts with the very first iteration
            self._remember(maps, embeddings)
        return [Answers(counts[0], 0, self._stored(), embeddings is not None, [], [])]

    def _stored(self) -> int:
        return 0 if self._store is None else self._store.count

    # ---- predictions that other runs share -----------------------------------------------------------------------

    @property
    @override
    def shares_predictions(self) -> bool:
        """False if it plans all layers beyond the distance: these plans are too many to keep."""
        return self.reach == "layer"

    @override
    def packed(self, answers: Sequence[Answers]) -> dict[str, NDArray[Any]]:
        return packed(answers, self._model.layers, self._model.experts)

    @override
    def unpacked(self, arrays: Arrays) -> Iterable[Answers]:
        return unpacked(arrays, self.prefetch_distance)

    # ---- learning ------------------------------------------------------------------------------------------------

    @override
    def on_batch_end(self, batch: Batch, maps: Float, experts: Int) -> Iterable[Search]:
        if not self.learn:
            return ()
        if self._answers is None:
            self._learn(batch, maps)
            embedded, stored = self._embeddings is not None, self._stored()
        else:
            embedded, stored = self._answers.embedded, self._answers.stored
        dims = self._model.total_experts + (self._model.hidden if embedded else 0)
        return (Search("update", self._model.layers - 1, self._rows, dims, stored),)

    def _learn(self, batch: Batch, maps: Float) -> None:
        similarity = None if self._trajectory is None else self._trajectory.scores()
        self._remember(self._records.of(maps, batch.row), self._embeddings, similarity, self._nearness)

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
            self.note = (
                "the trace has no embeddings, so it searches by trajectory only and "
                "predicts nothing for the first layers"
            )
        try:
            return ExpertMapStore(
                self._model.layers,
                self._model.experts,
                capacity=self.capacity,
                prefetch_distance=self.prefetch_distance,
                hidden=hidden,
            )
        except (MemoryError, ValueError):  # numpy raises one for too much, the other for far too much
            raise UserError(f"finemoe: capacity: a store of {self.capacity} maps does not fit into memory") from None


def _join(arrays: list[Float]) -> Float:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


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
    chunk_bytes: ChunkBytes | None = None,
) -> Policy:
    """The paper's policy: search expert maps and prefetch asynchronously, evict by belief and frequency."""
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
    return Policy(prefetcher=prefetcher, evictor=evictor, chunk_bytes=chunk_bytes)
