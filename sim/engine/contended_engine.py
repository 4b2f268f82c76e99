"""The engine for contention: copies and computing slow each other down, so no end is known in advance."""

from functools import partial

from typing_extensions import override

from policies.base import Policy
from sim.engine.contended_work import ContendedWork
from sim.engine.engine import Engine
from sim.engine.expert_work import ExpertWork
from sim.engine.reused_event import Event
from sim.hardware.costs import Cost


def engine_for(cost: Cost) -> type[Engine]:
    """The engine class for these costs; the one without contention is faster."""
    return ContendedEngine if cost.effects.contended else Engine


class ContendedEngine(Engine):
    """`Engine` with contention. Attention of layer l runs on GPU l mod G, the head on the GPU of the last layer."""

    @override
    def _work_of(self, policy: Policy) -> ExpertWork:
        assert self._shared is not None
        self._attention_event = Event(self._env, self._attention_begins)
        self._head_event = Event(self._env, self._head_begins)
        return ContendedWork(
            self._env,
            self._cache,
            self._cost,
            self._shared,
            on_arrival=policy.compute_on_arrival,
            done=self._experts_done,
            wake=self._links.wake,
        )

    @override
    def _begin_first_layer(self) -> None:
        self._begin_layer_after(0.0)

    @override
    def _begin_next_layer(self, end_s: float, now_s: float) -> None:
        self._begin_layer_after(end_s - now_s + self._after_s)

    def _begin_layer_after(self, delay_s: float) -> None:
        if self._tell_layer:
            self._next_event.after(delay_s)
        else:
            self._attention_event.after(delay_s + self._layer_host_s)

    @override
    def _attend(self) -> None:
        self._attention_event.after(self._layer_host_s)

    @override
    def _finish(self, end_s: float, now_s: float) -> None:
        self._head_event.after(end_s - now_s + self._after_s)

    def _attention_begins(self, event: Event) -> None:
        self._compute(self._layer, self._attention_s, self._gate_event)

    def _head_begins(self, event: Event) -> None:
        self._compute(self._layers - 1, self._cost.head_s(len(self._batch.request)), self._end_event)

    def _compute(self, layer: int, seconds: float, then: Event) -> None:
        """Compute on the GPU of a layer's attention, and trigger the event at the end."""
        assert self._shared is not None
        self._shared.compute(layer % len(self._cache.devices), seconds, partial(then.after, 0.0))
