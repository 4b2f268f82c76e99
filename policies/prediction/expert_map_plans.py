"""Make plans from the expert maps that searches found, for single searches and for whole iterations at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Literal

import numpy as np

from policies.prediction.answers import Answers
from policies.prediction.block_search import Block
from policies.prediction.expert_map_store import ExpertMapStore
from policies.prediction.selection import Threshold, plan, plans, select
from policies.types import Float, Int, ModelShape, Nearest, Prefetch

Queue = Literal["selected", "all"]
Reach = Literal["layer", "rest"]

QUEUED_WEIGHT = 1e-6  # of experts that the demo queues without selecting them
PLANNED_NUMBERS = 2_000_000  # at most so many probabilities are processed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMapPlanner:
    """Selects experts from the maps found, with the δ of each record."""

    model: ModelShape
    prefetch_distance: int
    threshold: Threshold
    queue: Queue
    reach: Reach

    def guided(self, layer: int) -> range:
        """The layers that the search after the gate of `layer` guides; −1 is the semantic search, before layer 0."""
        if layer < 0:
            return range(self.prefetch_distance)
        first = layer + self.prefetch_distance
        return range(first, first + 1 if self.reach == "layer" else self.model.layers)

    def plans(self, store: ExpertMapStore, found: Nearest, layers: range) -> list[Prefetch]:
        """Plans of these layers from what one search found."""
        if len(found.index) == 1 and len(layers) == 1 and self.queue == "selected":
            row = store.maps(found.index[0], layers.start)
            return [plan(layers.start, row, found.score[0], self.model.top_k, self.threshold)]
        probs = store.maps(found.index[:, None], np.arange(layers.start, layers.stop))
        return self._plans(probs, found.score[:, None].repeat(len(layers), axis=1), layers.start, [0])

    def answers(
        self, store: ExpertMapStore, maps: Float, embeddings: Float | None, counts: Sequence[int], *, learn: bool
    ) -> list[Answers]:
        """The answers for iterations with `counts` records each, `maps` `[R, L, J]` and `embeddings` `[R, h]`.

        With `learn`, each iteration enters the store when it ends.
        """
        starts = [0, *accumulate(counts)]
        entries = [min(store.count + start, store.capacity) if learn else store.count for start in starts]
        block = store.block(maps, embeddings, starts[:-1], learn=learn)
        by_search = self._by_search(store, block, starts)
        if learn:
            store.keep(block)
        answers = []
        for number, count in enumerate(counts):
            rows = slice(starts[number], starts[number + 1])
            found = [Nearest(*each) for each in zip(block.index[rows].T, block.score[rows].T, strict=True)]
            if block.nearest is not None:
                found.append(Nearest(block.nearest.index[rows], block.nearest.score[rows]))
            own = [search[number] for search in by_search]
            answers.append(Answers(count, entries[number], entries[number + 1], embeddings is not None, found, own))
        return answers

    def _by_search(self, store: ExpertMapStore, block: Block, starts: Sequence[int]) -> list[list[list[Prefetch]]]:
        """Plans by search and iteration; the semantic search is the last."""
        distance, last = self.prefetch_distance, self.model.layers - self.prefetch_distance

        def of_one_search(entry: Int, score: Float, layers: range) -> list[list[Prefetch]]:
            wide = len(layers)
            entry, score = entry[:, None].repeat(wide, axis=1), score[:, None].repeat(wide, axis=1)
            return self._plans_of(store, entry, score, layers.start, starts)

        if self.reach == "layer":  # one layer each, so they are planned together
            together = self._plans_of(store, block.entry[:, :last], block.score[:, :last], distance, starts)
            answer = [[[own[layer]] for own in together] for layer in range(last)]
        else:
            answer = [
                of_one_search(block.entry[:, layer], block.score[:, layer], self.guided(layer)) for layer in range(last)
            ]
        if block.nearest is not None:
            answer.append(of_one_search(block.nearest_entry, block.nearest.score, self.guided(-1)))
        return answer

    def _plans(self, probs: Float, score: Float, first: int, starts: Sequence[int]) -> list[Prefetch]:
        """Plans of the layers from `first` on, one iteration after the other.

        `probs` `[R, layers, J]` and `score` `[R, layers]` are of the maps found for all records; `starts` lists the
        first record of each iteration.
        """
        selected = select(probs, score, self.model.top_k, self.threshold)
        if self.queue == "all":
            return plans(np.where(selected, probs, 0) + QUEUED_WEIGHT, probs, first, starts)
        return plans(np.where(selected, probs, -1.0), probs, first, starts)

    def _plans_of(
        self, store: ExpertMapStore, entry: Int, score: Float, begin: int, starts: Sequence[int]
    ) -> list[list[Prefetch]]:
        """Per iteration, the plans of `n` layers from `begin` on, from the entries found `[R, n]` and their scores."""
        answer: list[list[Prefetch]] = [[] for _ in starts[1:]]
        rows, layers = entry.shape
        step = max(PLANNED_NUMBERS // (rows * self.model.experts), 1)
        for first in range(0, layers, step):
            end = min(first + step, layers)
            probs = store.maps(entry[:, first:end], np.arange(begin + first, begin + end))
            made = iter(self._plans(probs, score[:, first:end], begin + first, starts[:-1]))
            for own in answer:
                own += islice(made, end - first)
        return answer
