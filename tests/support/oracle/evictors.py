"""What each system drops first: the expert with the smallest score."""

import math
from typing import Any

from tests.support.oracle.placement import Expert


class Evictor:
    """Hears what `docs/policies.md` says; an expert is (layer, expert)."""

    by_slot = False  # ties go by slots

    def __init__(self, instance: Any) -> None:
        self.instance, self.model = instance, instance.model

    def on_batch(self, iteration: dict[str, Any]) -> None: ...

    def touched(self, layer: int, experts: list[int], now_s: float) -> None: ...

    def loaded(self, key: Expert, now_s: float) -> None: ...

    def evicted(self, key: Expert) -> None: ...

    def believe(self, layer: int, belief: list[float]) -> None: ...

    def score(self, key: Expert) -> Any:
        return 0.0


class LeastRecentlyUsed(Evictor):
    def __init__(self, instance: Any) -> None:
        super().__init__(instance)
        self.last: dict[Expert, float] = {}

    def touched(self, layer: int, experts: list[int], now_s: float) -> None:
        self.last.update({(layer, expert): now_s for expert in experts})

    def loaded(self, key: Expert, now_s: float) -> None:
        self.last[key] = now_s

    def score(self, key: Expert) -> Any:
        return self.last.get(key, -math.inf), key[1]


class RanLast(LeastRecentlyUsed):
    """DeepSpeed's."""

    by_slot = True

    def loaded(self, key: Expert, now_s: float) -> None: ...

    def score(self, key: Expert) -> Any:
        return (self.last[key], key[1]) if key in self.last else (-math.inf, 0)


class ByLayer(LeastRecentlyUsed):
    """Mixtral-Offloading's as released."""

    def __init__(self, instance: Any) -> None:
        super().__init__(instance)
        slots, layers = instance.cache_experts, self.model.layers
        self.share = [slots // layers + (layer < slots % layers) for layer in range(layers)]
        self.held: list[set[int]] = [set() for _ in range(layers)]
        self.gated_last = -1

    def touched(self, layer: int, experts: list[int], now_s: float) -> None:
        super().touched(layer, experts, now_s)
        self.gated_last = layer
        self.held[layer].update(experts)

    def loaded(self, key: Expert, now_s: float) -> None:
        super().loaded(key, now_s)
        self.held[key[0]].add(key[1])

    def evicted(self, key: Expert) -> None:
        self.held[key[0]].discard(key[1])

    def score(self, key: Expert) -> Any:
        over = len(self.held[key[0]]) > self.share[key[0]]
        rank = 0 if over and key[0] == self.gated_last else 1 if over else 2
        return rank, *super().score(key)


class LeastFrequentlyUsed(Evictor):
    def __init__(self, instance: Any) -> None:
        super().__init__(instance)
        self.uses: dict[Expert, int] = {}
        self.fetched: set[Expert] = set()

    def touched(self, layer: int, experts: list[int], now_s: float) -> None:
        for expert in experts:
            self.uses[layer, expert] = self.uses.get((layer, expert), 0) + 1
            self.fetched.discard((layer, expert))

    def loaded(self, key: Expert, now_s: float) -> None:
        self.fetched.add(key)

    def evicted(self, key: Expert) -> None:
        self.fetched.discard(key)

    def score(self, key: Expert) -> Any:
        return self.uses.get(key, 0) + 1.5 * (key in self.fetched)


class BeliefTimesFrequency(Evictor):
    """Eq. 11."""

    def __init__(self, instance: Any) -> None:
        super().__init__(instance)
        self.uses: dict[Expert, int] = {}
        self.belief: dict[int, list[float]] = {}

    def touched(self, layer: int, experts: list[int], now_s: float) -> None:
        for expert in experts:
            self.uses[layer, expert] = self.uses.get((layer, expert), 0) + 1

    def believe(self, layer: int, belief: list[float]) -> None:
        self.belief[layer] = belief

    def score(self, key: Expert) -> Any:
        layer, expert = key
        believed = self.belief[layer][expert] if layer in self.belief else 1 / self.model.experts
        return max(1e-6, believed) * self.uses.get(key, 0)


class Belady(Evictor):
    """What is demanded again last."""

    def __init__(self, instance: Any) -> None:
        super().__init__(instance)
        self.layer_now = -1
        self.steps = {
            request.request: [
                {
                    (layer, int(expert))
                    for layer in range(self.model.layers)
                    for expert in request.experts[request.iteration == iteration, layer].ravel()
                }
                for iteration in sorted(set(request.iteration.tolist()))
            ]
            for request in instance.requests
        }
        self.at: dict[int, int] = {}  # the step that each request is at

    def on_batch(self, iteration: dict[str, Any]) -> None:
        self.layer_now = -1
        running = [request.request for request in iteration["running"]]
        self.at = {request: self.at.get(request, -1) + 1 for request in running}
        order = list(self.steps)
        group = [request for request in order if request in running]
        batch, first = self.instance.batch_size, order.index(group[0])
        self.following = order[(first // batch + 1) * batch :]

    def touched(self, layer: int, experts: list[int], now_s: float) -> None:
        self.layer_now = layer

    def iterations_to(self, key: Expert) -> float:
        begin = int(key[0] <= self.layer_now)
        answers = [math.inf]
        for request, step in self.at.items():
            steps = self.steps[request]
            answers += [later - step for later in range(step + begin, len(steps)) if key in steps[later]][:1]
        left = max(len(self.steps[request]) - step for request, step in self.at.items())
        then = [step for request in self.following for step in self.steps[request]]
        answers += [left + later for later, step in enumerate(then) if key in step][:1]
        return min(answers)

    def score(self, key: Expert) -> Any:
        return -(self.iterations_to(key) * self.model.layers + key[0])
