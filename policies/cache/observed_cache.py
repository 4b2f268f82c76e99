"""A cache that reports every call with its answer to observers, such as the decision log."""

from collections.abc import Sequence
from typing import Any, Protocol

from typing_extensions import override

from policies.base import Evictor
from policies.cache.device import Device, Shared
from policies.cache.expert_cache import ExpertCache
from policies.types import Batch, Copy, Demand, ModelShape, Prefetch


class Observer(Protocol):
    """Is notified of every call on an `ObservedCache` after it has been answered."""

    def called(self, cache: ExpertCache, now_s: float, call: str, given: Any, answer: Any) -> None:
        """`given` is the argument of the call: a batch, a layer with experts, a plan, a GPU or a copy."""
        ...


class ObservedCache(ExpertCache):
    """An `ExpertCache` with observers; it decides nothing differently."""

    def __init__(self, model: ModelShape, evictor: Evictor, *, observers: Sequence[Observer], **choices: Any) -> None:
        super().__init__(model, evictor, **choices)
        self._observers = observers

    @override
    def begin_iteration(self, batch: Batch, now_s: float) -> None:
        super().begin_iteration(batch, now_s)
        self.notify(now_s, "begin_iteration", batch, None)

    @override
    def demand(self, layer: int, experts: Sequence[int], now_s: float) -> Demand:
        answer = super().demand(layer, experts, now_s)
        self.notify(now_s, "demand", (layer, experts), answer)
        return answer

    @override
    def release(self, layer: int, experts: Sequence[int], at_s: float, now_s: float) -> None:
        """Observers receive the time at which the release takes effect."""
        super().release(layer, experts, at_s, now_s)
        self.notify(at_s, "release", (layer, experts), None)

    @override
    def plan(self, prefetch: Prefetch, now_s: float) -> None:
        super().plan(prefetch, now_s)
        self.notify(now_s, "plan", prefetch, None)

    def notify(self, now_s: float, call: str, given: Any, answer: Any) -> None:
        """Notify all observers of a call."""
        for observer in self._observers:
            observer.called(self, now_s, call, given, answer)

    @override
    def _device(self, gpu: int, slots: int, shared: Shared) -> Device:
        return _ObservedDevice(self, gpu, slots, shared)


class _ObservedDevice(Device):
    """A `Device` whose calls its cache reports to observers."""

    def __init__(self, cache: ObservedCache, gpu: int, slots: int, shared: Shared) -> None:
        super().__init__(gpu, slots, shared)
        self._cache = cache

    @override
    def next_copy(self, now_s: float) -> Copy | None:
        """Not reported if there is nothing to move."""
        answer = super().next_copy(now_s)
        if answer is not None or self.stalled:
            self._cache.notify(now_s, "next_copy", self.gpu, answer)
        return answer

    @override
    def copied(self, copy: Copy, now_s: float) -> bool:
        answer = super().copied(copy, now_s)
        self._cache.notify(now_s, "copied", copy, answer)
        return answer
