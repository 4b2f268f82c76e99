"""A driver that records how long the parts of each pass take, as seen by the model's thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from policies.types import Batch, Float, Gate, Int
from validate.driver.threaded_driver import Driver


@dataclass(slots=True)
class LayerTimes:
    """One layer of one pass, in seconds."""

    gated_s: float  # when its router had run
    given_s: list[float]  # when each expert was in its slot, in the order of computation
    computed_s: list[float]  # when each had been computed
    hits: int  # how many of them, the first ones, were resident at once
    over_s: float = 0.0  # when the next layer could begin


@dataclass(slots=True)
class PassTimes:
    """One forward pass."""

    requests: int
    tokens: int
    first: bool  # whether it is the first of its generation
    begun_s: float
    layers: list[LayerTimes] = field(default_factory=list)
    ended_s: float = 0.0


class Stopwatch(Driver):
    """A driver that appends the times of each pass to `passes`; it decides nothing differently."""

    def __init__(self, *, passes: list[PassTimes], **given: Any) -> None:
        super().__init__(**given)
        self.passes = passes

    @override
    def begin_iteration(self, batch: Batch, starting: Sequence[int]) -> None:
        self.passes.append(
            PassTimes(len(batch.request), len(batch.token), bool(batch.prefill.any()), self._clock.now_s())
        )
        super().begin_iteration(batch, starting)

    @override
    def gated(self, gate: Gate, experts: Sequence[int]) -> Iterator[int]:
        now_s = self._clock.now_s
        gated_s, hits = now_s(), self.cache.counts.hits
        times = LayerTimes(gated_s, [], [], 0)
        for expert in super().gated(gate, experts):
            times.given_s.append(now_s())
            yield expert
            times.computed_s.append(now_s())
        times.hits = self.cache.counts.hits - hits
        times.over_s = now_s()
        self.passes[-1].layers.append(times)

    @override
    def end_iteration(self, maps: Float, experts: Int, ending: Sequence[int]) -> None:
        super().end_iteration(maps, experts, ending)
        self.passes[-1].ended_s = self._clock.now_s()
