"""The state of every expert of the model: where it is, whether it is wanted, how far its copy is."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.types import ModelShape

ABSENT, COPYING, RESIDENT = 0, 1, 2
NEVER = float("inf")


@dataclass(slots=True)
class Counts:
    """Totals since the start. Copies that began as a prefetch end as useful, late, wasted or cancelled."""

    hits: int = 0
    late: int = 0  # each promotes a prefetch that was under way
    misses: int = 0
    prefetched: int = 0
    useful: int = 0  # demanded after they had arrived
    wasted: int = 0  # evicted before anything demanded them
    cancelled: int = 0  # abandoned between two chunks
    copies: int = 0
    evictions: int = 0
    bytes: int = 0

    @property
    def unused(self) -> int:
        """Prefetched copies, complete or under way, that nothing has demanded yet."""
        return self.prefetched - self.useful - self.late - self.wasted - self.cancelled


class Residency:
    """The state of each expert, numbered `layer * J + expert`, shared by the GPUs of an `ExpertCache`."""

    def __init__(self, model: ModelShape) -> None:
        total = model.total_experts
        self.layers, self.experts = model.layers, model.experts
        self.where = bytearray(total)  # ABSENT, COPYING or RESIDENT
        self.planned = bytearray(total)  # 1 if in the plan of its layer
        self.weight = [0.0] * total  # in that plan; kept for evictors that guard
        self.unused = bytearray(total)  # 1 if its copy began as a prefetch and nothing has demanded it yet
        self.arrived = [0] * total  # chunks, of a copy that is under way
        self.slot = [-1] * total
        self.last_use = [0] * total  # value of `events` at the last use; kept for evictors whose scores may tie
        self.events = 0  # demands and plans so far; between two of them, no expert is planned, withdrawn or touched
        self.layer_now = -1  # last gated layer of the running iteration
        self.pin_base = 0  # number of expert 0 of the running layer
        self.pinned: Sequence[int] = ()  # ids of its experts that are demanded and not released yet
        self.unpin_s = NEVER  # when they will be released, if that is known in advance
        self.counts = Counts()

    def complete(self) -> bool:
        """Whether all pinned experts of the running layer are resident."""
        return all(self.where[self.pin_base + expert] == RESIDENT for expert in self.pinned)

    def distance(self, layer: int) -> int:
        """Layers from the last gated one to `layer`; a layer that has been gated counts as in the next iteration."""
        distance = layer - self.layer_now
        return distance if distance > 0 else distance + self.layers
