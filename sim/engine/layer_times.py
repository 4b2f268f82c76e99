"""Clock times of the running layer's experts, and how they split the layer's time."""

from collections.abc import Sequence

from policies.types import Demand
from sim.engine.time_split import LayerWaits


class LayerTimes:
    """When the running layer's experts arrived and were computed; `waits` are those of the iteration so far.

    `slots` `[G]` is the number of slots of each GPU, `processors` `[G]` the processor that computes its experts.
    """

    def __init__(self, slots: Sequence[int], processors: Sequence[int]) -> None:
        self.waits = LayerWaits(slots)
        self._processors = processors
        self._home: Sequence[int] = ()  # [J] GPU of each expert
        self._arrived_s: dict[int, float] = {}  # arrival of each expert, in order of arrival
        self._given_s: dict[int, float] = {}  # when each expert was queued to be computed
        self._work_s: dict[int, float] = {}  # computing time of each expert
        self._free_s: dict[int, float] = {}  # end of each processor's last expert

    def begin(self, home: Sequence[int]) -> None:
        """A layer begins; `home` `[J]` is the GPU of each expert."""
        self._home = home
        self._arrived_s.clear()
        self._given_s.clear()
        self._work_s.clear()

    def arrived(self, expert: int, at_s: float) -> None:
        """An expert that the layer waited for has arrived."""
        self._arrived_s[expert] = at_s

    def given(self, expert: int, at_s: float) -> None:
        """An expert may be computed from now on."""
        self._given_s[expert] = at_s

    def computed(self, expert: int, at_s: float) -> None:
        """An expert has been computed; its processor began it as soon as it was free."""
        processor = self._processors[self._home[expert]]
        self._work_s[expert] = at_s - max(self._given_s[expert], self._free_s.get(processor, 0.0))
        self._free_s[processor] = at_s

    def ended(self, demand: Demand, start_s: float, *, at_once: bool) -> float:
        """All experts have been computed, from `start_s` on; returns the time of computing and waiting.

        `at_once`: experts were computed as they arrived, not after the last arrival.
        """
        work_s, home, waits = self._work_s, self._home, self.waits
        resident_s = dict.fromkeys(self._processors, 0.0)
        for expert, seconds in work_s.items():
            resident_s[self._processors[home[expert]]] += seconds
        shortest_s, before_s = max(resident_s.values()), sum(waits.seconds)
        waits.begin_layer(demand, home, start_s + shortest_s if at_once else start_s)
        busy_s = dict.fromkeys(self._processors, start_s)
        for expert, at_s in self._arrived_s.items():
            processor = self._processors[home[expert]]
            busy_s[processor] = max(busy_s[processor], at_s) + (work_s[expert] if at_once else 0.0)
            waits.arrived(expert, home[expert], busy_s[processor])
        return shortest_s + sum(waits.seconds) - before_s
