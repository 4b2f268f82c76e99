"""Where the time of an iteration goes: computing, exchange, overhead, and five kinds of waiting.

The parts add up to `end_s − start_s`. These are the rules, the same for both drivers:

* **prefetch wait**: from the beginning of a layer until a policy with `blocking_prefetch` lets it start.
* **search wait**: from the gate of a layer until the searches end that `blocking_prediction` waits for. The experts
  that are there are computed from then on.
* **miss, late and wave wait**: how much later the layer ends than if, from then on, every expert had been there in one
  wave. The experts that were not there are taken in the order in which they arrive. Each is charged with how much later
  the layer ends because this one came when it did and not at once, those after it being taken as there. So a copy that
  arrives while its GPU still computes others costs nothing, and of two that the layer waits for, the second is charged
  with what it took after the first. The kind is that of the expert that ends the wait: a **miss** had no copy under way
  when the router spoke, a **late** one had. Whatever delayed a missed expert on its link, such as a prefetch that was
  moving, counts for the miss. An expert of a later **wave** came after as many experts of its layer as its GPU has
  slots: its copy could begin only when one of these had been computed.
* **exchange**: activations between GPUs. Devices of one processor exchange nothing.
* **overhead**: what starting the operations takes on the path of a layer (of attention, of each expert of its longest
  GPU, of the head), and what a profile says of driving the offloading. In a real run it is the time that the model's
  thread spends in the driver without waiting and without computing an expert.
* **compute**: all the rest: attention, experts and head, as with every expert on its GPU. Where copies slow computing
  down, an expert counts with the time that it really took, as in a real run, which knows no other: being slowed down,
  if only by the copy of a missed expert, is computing and not waiting.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policies.types import Demand, Float

_MISS, _LATE, _WAVE = range(3)
_ROUNDING = 1e-12  # of the clock: what sums of times are off by


class KnownParts(NamedTuple):
    """The parts of an iteration that a driver knows, in seconds; computing is the rest."""

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
    """`PARTS` `[N, 8]` of N iterations, which add up to their times, from what was `KnownParts` `[N, 7]` of them.

    What is less than the rounding of the clock becomes 0; the largest part makes up for it.
    """
    total_s, rounding_s = end_s - start_s, _ROUNDING * end_s[:, None]
    known = np.where(measured > rounding_s, measured, 0.0)
    compute_s = total_s - known.sum(axis=1)
    parts = np.column_stack([np.where(compute_s > rounding_s[:, 0], compute_s, 0.0), known])
    parts[np.arange(len(parts)), parts.argmax(axis=1)] += total_s - parts.sum(axis=1)
    return parts


class LayerWaits:
    """How long the layers of an iteration waited for experts, by what they waited for.

    `slots` `[G]` are those of each GPU.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self.seconds = [0.0, 0.0, 0.0]
        """Of the iteration, for missed and late experts and for those of later waves."""
        self.end_s = 0.0
        """When the running layer would end if all that has not arrived yet had been there."""
        self._slots = slots

    def begin_iteration(self) -> None:
        """Nothing has been waited for."""
        self.seconds = [0.0, 0.0, 0.0]

    def all_missed(self, waited_s: float) -> None:
        """In place of `begin_layer` and `arrived`, for a layer of one wave without late experts: how long it waited."""
        if waited_s > 0:
            self.seconds[_MISS] += waited_s

    def begin_layer(self, demand: Demand, home: Sequence[int], end_s: float) -> None:
        """A layer begins to compute, and would end at `end_s` if every expert were there.

        Where experts are computed only when all are there, `end_s` is when it begins, as it then waits for the last of
        them. `home` `[J]` is the GPU of each expert.
        """
        self.end_s = end_s
        self._late = demand.late
        self._room: list[int] | None = None
        if demand.waves > 1:
            self._room = list(self._slots)
            for expert in demand.hits:
                self._room[home[expert]] -= 1

    def arrived(self, expert: int, gpu: int, end_s: float) -> None:
        """The next expert is there; its processor will have computed it at `end_s`.

        In a layer of one wave an arrival may be left out that does not end after `LayerWaits.end_s`. (A processor that
        ends after all would be computed, ends then whether or not it had others to compute before its first arrival.)
        """
        kind = _LATE if expert in self._late else _MISS
        if self._room is not None:
            self._room[gpu] -= 1
            if self._room[gpu] < 0:
                kind = _WAVE
        if end_s > self.end_s:
            self.seconds[kind] += end_s - self.end_s
            self.end_s = end_s
