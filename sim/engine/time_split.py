"""Where the time of an iteration goes: computing, exchange, overhead, and five kinds of waiting.

The parts add up to `end_s − start_s`. Both drivers use the same rules:

* **prefetch wait**: from the beginning of a layer until a policy with `blocking_prefetch` lets it start.
* **search wait**: from the gate of a layer until the searches that `blocking_prediction` waits for have ended. The
  present experts are computed from then on.
* **miss, late and wave wait**: how much later the layer ends than if every expert had been present in one wave from
  then on. Missing experts are taken in order of arrival. Each is charged with the delay of the layer's end that is due
  to its arrival, with all later experts taken as present. So a copy that arrives while its GPU still computes other
  experts costs nothing. If the layer waits for two copies, the second is charged only with the time after the first.
  The kind is that of the expert that ends the wait. A **miss** had no copy under way at the gate; a **late** expert
  had. A delay of a missed expert on its link, such as a moving prefetch, counts as part of the miss. An expert of a
  later **wave** came after its GPU's slots were full of experts of the same layer, so its copy could begin only after
  one of these had been computed.
* **exchange**: sending activations between GPUs. Devices of one processor exchange nothing.
* **overhead**: starting the operations on the path of a layer (attention, each expert of the longest GPU, the head),
  CPU time of the framework, and a profile's time to drive the offloading. In a real run, it is the time that the
  model's thread spends in the driver without waiting and without computing an expert.
* **compute**: all the rest: attention, experts and head, as if every expert were on its GPU. If copies slow computing
  down, an expert counts with the time that it really took, as in a real run. So a slowdown counts as computing, not as
  waiting, even if the copy of a missed expert causes it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policies.types import Demand, Float

_MISS, _LATE, _WAVE = range(3)
_ROUNDING = 1e-12  # relative rounding error of sums of times


class KnownParts(NamedTuple):
    """The parts of an iteration that a driver measures, in seconds; computing is the rest."""

    exchange_s: float
    overhead_s: float
    miss_wait_s: float
    late_wait_s: float
    wave_wait_s: float
    search_wait_s: float
    prefetch_wait_s: float


PARTS = ("compute_s", *KnownParts._fields)
WAITS = tuple(name for name in PARTS if name.endswith("_wait_s"))


def parts_of(start_s: Float, end_s: Float, measured: Float) -> Float:
    """The `PARTS` `[N, 8]` of N iterations, which add up to their times, from their `KnownParts` `[N, 7]`.

    Parts below the clock's rounding error become 0; the largest part makes up for them.
    """
    total_s, rounding_s = end_s - start_s, _ROUNDING * end_s[:, None]
    known = np.where(measured > rounding_s, measured, 0.0)
    compute_s = total_s - known.sum(axis=1)
    parts = np.column_stack([np.where(compute_s > rounding_s[:, 0], compute_s, 0.0), known])
    parts[np.arange(len(parts)), parts.argmax(axis=1)] += total_s - parts.sum(axis=1)
    return parts


class LayerWaits:
    """How long the layers of an iteration waited for experts, by kind of wait.

    `slots` `[G]` is the number of slots of each GPU.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self.seconds = [0.0, 0.0, 0.0]
        """The iteration's waits for missed experts, late experts, and experts of later waves."""
        self.end_s = 0.0
        """When the running layer would end if all experts that have not arrived yet were present."""
        self._slots = slots

    def begin_iteration(self) -> None:
        """Reset the waits."""
        self.seconds = [0.0, 0.0, 0.0]

    def all_missed(self, waited_s: float) -> None:
        """Add the wait of a layer of one wave without late experts, instead of `begin_layer` and `arrived`."""
        if waited_s > 0:
            self.seconds[_MISS] += waited_s

    def begin_layer(self, demand: Demand, home: Sequence[int], end_s: float) -> None:
        """A layer begins to compute, and would end at `end_s` if every expert were present.

        If experts are computed only after the last arrival, `end_s` is the time at which the layer begins, because it
        then waits for the last expert. `home` `[J]` is the GPU of each expert.
        """
        self.end_s = end_s
        self._late = demand.late
        self._room: list[int] | None = None
        if demand.waves > 1:
            self._room = list(self._slots)
            for expert in demand.hits:
                self._room[home[expert]] -= 1

    def arrived(self, expert: int, gpu: int, end_s: float) -> None:
        """The next expert has arrived; its processor will have computed it at `end_s`.

        In a layer of one wave, arrivals that do not end after `LayerWaits.end_s` may be left out. (If a processor ends
        later than that, its end does not depend on whether it computed others before its first arrival.)
        """
        kind = _LATE if expert in self._late else _MISS
        if self._room is not None:
            self._room[gpu] -= 1
            if self._room[gpu] < 0:
                kind = _WAVE
        if end_s > self.end_s:
            self.seconds[kind] += end_s - self.end_s
            self.end_s = end_s
