"""MoE-Infinity: prefetch by the activation matrix of the whole request (baseline of paper §6.1).

Source: Xue et al., "MoE-Infinity: Activation-Aware Expert Offloading for Efficient MoE Serving", arXiv 2401.14361.
A request's counts of executed experts so far, `[L, J]`, are compared with those of past requests. The nearest matrix
predicts what the next layers will run; nearer layers are copied first.

Two systems have that name, and both are here:

    what                     `moe-infinity`: as papers compare it     `moe-infinity-code`: as its authors' code runs
    ----                     ------------------------------------     ----------------------------------------------
    a layer waits for        all experts planned for it               its own experts
    planned at each gate     the next `prefetch_distance` layers      all layers ahead
    planned of each layer    top_k per request; in a prefill all      every expert with a count
                             experts with a count
    order of copies          share of the counts / distance           share × linear decay, 1 − distance / (L + 1)
    the first layers         by popularity (paper §4.2)               nothing
    prediction               inference waits for it                   inference waits for it

How ours differs from both: the authors publish two eviction priorities. Ours resembles that of their C++ code (fewest
visits while in the cache), not that of their Python code (frequency × activation ratio × layer decay). It counts visits
since the start, as the LFU of paper §6.1, which works better here. We compare whole matrices by cosine; their code
averages the cosines of the layers ahead, of which a request has no counts yet in its prefill. Their code also queues
experts without a count, behind all others, and plans the requests of a batch one after the other. Ours leaves out such
experts, and an expert's weight is its largest share over the requests. Entering a matrix is not charged.

Order of this file: the prefetcher (callbacks, counting and planning, prediction of whole iterations), then the
policies. The collection of matrices is in `policies/prediction/activation_matrices.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from common.errors import UserError
from policies.base import Policy
from policies.evictors.frequency import LeastFrequentlyUsed
from policies.executed import tokens_by_expert
from policies.prediction.activation_matrices import ActivationMatrices, RunningRequest
from policies.prediction.answers import NOT_KEPT
from policies.prediction.block_prefetcher import BlockPrefetcher
from policies.prediction.cosine import Single
from policies.prediction.plan_arrays import Arrays, Plans, packed_plans, unpacked_plans
from policies.prediction.selection import highest, highest_plan, plans
from policies.types import (
    Batch,
    ChunkBytes,
    Found,
    Gate,
    Int,
    Iteration,
    Learned,
    Nearest,
    Prefetch,
    RecordedRequest,
    Search,
    Setup,
)


@dataclass(slots=True)
class _Answers:
    """The answers to the searches of one iteration."""

    entries: int  # matrices; 0: nothing is searched
    found: list[Nearest]  # by layer
    plans: Plans  # those by popularity, then those that follow each search, layer by layer


class ActivationMatrixPrefetcher(BlockPrefetcher[_Answers]):
    """Predict the layers ahead of each request from the nearest past request.

    It plans `top_k` experts per request and layer; in a prefill, whose tokens run most of a layer, all experts with a
    count. With `own_counts`, the request's own counts so far weigh as much as those of the past request. With
    `every_layer_ahead`, each gate plans all of the next `prefetch_distance` layers, otherwise only the last of them.
    With `as_code`, each gate plans all layers ahead and all experts with a count, and nothing guides the first layers.
    """

    def __init__(
        self,
        *,
        prefetch_distance: int = 3,
        capacity: int = 1000,
        own_counts: bool = False,
        every_layer_ahead: bool = True,
        as_code: bool = False,
    ) -> None:
        self.prefetch_distance = prefetch_distance
        self.capacity = capacity
        self.own_counts = own_counts
        self.every_layer_ahead = every_layer_ahead
        self.as_code = as_code

    @property
    @override
    def shares_predictions(self) -> bool:
        """True for short plans: a match counts when its search is issued, whenever that ends.

        Plans of all layers ahead cost more memory to keep than time to make again.
        """
        return not self.as_code

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        model = setup.model
        self._distance = model.layers if self.as_code else self.prefetch_distance
        self._guided = 0 if self.as_code else self._distance  # number of first layers planned by popularity
        if not 1 <= self._distance <= model.layers:
            wanted = f"must be from 1 to {model.layers}, not {self.prefetch_distance}"
            raise UserError(f"activation matrices: prefetch_distance: {wanted}")
        if self.capacity < 1:
            raise UserError(f"activation matrices: capacity: must be at least 1, not {self.capacity}")
        self._model = model
        self._shape = model.layers, model.experts
        self._answers: _Answers | None = None
        # The layers of an iteration's plans, and where the plans that follow each layer's search begin.
        ahead = [self._ahead(layer, layer) for layer in range(model.layers)]
        self._places = [*range(self._guided), *chain.from_iterable(ahead)]
        self._first = [*accumulate(map(len, ahead), initial=self._guided)]
        if setup.replayed:
            return
        self._matrices = ActivationMatrices(*self._shape, self.capacity)
        self._popularity: Single = np.zeros(self._shape, np.float32)
        self._popular: dict[bool, list[Prefetch]] = {}  # plans of the first layers, by whether it is a prefill
        # Plans of all layers, by the matrices found: the same ones are found for hundreds of gates in a row.
        self._of_matrices: dict[tuple[int | bool, ...], list[Prefetch]] = {}
        self._running: dict[int, RunningRequest] = {}
        for counts in setup.learned(lambda: self._counted(setup.history or ()))["counts"]:
            self._keep(counts)
        if not self._matrices.count:
            self.note = "no history: it predicts nothing before its first request has ended"

    def _counted(self, history: Iterable[RecordedRequest]) -> Learned:
        """`[n, L, J]` counts of the experts that each past request ran."""
        counts = [tokens_by_expert(recorded.experts, self._model.experts).astype(np.float32) for recorded in history]
        return {"counts": np.stack(counts) if counts else np.zeros((0, *self._shape), np.float32)}

    @override
    def on_request_start(self, request: int) -> None:
        if not self.prepared:
            self._begin(request)

    @override
    def on_request_end(self, request: int) -> None:
        if not self.prepared:
            self._end(request)

    @override
    def on_batch(self, batch: Batch) -> Iterable[Prefetch | Search]:
        if not self.prepared:
            return self._by_popularity(batch)
        self._answers = self.prepared[batch.iteration]
        return self._planned(0, self._guided)

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        layer = gate.layer
        if self._answers is None:
            self._count(batch, layer, gate.experts)
            entries = self._matrices.count
        else:
            entries = self._answers.entries
        if not entries or not self._ahead(layer, layer):
            return ()
        return (Search("match", layer, len(batch.request), self._model.total_experts, entries),)

    @override
    def search(self, search: Search) -> Found:
        if self._answers is None:
            return self._nearest()
        return self._answers.found[search.layer] if self._answers.found else NOT_KEPT

    @override
    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        assert isinstance(found, Nearest)
        layers = self._ahead(search.layer, layer_now)
        if not layers:
            return ()
        if self._answers is None:
            return self._by(found, layers)
        end = self._first[search.layer + 1]
        return self._planned(end - len(layers), end)

    def decayed(self, layer: int, expert: int, weight: float, distance: int) -> float:
        """The order of copies in the authors' code: the share of the counts, less for farther layers."""
        return weight * (1 - distance / (self._model.layers + 1))

    # ---- counting and planning -----------------------------------------------------------------------------------

    def _begin(self, request: int) -> None:
        self._running[request] = RunningRequest(self._shape, self._matrices)

    def _end(self, request: int) -> None:
        self._keep(self._running.pop(request).counts)
        for running in self._running.values():
            running.products = self._matrices.products(running.counts)

    def _by_popularity(self, batch: Batch) -> list[Prefetch]:
        """Plans of the first layers."""
        if not self._matrices.count or not self._guided:
            return []
        prefill = bool(batch.prefill.any())
        made = self._popular.get(prefill)
        if made is None:
            popular = self._popularity[None, : self._guided]
            popular = popular / popular.sum(axis=2, keepdims=True)
            made = self._popular[prefill] = plans(self._wanted(popular, [prefill]), popular, 0)
        return made

    def _wanted(self, probs: Single, all_counted: Sequence[bool]) -> Single:
        """The weights `[R, layers, J]` of planned experts, negative for all others.

        Planned are the top-k of a row, or every expert with a count where `all_counted` `[R]` is set.
        """
        weights: Single = highest(probs, self._model.top_k)
        if any(all_counted):
            some = probs[list(all_counted)]
            weights[list(all_counted)] = np.where(some > 0, some, -1)
        return weights

    def _count(self, batch: Batch, layer: int, experts: Int) -> None:
        """Count the `experts` `[T, K]` that a layer runs for each request."""
        if layer == 0:
            self._batch = [self._running[request] for request in batch.request.tolist()]
            self._plan_all_counted = [True] * len(self._batch) if self.as_code else batch.prefill.tolist()
        requests = self._batch
        for row, running in enumerate(requests):
            own = experts if len(requests) == 1 else experts[batch.row == row]
            fresh = tokens_by_expert(own[:, None], self._model.experts)[0]
            running.add(layer, fresh.astype(np.float32), self._matrices)

    def _nearest(self) -> Nearest:
        """The nearest matrix to each running request, by cosine."""
        if len(self._batch) == 1:
            running = self._batch[0]
            nearest = running.products.argmax(axis=0, keepdims=True)
            self._matrices.matched(nearest)
            counts = running.counts.reshape(-1)
            return Nearest(nearest, running.products[nearest] / np.sqrt(counts.dot(counts)))
        products = np.stack([running.products for running in self._batch])
        norms = np.array([np.linalg.norm(running.counts) for running in self._batch])
        index = products.argmax(axis=1)
        self._matrices.matched(index)
        return Nearest(index, products[np.arange(len(index)), index] / norms)

    def _by(self, found: Nearest, layers: range) -> list[Prefetch]:
        """Plans of these layers from the matrices found."""
        if self.own_counts:
            return self._by_own_counts_too(found, layers)
        key = (*found.index.tolist(), *self._plan_all_counted)
        made = self._of_matrices.get(key)
        if made is None:
            probs = self._matrices.rows[found.index]
            made = self._of_matrices[key] = plans(self._wanted(probs, self._plan_all_counted), probs, 0)
        return made[layers.start : layers.stop]

    def _by_own_counts_too(self, found: Nearest, layers: range) -> list[Prefetch]:
        if len(self._batch) == 1:
            most = self._model.experts if self._plan_all_counted[0] else self._model.top_k
            rows, counts = self._matrices.rows[found.index[0]], self._batch[0].counts
            each = [(layer, (rows[layer] + counts[layer] / np.maximum(counts[layer].sum(), 1)) / 2) for layer in layers]
            return [highest_plan(layer, probs, most) for layer, probs in each]
        some = slice(layers.start, layers.stop)
        own = np.stack([running.counts[some] for running in self._batch])
        probs = (self._matrices.rows[found.index, some] + own / np.maximum(own.sum(axis=2, keepdims=True), 1)) / 2
        return plans(self._wanted(probs, self._plan_all_counted), probs, layers.start)

    def _ahead(self, layer: int, layer_now: int) -> range:
        """The layers to plan after the gate of `layer`, less those that have been gated."""
        last = layer + self._distance
        first = layer + 1 if self.every_layer_ahead else last
        return range(max(first, layer_now + 1), min(last + 1, self._model.layers))

    def _keep(self, counts: Single) -> None:
        self._popularity += counts
        self._popular.clear()
        self._matrices.add(counts)
        self._of_matrices.clear()  # a matrix may have been replaced

    # ---- prediction of whole iterations, which other runs share --------------------------------------------------

    @override
    def predicted(self, iterations: Sequence[Iteration]) -> Iterable[_Answers]:
        """Count, search and plan gate by gate, as the callbacks do: another order of addition would change bits."""
        return map(self._answered, iterations)

    def _answered(self, iteration: Iteration) -> _Answers:
        for request in iteration.starting:
            self._begin(request)
        answers = _Answers(self._matrices.count, [], [*self._by_popularity(iteration.batch)])
        for layer in range(self._model.layers):
            self._count(iteration.batch, layer, iteration.experts[:, layer])
            ahead = self._ahead(layer, layer)
            if answers.entries and ahead:
                found = self._nearest()
                answers.found.append(found)
                answers.plans += self._by(found, ahead)
        if not answers.entries:
            answers.plans = [None] * len(self._places)
        for request in iteration.ending:
            self._end(request)
        return answers

    def _planned(self, begin: int, end: int) -> list[Prefetch]:
        """The plans at these places of the iteration."""
        assert self._answers is not None
        return [plan for plan in self._answers.plans[begin:end] if plan is not None]

    @override
    def packed(self, answers: Sequence[_Answers]) -> dict[str, NDArray[Any]]:
        entries = np.array([each.entries for each in answers], np.int32)
        return {"entries": entries, **packed_plans([each.plans for each in answers], self._model.experts)}

    @override
    def unpacked(self, arrays: Arrays) -> Iterable[_Answers]:
        charged = zip(arrays["entries"].tolist(), unpacked_plans(arrays, self._places), strict=True)
        return (_Answers(entries, [], plans) for entries, plans in charged)


def moe_infinity(
    prefetch_distance: int = 3,
    capacity: int = 1000,
    blocking_prefetch: bool = True,
    chunk_bytes: ChunkBytes | None = None,
) -> Policy:
    """Predict by the most similar past request, prefetch synchronously, evict by LFU: as papers compare it."""
    return Policy(
        prefetcher=ActivationMatrixPrefetcher(prefetch_distance=prefetch_distance, capacity=capacity),
        evictor=LeastFrequentlyUsed(),
        blocking_prediction=True,
        blocking_prefetch=blocking_prefetch,
        chunk_bytes=chunk_bytes,
    )


def moe_infinity_code(capacity: int = 1000, chunk_bytes: ChunkBytes | None = None) -> Policy:
    """As in its authors' code: at each gate queue all later layers; wait only for a layer's own experts."""
    prefetcher = ActivationMatrixPrefetcher(capacity=capacity, as_code=True)
    return Policy(
        prefetcher=prefetcher,
        evictor=LeastFrequentlyUsed(),
        blocking_prediction=True,
        chunk_bytes=chunk_bytes,
        copy_key=prefetcher.decayed,
    )
