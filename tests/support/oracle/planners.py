"""What each system plans (`docs/systems.md`)."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from policies.types import Search
from tests.support.oracle.evictors import Belady
from tests.support.oracle.placement import Expert

Wishes = Iterable[dict[str, Any]]


class Planner:
    """Plans nothing; what it overrides returns plans and searches as dicts.

    `doubts` counts answers of which two differ by rounding alone, so that either may be the larger.
    """

    doubts = 0

    def __init__(self, instance: Any) -> None:
        self.instance, self.model = instance, instance.model

    def on_batch(self, iteration: dict[str, Any]) -> Wishes:
        return ()

    def on_layer(self, iteration: dict[str, Any], layer: int) -> Wishes:
        return ()

    def on_gate(self, iteration: dict[str, Any], layer: int) -> Wishes:
        return ()

    def on_batch_end(self, iteration: dict[str, Any]) -> Wishes:
        return ()

    def copy_key(self, key: Expert, weight: float, distance: int) -> float:
        return weight / distance

    def nearest(self, scores: list[float]) -> tuple[int, float]:
        """The entry with the largest score."""
        best, *others = sorted(range(len(scores)), key=lambda entry: (-scores[entry], entry))
        if others and scores[best] - scores[others[0]] < 1e-6:
            self.doubts += 1
        return best, scores[best]


def plan(layer: int, weights: dict[int, float], belief: Any = None) -> dict[str, Any]:
    """Experts in rising order."""
    experts = sorted(weights)
    return {
        "layer": layer,
        "experts": experts,
        "weights": [float(weights[expert]) for expert in experts],
        "belief": None if belief is None else [float(each) for each in belief],
    }


def largest(chosen: Iterable[dict[int, float]]) -> dict[int, float]:
    """Of several tokens or requests the maximum counts."""
    answer: dict[int, float] = {}
    for weights in chosen:
        for expert, weight in weights.items():
            answer[expert] = max(weight, answer.get(expert, weight))
    return answer


def top(numbers: Any, count: int) -> dict[int, float]:
    order = sorted(range(len(numbers)), key=lambda expert: (-numbers[expert], expert))
    return {expert: numbers[expert] for expert in order[:count] if numbers[expert] > 0}


def cosine(one: Any, other: Any) -> float:
    one, other = np.ravel(one).astype(float), np.ravel(other).astype(float)
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else 0.0


def gate_of(request: Any, row: int) -> Any:
    return request.gate[row].astype(np.float32)


class DeepSpeed(Planner):
    def on_layer(self, iteration: dict[str, Any], layer: int) -> Wishes:
        return [plan(layer, dict.fromkeys(range(self.model.experts), 1.0))]


class PerfectPrefetch(Planner):
    def __init__(self, instance: Any, distance: int = 3) -> None:
        super().__init__(instance)
        self.distance, self.future = distance, Belady(instance)

    def on_batch(self, iteration: dict[str, Any]) -> Wishes:
        self.future.on_batch(iteration)
        return [self._exactly(layer, 0) for layer in range(min(self.distance, self.model.layers))]

    def on_gate(self, iteration: dict[str, Any], layer: int) -> Wishes:
        self.future.layer_now = layer
        ahead = layer + self.distance
        return [self._exactly(ahead % self.model.layers, ahead // self.model.layers)]

    def _exactly(self, layer: int, iterations: int) -> dict[str, Any]:
        experts = range(self.model.experts)
        return plan(layer, {each: 1.0 for each in experts if self.future.iterations_to((layer, each)) == iterations})


class FineMoE(Planner):
    def __init__(
        self,
        instance: Any,
        *,
        distance: int = 3,
        capacity: int = 1000,
        learn: bool = True,
        fill: str = "random",
        records: str = "token",
        semantic: bool = True,
        threshold: str = "exceed",
        queue: str = "selected",
        reach: str = "layer",
    ) -> None:
        super().__init__(instance)
        self.distance, self.capacity, self.learn, self.per = distance, capacity, learn, records
        self.threshold, self.queue, self.reach = threshold, queue, reach
        self.embeds = semantic and all(request.embedding is not None for request in instance.requests)
        self.store: list[tuple[Any, Any]] = []
        rng = np.random.default_rng(instance.seed)
        seen = 0
        for request in instance.history:
            made = self._records_of([(request, row) for row in range(len(request.token))])
            if fill == "redundancy":
                self._enter(made)
                continue
            places = rng.integers(0, np.arange(seen, seen + len(made)) + 1)
            seen += len(made)
            for record, place in zip(made, places, strict=True):
                if len(self.store) < capacity:
                    self.store.append(record)
                elif place < capacity:
                    self.store[place] = record

    def _record(self, rows: list[tuple[Any, int]]) -> tuple[Any, Any]:
        gates = np.array([gate_of(request, row).astype(float) for request, row in rows])
        passing = gates.any(axis=2).sum(axis=0)  # tokens that do not pass each layer by
        maps = gates.sum(axis=0) / np.maximum(1, passing)[:, None]
        embedding = None
        if self.embeds:
            embedding = np.mean([request.embedding[row].astype(float) for request, row in rows], axis=0)
        return embedding, maps

    def _records_of(self, rows: list[tuple[Any, int]]) -> list[tuple[Any, Any]]:
        """One per token, or one per request and iteration."""
        if self.per == "token":
            return [self._record([row]) for row in rows]
        together: dict[tuple[int, int], list[tuple[Any, int]]] = {}
        for request, row in rows:
            together.setdefault((request.request, int(request.iteration[row])), []).append((request, row))
        return [self._record(each) for each in together.values()]

    def on_batch(self, iteration: dict[str, Any]) -> Wishes:
        self.records = self._records_of([(request, row) for request, row, _ in iteration["rows"]])
        self.guided = bool(self.store)
        if not self.guided or not self.embeds:
            return []
        near = [self.nearest([cosine(record[0], other[0]) for other in self.store]) for record in self.records]
        search = Search("semantic", -1, rows=len(near), dims=self.model.hidden, entries=len(self.store))
        return [self._guiding(search, near, range(min(self.distance, self.model.layers)))]

    def on_gate(self, iteration: dict[str, Any], layer: int) -> Wishes:
        target = layer + self.distance
        if not self.guided or target >= self.model.layers:
            return []
        near = [
            self.nearest([cosine(record[1][: layer + 1], other[1][: layer + 1]) for other in self.store])
            for record in self.records
        ]
        search = Search("trajectory", layer, rows=len(near), dims=self.model.experts, entries=len(self.store))
        return [self._guiding(search, near, range(target, self.model.layers if self.reach == "rest" else target + 1))]

    def _guiding(self, search: Search, near: list[tuple[int, float]], layers: range) -> dict[str, Any]:
        found = [(self.store[index][1], score) for index, score in near]

        def plans(layer_now: int) -> Wishes:
            for layer in layers:
                if layer > layer_now:
                    chosen = [self._selected(maps[layer], min(1.0, max(0.0, 1 - score))) for maps, score in found]
                    yield plan(layer, largest(chosen), np.max([maps[layer] for maps, _ in found], axis=0))

        return {"search": search, "found": plans}

    def _selected(self, probs: Any, delta: float) -> dict[int, float]:
        order = sorted(range(len(probs)), key=lambda expert: (-probs[expert], expert))
        if not probs.any():
            return dict.fromkeys(order, 1e-6) if self.queue == "all" else {}
        chosen = order[: self.model.top_k]
        for place in range(self.model.top_k, len(order)):
            before = sum(probs[order[:place]]) + (probs[order[place]] if self.threshold == "demo" else 0)
            if self.threshold == "top-k" or before > delta:
                break
            chosen.append(order[place])
        weights = {expert: float(probs[expert]) for expert in chosen}
        if self.queue == "all":
            return {expert: weights.get(expert, 0.0) + 1e-6 for expert in order}
        return weights

    def on_batch_end(self, iteration: dict[str, Any]) -> Wishes:
        if not self.learn:
            return []
        self._enter(self.records)
        dims = self.model.layers * self.model.experts + (self.model.hidden if self.embeds else 0)
        rows, entries = len(self.records), len(self.store)
        return [{"search": Search("update", self.model.layers - 1, rows, dims, entries)}]

    def _enter(self, records: list[tuple[Any, Any]]) -> None:
        share = min(self.distance, self.model.layers) / self.model.layers if self.embeds else 0.0
        for record in records:
            if len(self.store) < self.capacity:
                self.store.append(record)
                continue
            redundancy = [
                share * (cosine(record[0], other[0]) if self.embeds else 0) + (1 - share) * cosine(record[1], other[1])
                for other in self.store
            ]
            self.store[self.nearest(redundancy)[0]] = record


class MoEInfinity(Planner):
    def __init__(self, instance: Any, *, distance: int = 3, capacity: int = 1000, code: bool = False) -> None:
        super().__init__(instance)
        self.distance, self.capacity, self.code = distance, capacity, code
        self.collection: list[dict[str, Any]] = []
        self.popularity = np.zeros((self.model.layers, self.model.experts))
        self.counts: dict[int, Any] = {}
        for request in instance.history:
            self._count(request, range(len(request.token)), range(self.model.layers))
            self._enter(self.counts.pop(request.request))

    def _count(self, request: Any, rows: Iterable[int], layers: Iterable[int]) -> None:
        counts = self.counts.setdefault(request.request, np.zeros((self.model.layers, self.model.experts)))
        for row in rows:
            for layer in layers:
                for expert in set(request.experts[row, layer].tolist()) - {-1}:
                    counts[layer, expert] += 1

    def _enter(self, counts: Any) -> None:
        self.popularity += counts
        entry = {"shares": shares(counts), "found": 0}
        if len(self.collection) < self.capacity:
            self.collection.append(entry)
            return
        place = min(range(len(self.collection)), key=lambda place: (self.collection[place]["found"], place))
        self.collection[place] = entry

    def on_batch(self, iteration: dict[str, Any]) -> Wishes:
        self.guided = bool(self.collection)
        if not self.guided or self.code:
            return []
        popular = shares(self.popularity)
        count = self.model.experts if any(iteration["prefill"]) else self.model.top_k
        return [plan(layer, top(popular[layer], count), popular[layer]) for layer in range(self.model.layers)][
            : self.distance
        ]

    def on_gate(self, iteration: dict[str, Any], layer: int) -> Wishes:
        for request, row, _ in iteration["rows"]:
            self._count(request, [row], [layer])
        if not self.guided or layer == self.model.layers - 1:
            return []
        found = []
        for request in iteration["running"]:
            scores = [cosine(self.counts[request.request], entry["shares"]) for entry in self.collection]
            best, _ = self.nearest(scores)
            self.collection[best]["found"] += 1
            found.append(self.collection[best]["shares"])
        last = self.model.layers - 1 if self.code else min(layer + self.distance, self.model.layers - 1)
        prefill = iteration["prefill"]

        def plans(layer_now: int) -> Wishes:
            for target in range(max(layer, layer_now) + 1, last + 1):
                chosen = [
                    top(each[target], self.model.experts if self.code or fills else self.model.top_k)
                    for each, fills in zip(found, prefill, strict=True)
                ]
                yield plan(target, largest(chosen), np.max([each[target] for each in found], axis=0))

        rows, dims = len(found), self.model.layers * self.model.experts
        search = Search("match", layer, rows=rows, dims=dims, entries=len(self.collection))
        return [{"search": search, "found": plans}]

    def on_batch_end(self, iteration: dict[str, Any]) -> Wishes:
        for request in iteration["ending"]:
            self._enter(self.counts.pop(request.request))
        return []

    def copy_key(self, key: Expert, weight: float, distance: int) -> float:
        return weight * (1 - distance / (self.model.layers + 1)) if self.code else weight / distance


def shares(counts: Any) -> Any:
    """As float32, whose rounding decides which of equal keys goes first."""
    numbers = counts.astype(np.float32)
    sums = numbers.sum(axis=1, keepdims=True)
    return np.divide(numbers, sums, out=np.zeros_like(numbers), where=sums > 0)


class Speculation(Planner):
    """ProMoE and Mixtral-Offloading."""

    def __init__(self, instance: Any, *, distance: int, lookahead: bool = True, learned: bool = True) -> None:
        super().__init__(instance)
        self.distance, self.lookahead = distance, lookahead
        self.learned = learned and bool(instance.history)
        self.maps: dict[tuple[int, int], tuple[Any, Any]] = {}

    def on_gate(self, iteration: dict[str, Any], layer: int) -> Wishes:
        strides = range(1, self.distance + 1) if layer == 0 else [self.distance]
        strides = [stride for stride in strides if layer + stride < self.model.layers]
        known = set(iteration["running"][0].lookahead) if self.lookahead else set()
        early = [stride for stride in strides if stride in known]
        late = [stride for stride in strides if stride not in known] if self.learned else []
        tokens, experts = iteration["tokens"], self.model.experts
        if early:
            search = Search("lookahead", layer, tokens, self.model.hidden, experts * len(early))
            yield self._planning(iteration, layer, early, search, self._read)
        if late:
            search = Search("speculate", layer, tokens, experts + 1, experts * len(late))
            yield self._planning(iteration, layer, late, search, self._guess)

    def _planning(self, iteration: dict[str, Any], layer: int, strides: Any, search: Search, says: Any) -> Any:
        def plans(layer_now: int) -> Wishes:
            for stride in strides:
                if layer + stride > layer_now:
                    said = [says(request, row, layer, stride) for request, row, _ in iteration["rows"]]
                    chosen = [top(each, self.model.top_k) for each in said]
                    yield plan(layer + stride, largest(chosen), np.max(said, axis=0))

        return {"search": search, "found": plans}

    def _read(self, request: Any, row: int, layer: int, stride: int) -> Any:
        return request.lookahead[stride][row, layer].astype(np.float32)

    def _guess(self, request: Any, row: int, layer: int, stride: int) -> Any:
        if (layer, stride) not in self.maps:
            self.maps[layer, stride] = self._learn(layer, stride)
        slopes, offsets = self.maps[layer, stride]
        root = np.sqrt(gate_of(request, row)[layer].astype(float))
        guess = np.clip(root @ slopes + offsets, 0, 1) / self.model.top_k
        unclipped = sorted(each for each in guess if 0 < each < 1 / self.model.top_k)
        self.doubts += any(high - low < 1e-6 for low, high in pairwise(unclipped))
        return guess

    def _learn(self, layer: int, stride: int) -> tuple[Any, Any]:
        """Ridge regression with an offset that costs nothing, of the tokens that execute the later layer."""
        rows = [
            (request, row)
            for request in self.instance.history
            for row in range(len(request.token))
            if request.experts[row, layer + stride].max() >= 0
        ]
        roots = np.array([np.sqrt(gate_of(request, row)[layer].astype(float)) for request, row in rows])
        ran = np.zeros((len(rows), self.model.experts))
        for place, (request, row) in enumerate(rows):
            ran[place, sorted(set(request.experts[row, layer + stride].tolist()) - {-1})] = 1
        middle, mean = roots.mean(axis=0), ran.mean(axis=0)
        centred = roots - middle
        slopes = np.linalg.solve(centred.T @ centred + np.eye(self.model.experts), centred.T @ (ran - mean))
        return slopes, mean - middle @ slopes
